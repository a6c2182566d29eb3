"""The same methods under a protocol that leaks and one that does not: the table of README.md.

    python experiments/protocols.py [--rounds 50] [--out results/protocols]

Runs what is not there yet, one `fedem train` after the other, and prints a Markdown table with the
command beside each row. A folder without a summary is a run that was cut off; it is done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

DATASETS = ("ml-100k", "filmtrust", "lastfm-2k", "amazon-video")
METHODS = ("fedem", "local-only")
PROTOCOLS = ("paper", "leak-free")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="One table: methods x protocols x data sets.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("results/protocols"))
    options = parser.parse_args()
    rows = []
    for dataset, method, protocol in itertools.product(DATASETS, METHODS, PROTOCOLS):
        out = options.out / f"{dataset}-{method}-{protocol}"
        flags = ["--dataset", dataset, "--method", method, "--protocol", protocol]
        flags += ["--rounds", str(options.rounds), "--seed", "0"]
        if not (out / "summary.json").exists():
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, "-m", "fedem_jax", "train", *flags, "--out", str(out)]
            subprocess.run(command, check=True)
        summary = json.loads((out / "summary.json").read_text())
        rows.append(row(summary, "fedem train " + shlex.join(flags)))
    print(
        "| data set | method | protocol | HR@10 | NDCG@10 | HR@10, all items | NDCG@10, all items ",
        end="",
    )
    print("| round | fingerprint | command |")
    print("|---|---|---|---|---|---|---|---:|---|---|")
    print("\n".join(rows))


def row(summary: dict, command: str) -> str:
    """A run as a table row: test values at the best validation round, with their intervals."""
    headline = summary["headline"]
    cells = [summary["dataset"], summary["method"], summary["protocol"]]
    for part, metric in itertools.product(("test", "test_full"), ("hr@10", "ndcg@10")):
        low, high = headline["interval"][part][metric]
        cells.append(f"{headline[part][metric]:.3f} [{low:.3f}, {high:.3f}]")
    cells += [str(headline["round"]), summary["fingerprint"], f"`{command}`"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()

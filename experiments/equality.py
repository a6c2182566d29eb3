"""Prints digests of the results of six short runs and a small sweep.

A change that only moves or renames code must not change these lines, on the same machine:

    python experiments/equality.py > before.txt    # on the old commit
    python experiments/equality.py | diff before.txt -
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jax
import numpy as np

import fedem_jax as fj

METHODS = ("fedem", "fedmf", "fcf", "pfedrec", "gpfedrec", "fedrap")
ROUNDS = 4


def digest(*parts: bytes) -> str:
    """First 16 digits of the SHA-256 of the joined parts."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def of_state(state: Any) -> str:
    """Digest of all arrays of a state. The names of its fields do not matter."""
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    return digest(*sorted(f"{a.shape} {a.dtype} ".encode() + a.tobytes() for a in arrays))


def of_records(records: list[Any]) -> str:
    """Digest of the records of a run, without their seconds."""
    kept = [{name: value for name, value in r.items() if name != "seconds"} for r in records]
    return digest(json.dumps(kept, sort_keys=True).encode())


def main() -> None:
    for method in METHODS:
        config = fj.preset(dataset="synthetic", method=method, rounds=ROUNDS, seed=0)
        result = fj.run(config)
        metrics = of_records(json.loads(json.dumps(result.records, default=float)))
        print(f"{method:9} metrics {metrics}  state {of_state(result.state)}", flush=True)
    config = fj.preset(dataset="synthetic", method="fedmf", rounds=ROUNDS)
    trials = fj.sweep(config, ["lr_embedding=0.01,0.1", "dim=8,16"], seeds=2).trials
    table = trials.drop(columns=[name for name in trials if "seconds" in name])
    print(f"sweep     trials  {digest(table.to_csv(index=False).encode())}")


if __name__ == "__main__":
    main()

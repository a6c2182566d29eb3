"""`make noise`: what Laplace noise on uploads costs in accuracy, method by method.

Each method is a sweep over the scale of the noise, kept in a folder of its own, so that the script,
called again, runs what is missing. What a scale guarantees, and when, is in docs/privacy.md.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from rich.console import Console

from fedem_jax.cli import process
from fedem_jax.config.presets import preset
from fedem_jax.config.tuned import tuned
from fedem_jax.errors import UserError
from fedem_jax.evaluation.statistics import error_over_clients
from fedem_jax.report import curves as plots
from fedem_jax.storage.files import disk_errors
from fedem_jax.sweep.description import Sweep
from fedem_jax.sweep.progress import Watch
from fedem_jax.sweep.run import SweepResult, run_sweep
from fedem_jax.sweep.space import space

METHODS = ("fedem", "fedmf", "pfedrec")
"""Methods whose uploads may be noisy, and that are drawn unless others are asked for."""


@dataclass(frozen=True)
class Noise:
    """Draw HR@K against the scale of the Laplace noise that clients add to every number of an
    upload. Writes table.md and noise.png. Called again, it runs what is missing.

    examples:
      python experiments/noise.py --dataset filmtrust --seeds 3
      python experiments/noise.py --dataset ml-100k --clip 1 --scales 0 0.5 1
    """

    dataset: str = "synthetic"
    """Name of a known data set or path of a file of your own."""
    protocol: str = "leak-free"
    """Rules of split, negatives and selection: leak-free, paper or paper-p."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD ...")] = METHODS
    """Methods, each with its tuned settings for the data set where there are such, else with the
    released ones."""
    scales: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SCALE ...")] = (
        0.0, 0.1, 0.2, 0.5, 1.0, 2.0,
    )  # fmt: skip
    """Scales of the noise."""
    clip: float = 0.0
    """Most L1 norm of what a client adds to the known table, without which noise guarantees
    nothing; 0: no bound."""
    seeds: int = 3
    """Seeds of each setting: 0, 1, ..."""
    rounds: int = 30
    """Rounds of all."""
    out: str = ""
    """Folder; empty: results/noise-<dataset>-<protocol>."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""


def measure(args: Sequence[str]) -> None:
    """Run what is missing, and report all."""
    wanted = tyro.cli(Noise, prog="experiments/noise.py", args=args)
    stem = Path(wanted.dataset).stem or "data"
    out = Path(wanted.out or f"results/noise-{stem}-{wanted.protocol}")
    sweeps = {method: described(wanted, method) for method in wanted.methods}
    process.prepare_jax()
    console = Console(highlight=False)
    results = {}
    for method, asked in sweeps.items():
        console.print(f"[bold]{method}[/], {start_of(method, wanted.dataset)} settings")
        with Watch(console) as watch:
            results[method] = run_sweep(asked, out / method, watch=watch)
    command = f"python experiments/noise.py {shlex.join(args)}".rstrip()
    text = table(wanted, results, command)
    with disk_errors(out, "give another --out"):
        (out / "table.md").write_text(text, encoding="utf-8")
        draw(wanted, results, out / "noise.png")
    console.print(f"\n{text}", soft_wrap=True)
    console.print(f"{out}/ holds table.md, noise.png and a folder for each method")


def start_of(method: str, dataset: str) -> str:
    """The preset that a method starts from."""
    return "tuned" if (method, dataset) in tuned() else "released"


def described(wanted: Noise, method: str) -> Sweep:
    """The sweep of one method.

    Raises:
        UserError: its uploads take no noise or no bound, or a value is out of range.
    """
    given = {"dataset": wanted.dataset, "protocol": wanted.protocol, "rounds": wanted.rounds}
    config = preset(start_of(method, wanted.dataset), method=method, **given)
    needed = ("ldp_scale", *(("ldp_clip",) if wanted.clip else ()))
    for name in needed:
        if not hasattr(config, name):
            raise UserError(f"methods: {method} has no {name}; leave it out.")
    if wanted.clip:
        config = dataclasses.replace(config, ldp_clip=wanted.clip)
    config = dataclasses.replace(config, data_dir=wanted.data_dir)
    varied = space(type(config), {"ldp_scale": list(wanted.scales)}, "")
    return Sweep(config=config, varied=varied, seeds=tuple(range(wanted.seeds)))


def by_scale(result: SweepResult) -> pd.DataFrame:
    """The settings that stayed finite, in order of their scale."""
    done = result.settings[result.settings["status"] == "done"]
    return done.sort_values("ldp_scale")


def table(wanted: Noise, results: dict[str, SweepResult], command: str) -> str:
    """Test HR@K and NDCG@K of all methods by scale, in Markdown."""
    about = next(iter(results.values())).about
    k = next(iter(results.values())).sweep.config.top_k
    bound = f"L1 bound {wanted.clip:g}" if wanted.clip else "no bound, hence no guarantee"
    spread = f", mean over {wanted.seeds} seeds ± standard deviation" if wanted.seeds > 1 else ""
    lines = [
        f"# {about['dataset']}, protocol {about['protocol']}: noise on uploads\n",
        f"`{command}`\n",
        f"Test HR@{k} / NDCG@{k} among the sampled candidates at the best validation round of "
        f"{wanted.rounds}{spread}; {bound}. "
        f"Device: {about['device']}.\n",
        f"| Laplace scale | {' | '.join(results)} |",
        f"| ---: |{' ---: |' * len(results)}",
    ]
    for scale in wanted.scales:
        cells = []
        for result in results.values():
            row = result.settings[result.settings["ldp_scale"] == scale].iloc[0]
            hr, ndcg, sd = (row[f"test {name}"] for name in (f"hr@{k}", f"ndcg@{k}", f"hr@{k} sd"))
            told = f"{hr:.4f}{f' ±{sd:.4f}' if spread else ''} / {ndcg:.4f}"
            cells.append(told if row["status"] == "done" else str(row["status"]))
        lines.append(f"| {scale:g} | {' | '.join(cells)} |")
    starts = (f"{method} {start_of(method, wanted.dataset)}" for method in results)
    lines.append(f"\nSettings: {', '.join(starts)}.\n")
    return "\n".join(lines)


def draw(wanted: Noise, results: dict[str, SweepResult], path: Path) -> None:
    """A curve for each method, with its standard deviation over the seeds, or of one seed its
    standard error over the clients; 0 stands at the left."""
    first = next(iter(results.values()))
    k, level = first.sweep.config.top_k, first.about["chance"]
    figure = Figure(figsize=(7, 4.2), dpi=200, layout=ConstrainedLayoutEngine(h_pad=0.06))
    figure.suptitle(
        f"Noise on uploads: {first.about['dataset']}, protocol {first.about['protocol']}",
        x=0.012, ha="left", fontsize=13, fontweight="bold",
    )  # fmt: skip
    panel = figure.subplots()
    plots.frame(panel, "", "")
    positive = [scale for scale in wanted.scales if scale > 0]
    panel.set_xscale("symlog", linthresh=min(positive, default=1.0), linscale=0.5)
    for (method, result), colour, marker in zip(
        results.items(), plots.COLOURS * 2, "osD^vPX" * 2, strict=False
    ):
        rows = by_scale(result)
        rate = rows[f"test hr@{k}"]
        over_clients = [error_over_clients(each, result.about["clients"]) for each in rate]
        spread = rows[f"test hr@{k} sd"].fillna(pd.Series(over_clients, rate.index))
        panel.errorbar(
            rows["ldp_scale"], rate, yerr=spread, label=method, color=colour,
            marker=marker, markersize=5, linewidth=1.5, elinewidth=1.1, capsize=3,
        )  # fmt: skip
    panel.axhline(
        level["test"][f"hr@{k}"], color=plots.GREY, linewidth=0.9, linestyle=plots.DOTTED,
        label="chance",
    )  # fmt: skip
    panel.set_xticks(sorted(wanted.scales), [f"{scale:g}" for scale in sorted(wanted.scales)])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    bars = "sd over seeds" if wanted.seeds > 1 else "se over clients, one seed"
    panel.set_xlabel(
        f"scale of the Laplace noise on every number of an upload (± {bars})", fontsize=9
    )
    panel.set_ylabel(f"test HR@{k}, sampled candidates", fontsize=9)
    figure.legend(loc="outside lower center", ncols=len(results) + 1, frameon=False, fontsize=9)
    figure.savefig(path)


if __name__ == "__main__":
    process.run_command(lambda: measure(sys.argv[1:]))

"""`make noise`: what noise on uploads costs in accuracy, method by method.

Each method is a sweep over the scale of the noise, in its own folder. A second call runs only what
is missing. docs/privacy.md says what a scale guarantees, and when.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import tyro

from fedem_jax.cli import process
from fedem_jax.cli.parsing import parse
from fedem_jax.config.presets import preset
from fedem_jax.config.tuned import tuned
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.evaluation.statistics import error_over_clients
from fedem_jax.report.style import CHANCE, COLOURS, frame, legend_above, new_figure, save
from fedem_jax.report.tables import Row, Table, in_markdown, mean_cell, styled, written_files
from fedem_jax.report.terminal import Terminal
from fedem_jax.storage.files import disk_errors
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.progress import Watch
from fedem_jax.sweeps.run import run_sweep
from fedem_jax.sweeps.space import space
from fedem_jax.sweeps.sweep_result import SweepResult

METHODS = ("fedem", "fedmf", "pfedrec")
"""The methods that are measured by default; their uploads take noise."""


@dataclass(frozen=True)
class Noise:
    """Draw HR@K against the scale of the noise that clients add to every number of an
    upload. Writes table.md and noise.png. A second call runs only what is missing.

    examples:
      python experiments/noise.py --dataset filmtrust --seeds 3
      python experiments/noise.py --dataset ml-100k --clip 1 --scales 0 0.5 1
    """

    dataset: str = "synthetic"
    """Name of a known data set, or path of your own file."""
    protocol: str = "leak-free"
    """Rules of split, negatives and selection: leak-free, paper or paper-p."""
    methods: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD ...")] = METHODS
    """Methods, each with its tuned settings for the data set, or else with the released ones."""
    scales: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SCALE ...")] = (
        0.0, 0.1, 0.2, 0.5, 1.0, 2.0,
    )  # fmt: skip
    """Scales of the noise."""
    noise: Literal["laplace", "gaussian"] = "laplace"
    """Kind of the noise; its scale is that of Laplace noise, or a standard deviation."""
    clip: float = 0.0
    """Bound on the norm of a client's change to the known table, L1 for Laplace noise and L2 for
    Gaussian; without a bound the noise guarantees nothing. 0: no bound."""
    seeds: int = 3
    """Seeds of each setting: 0, 1, ..."""
    rounds: int = 30
    """Rounds of all."""
    out: str = ""
    """Folder; empty: results/noise-<dataset>-<protocol>."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""


def measure(args: Sequence[str]) -> None:
    """Run what is missing, and report everything."""
    options = parse(Noise, "experiments/noise.py", args)
    stem = Path(options.dataset).stem or "data"
    out = Path(options.out or f"results/noise-{stem}-{options.protocol}")
    sweeps = {method: sweep_of(options, method) for method in options.methods}
    process.prepare_jax()
    console = Terminal()
    results = {}
    for method, sweep in sweeps.items():
        console.print(styled(f"{method}, {start_of(method, options.dataset)} settings", "bold"))
        with Watch(console) as watch:
            results[method] = run_sweep(sweep, out / method, watch=watch)
    command = f"python experiments/noise.py {shlex.join(args)}".rstrip()
    text = table(options, results, command)
    with disk_errors(out, "give another --out"):
        (out / "table.md").write_text(text, encoding="utf-8")
        draw(options, results, out / "noise.png")
    console.print(f"\n{text}", soft_wrap=True, markup=False)
    console.print(written_files(out, ["table.md", "noise.png and a folder for each method"]))


def start_of(method: str, dataset: str) -> str:
    """The preset that a method starts from."""
    return "tuned" if (method, dataset) in tuned() else "released"


def sweep_of(options: Noise, method: str) -> Sweep:
    """The sweep of one method.

    Raises:
        UserError: its uploads take no noise or no bound, or a value is out of range.
    """
    given = {"dataset": options.dataset, "protocol": options.protocol, "rounds": options.rounds}
    config = preset(start_of(method, options.dataset), method=method, **given)
    needed = ["ldp_scale"]
    needed += ["ldp_clip"] if options.clip else []
    needed += ["ldp_noise"] if options.noise != "laplace" else []
    for name in needed:
        if not hasattr(config, name):
            raise UserError(f"methods: {method} has no {name}; leave it out.")
    bound = {"ldp_clip": options.clip} if options.clip else {}
    kind = {} if options.noise == "laplace" else {"ldp_noise": options.noise}
    config = dataclasses.replace(config, data_dir=options.data_dir, **bound, **kind)
    varied = space(type(config), {"ldp_scale": list(options.scales)}, "")
    return Sweep(config=config, varied=varied, seeds=tuple(range(options.seeds)))


def by_scale(result: SweepResult) -> pd.DataFrame:
    """The settings that stayed finite, in rising order of their scale."""
    done = result.settings[result.settings["status"] == "done"]
    return done.sort_values("ldp_scale")


def table(options: Noise, results: dict[str, SweepResult], command: str) -> str:
    """Test HR@K and NDCG@K of all methods by scale, in Markdown."""
    first = next(iter(results.values()))
    hr, ndcg = (f"{name}@{first.sweep.config.top_k}" for name in ("hr", "ndcg"))
    norm = {"laplace": "L1", "gaussian": "L2"}[options.noise]
    bound = f"{norm} bound {options.clip:g}" if options.clip else "no bound, hence no guarantee"
    spread = f", mean over {options.seeds} seeds ± standard deviation" if options.seeds > 1 else ""
    rows = []
    for scale in options.scales:
        cells = []
        for result in results.values():
            row = result.settings[result.settings["ldp_scale"] == scale].iloc[0]
            sd = row[f"test {hr} sd"] if options.seeds > 1 else float("nan")
            means = (mean_cell(row[f"test {hr}"], sd), mean_cell(row[f"test {ndcg}"]))
            done = row["status"] == "done"
            cells.append(" / ".join(map(str, means)) if done else str(row["status"]))
        rows.append(Row([f"{scale:g}", *cells]))
    header = [f"{options.noise.capitalize()} scale", *results]
    starts = (f"{method} {start_of(method, options.dataset)}" for method in results)
    parts = [
        f"# {first.about['dataset']}, protocol {first.about['protocol']}: noise on uploads",
        f"`{command}`",
        f"Test {metric_title(hr)} / {metric_title(ndcg)} among the sampled candidates at the best "
        f"validation round of {options.rounds}{spread}; {bound}. Device: {first.about['device']}.",
        in_markdown(Table("", header, rows, align="r" * len(header))),
        f"Settings: {', '.join(starts)}.",
    ]
    return "\n\n".join(parts) + "\n"


def draw(options: Noise, results: dict[str, SweepResult], path: Path) -> None:
    """Draw a curve for each method over the scale of the noise.

    Bars are the standard deviation over seeds; with one seed, the standard error over clients.
    """
    first = next(iter(results.values()))
    hr, scales = f"hr@{first.sweep.config.top_k}", sorted(options.scales)
    title = f"Noise on uploads: {first.about['dataset']}, protocol {first.about['protocol']}"
    bars = "sd over seeds" if options.seeds > 1 else "se over clients, one seed"
    figure = new_figure(
        (7, 4.2), title, f"test {metric_title(hr)} at the best validation round; bars: ± {bars}"
    )
    panel = figure.subplots()
    across = f"scale of the {options.noise.capitalize()} noise on every number of an upload"
    frame(panel, unit=f"test {metric_title(hr)}, sampled candidates", across=across)
    positive = [scale for scale in scales if scale > 0]
    panel.set_xscale("symlog", linthresh=min(positive, default=1.0), linscale=0.5)
    for (method, result), colour, marker in zip(
        results.items(), COLOURS * 2, "osD^vPX" * 2, strict=False
    ):
        rows = by_scale(result)
        rate = rows[f"test {hr}"]
        over_clients = [error_over_clients(each, result.about["clients"]) for each in rate]
        spread = rows[f"test {hr} sd"].fillna(pd.Series(over_clients, rate.index))
        panel.errorbar(
            rows["ldp_scale"], rate, yerr=spread, label=method, color=colour,
            marker=marker, markersize=5, linewidth=1.5, elinewidth=1.1, capsize=3,
        )  # fmt: skip
    panel.axhline(first.about["chance"]["test"][hr], **CHANCE, label="chance")
    panel.set_xticks(scales, [f"{scale:g}" for scale in scales])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    legend_above(figure, panel.get_legend_handles_labels()[0])
    save(figure, path)


if __name__ == "__main__":
    process.run_command(lambda: measure(sys.argv[1:]))

"""`make ablation`: variants of FedEM, each with one changed part, over several seeds.

The runs are those of `fedem compare`, with its folders, its resumption and its paired test against
the base. This script chooses the variants, and draws them by the part that they change.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from fedem_jax.cli.compare import run_missing
from fedem_jax.cli.parsing import parse
from fedem_jax.cli.process import run_command
from fedem_jax.comparisons.plan import plan_comparison
from fedem_jax.comparisons.results import gather
from fedem_jax.comparisons.standings import MethodSummary, standings
from fedem_jax.comparisons.tables import first_run, write_up
from fedem_jax.errors import UserError, nearest
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.evaluation.statistics import Spread, error_over_clients, over_seeds
from fedem_jax.report.style import CHANCE, COLOURS, frame, new_figure, save, seeds_in_row
from fedem_jax.report.terminal import Terminal

BASE = "fedem"
PARTS: dict[str, tuple[str, ...]] = {
    "merging": (
        "merging=once", "adapter=table", "merging=shrinkage", "merging=none", "merging=0.1",
        "merging=0.3", "merging=0.5", "merging=0.7", "merging=0.9", "merging=replace",
    ),
    "adapter": tuple(
        f"merging=once:{change}" for change in (
            "adapter_samples=held-out-unseen", "adapter_samples=held-out",
            "adapter_samples=held-out:adapter_loss=ranking",
            "adapter_samples=held-out:adapter_loss=ranking:adapter=table",
            "adapter_samples=held-out:adapter_loss=ranking:adapter=features",
            "adapter_samples=held-out:adapter_loss=ranking:adapter=table:adapter_sharing=average",
            "adapter_samples=held-out:adapter_loss=ranking:adapter=features"
            ":adapter_sharing=average",
        )
    ),
    "optimiser": ("local_optimiser=sgd", "merging=replace:local_optimiser=sgd"),
    "aggregation": ("aggregation=avg", "aggregation=sim", "similarity=cos"),
    "alpha": ("alpha=0.1", "alpha=0.3", "alpha=0.5", "alpha=0.7", "alpha=1.0"),
    "fraction": (
        "aggregation_fraction=0.25", "aggregation_fraction=0.5", "aggregation_fraction=1.0"
    ),
    "widths": ("adapter_widths=8", "adapter_widths=32,16", "adapter_widths=64,32"),
    "cohorts": (
        "aggregation=avg",
        "aggregation=cohort",
        *(f"aggregation=cohort:common_share={share}" for share in ("0", "0.5", "1")),
    ),
}  # fmt: skip
"""Settings of the variants, by the part that they change."""
EVERYWHERE = tuple(part for part in PARTS if part != "cohorts")
"""Parts that any federation has; cohorts have to be declared."""


@dataclass(frozen=True)
class Ablation:
    """Compare FedEM with variants that change one part: merging, adapter, local optimiser,
    aggregation and similarity, alpha, fraction of aggregated clients, widths of the adapter, or,
    where cohorts are declared, the table of a cohort. Writes table.md, table.csv, comparison.png
    and ablation.png. A second call runs only what is missing.

    examples:
      python experiments/ablation.py --dataset filmtrust --seeds 3 --rounds 30
      python experiments/ablation.py --dataset ml-100k --parts merging --settings dim=32
      python experiments/ablation.py --parts cohorts merging
    """

    dataset: str = "synthetic"
    """Name of a known data set, or path of your own file."""
    protocol: str = "leak-free"
    """Rules of split, negatives and selection: leak-free, paper or paper-p."""
    parts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PART ...")] = EVERYWHERE
    """Parts that are changed, one at a time: also cohorts, if they are declared."""
    seeds: int = 3
    """Seeds of each variant: 0, 1, ..."""
    rounds: int = 0
    """Rounds of all; 0: those of the preset."""
    preset: Annotated[str, tyro.conf.arg(metavar="{auto,released,tuned}")] = "auto"
    """Preset of the base."""
    settings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE ...")] = ()
    """Settings of the base and of all variants, such as lr_embedding=0.03."""
    out: str = ""
    """Folder; empty: results/ablation-<dataset>-<protocol>."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""


def ablate(args: Sequence[str]) -> None:
    """Run what is missing, and report everything.

    A variant that does not go with the settings of the base is left out, in a sentence.
    """
    options = parse(Ablation, "experiments/ablation.py", args)
    for part in options.parts:
        if part not in PARTS:
            raise UserError(f"parts: '{part}' is unknown; {nearest(part, list(PARTS))}.")
    base = ":".join([BASE, *options.settings])
    stem = Path(options.dataset).stem or "data"
    plan = partial(
        plan_comparison,
        dataset=options.dataset,
        protocol=options.protocol,
        seeds=options.seeds,
        rounds=options.rounds,
        start=options.preset,
        out=options.out or str(Path("results") / f"ablation-{stem}-{options.protocol}"),
        data_dir=options.data_dir,
    )
    plan([base])  # mistakes in its settings concern no single variant
    names, console = [base], Terminal()
    for name in (f"{base}:{change}" for part in options.parts for change in PARTS[part]):
        try:
            plan([name])
        except UserError as error:
            console.print(f"left out: {error}", markup=False)
        else:
            names.append(name)
    comparison = plan(names)
    methods = gather(comparison, run_missing(comparison, console))
    command = f"python experiments/ablation.py {shlex.join(args)}".rstrip()
    console.print(write_up(methods, comparison.directory, command, console.say))
    run, picture = first_run(methods), comparison.directory / "ablation.png"
    title = f"FedEM, part by part: {run['dataset']}, protocol {run['protocol']}"
    summaries = standings(methods)[1]
    draw(summaries, base, options.parts, picture, title, run["chance"], run["clients"])
    console.print(f"{picture} shows it by part", markup=False)


def draw(
    summaries: Sequence[MethodSummary], base: str, parts: Sequence[str], path: Path, title: str,
    chance: Mapping[str, Any], clients: int,
) -> None:  # fmt: skip
    """Draw HR among the sampled candidates of each variant, a panel for each part.

    The vertical line is the base, and the band its `spread`.

    Args:
        summaries: of the base and of the variants.
        base: name of the base.
        parts: names of the panels, from `PARTS`.
        path: of the picture.
        title: of the picture.
        chance: metrics of a random order, by part and metric.
        clients: number of clients.
    """
    by_name = {summary.name: summary for summary in summaries if not summary.failed}
    if base not in by_name:
        raise UserError(f"{base} failed, so there is nothing to hold the variants against.")
    metric = next(iter(by_name[base].scores))
    of_base = over_seeds(by_name[base].scores[metric])
    half = spread(of_base, clients)
    heights = [len(PARTS[part]) + 0.6 for part in parts]
    marks = (
        "dots are seeds, large ones means ± sd" if of_base.n > 1 else "one seed ± se over clients"
    )
    figure = new_figure(
        (8, 1.7 + 0.27 * sum(heights)), title,
        f"test {metric_title(metric[1])} at the best validation round, sampled candidates; "
        f"{marks};\nline and band: the base, {base}; dotted: chance",
    )  # fmt: skip
    panels = figure.subplots(len(parts), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for panel, part in zip(panels, parts, strict=True):
        frame(panel, across="", grid="both")
        panel.axvline(of_base.mean, color=COLOURS[1], linewidth=1.2)
        ends = of_base.mean - half, of_base.mean + half
        panel.axvspan(*ends, color=COLOURS[1], alpha=0.15, linewidth=0)
        panel.axvline(chance[metric[0]][metric[1]], **CHANCE)
        changes = list(reversed(PARTS[part]))
        for row, change in enumerate(changes):
            if summary := by_name.get(f"{base}:{change}"):
                values = summary.scores[metric]
                seeds_in_row(panel, row, values, spread(over_seeds(values), clients), COLOURS[0])
        panel.set_yticks(range(len(changes)), [change.replace("_", " ") for change in changes])
        panel.set_ylim(-0.6, len(changes) - 0.4)
    panels[-1].tick_params(labelbottom=True)
    save(figure, path)


def spread(mean: Spread, clients: int) -> float:
    """Standard deviation of a hit rate over seeds; with one seed, standard error over clients."""
    return mean.sd if mean.n > 1 else error_over_clients(mean.mean, clients)


if __name__ == "__main__":
    run_command(lambda: ablate(sys.argv[1:]))

"""`compare`: methods side by side, from Python."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fedem_jax.comparisons.plan import PlannedRun, plan_comparison
from fedem_jax.comparisons.results import MethodRuns, gather
from fedem_jax.comparisons.run import Watcher, missing, run_all
from fedem_jax.comparisons.standings import as_row, standings
from fedem_jax.comparisons.tables import draw, first_run, write_up
from fedem_jax.config.base import Config
from fedem_jax.config.protocol import as_settings
from fedem_jax.config.values import whole
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError, nearest
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.runs.observers import Observer


class ComparisonResult:
    """A finished comparison."""

    def __init__(self, methods: Sequence[MethodRuns], directory: Path | None = None):
        self.methods = methods
        """The runs of each method, read back."""
        self.directory = directory
        """Folder of the comparison; None: nothing was kept on disk."""
        self.reference, self.summaries = standings(methods)
        """Name of the method that the others are tested against, and a summary of each method."""

    def __repr__(self) -> str:
        run, done = first_run(self.methods), [each for each in self.methods if not each.failed]
        metric = ("test", f"hr@{run['top_k']}")
        best = max(
            (each for each in self.summaries if not each.failed),
            key=lambda each: sum(each.scores[metric]),
        )
        value = sum(best.scores[metric]) / len(best.scores[metric])
        return (
            f"<ComparisonResult: {len(done)} of {len(self.methods)} methods on {run['dataset']}, "
            f"{run['protocol']}: highest test {metric_title(metric[1])} {value:.4f}, {best.name}>"
        )

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each method, with the columns of table.csv.

        They are means and standard deviations over the seeds, differences to `reference` with their
        p-values, and bytes and seconds of a round.
        """
        return pd.DataFrame([as_row(each) for each in self.summaries]).set_index("method")

    def per_client(self, name: str) -> pd.DataFrame:
        """Metrics of every client at the best validation round, below one another for all seeds.

        Args:
            name: of a method, as `compare` was given it.

        Raises:
            UserError: no method of that name has a result.
        """
        done = {each.name: each for each in self.methods if not each.failed}
        if name not in done:
            raise UserError(f"method: '{name}' has no result; {nearest(name, list(done))}.")
        runs = done[name]
        return pd.concat(
            [
                table.assign(seed=summary["seed"])
                for table, summary in zip(runs.clients, runs.summaries, strict=True)
            ],
            ignore_index=True,
        )

    def plot(self, path: str | Path) -> Path:
        """Draw the test metrics of all methods into a file, PNG or any format that Matplotlib
        knows."""
        draw(path, first_run(self.methods), self.reference, self.summaries)
        return Path(path)


def compare(
    methods: Sequence[str] = (),
    federation: Federation | None = None,
    *,
    seeds: int = 3,
    rounds: int = 0,
    dataset: str = "synthetic",
    protocol: str = "leak-free",
    start: str = "auto",
    directory: str | Path | None = None,
    watch: Watcher | None = None,
    observers: Callable[[Config], Sequence[Observer]] = lambda config: (),
    **settings: Any,
) -> ComparisonResult:
    """Train methods on the same data with the same seeds, and compare them client by client.

    Args:
        methods: names, each with settings of its own if need be, `fedmf:dim=32:local_epochs=5`,
            and with a label for the tables, `wide=fedmf:dim=32`; empty: all methods.
        federation: the data. Its split is then the same for all seeds. None: `dataset`, which each
            seed splits anew under `protocol`.
        seeds: number of seeds, 0 to seeds - 1.
        rounds: of all methods; 0: those of their presets.
        dataset: a known name, or path of a file; only without `federation`.
        protocol: rules of split, negatives and selection; only without `federation`.
        start: preset that all methods start from, as in `preset`.
        directory: folder of the runs and of the tables. A second call with the same arguments runs
            only what is missing there. None: nothing stays on disk.
        watch: follows the runs; None: only warnings are shown.
        observers: makes the observers of each run from its settings.
        settings: of all methods, such as `dim=32`.

    Raises:
        UserError: an unknown method or setting, a value out of range, unusable data, or no method
            that can run.

    Examples:
        >>> result = fj.compare(["fcf", "popularity"], seeds=1, rounds=1)
        >>> list(result.table.index)
        ['fcf', 'popularity']
    """
    if federation is not None:
        rules = as_settings(federation.protocol)
        dataset, protocol = federation.name, rules.pop("protocol")
        settings |= rules
    if directory is None:
        settings.setdefault("keep", "none")
    keep = settings.pop("keep", "best-and-last")
    room = tempfile.TemporaryDirectory() if directory is None else nullcontext(str(directory))
    with room as out:
        comparison = plan_comparison(
            methods, dataset=dataset, protocol=protocol, seeds=whole("seeds", seeds),
            rounds=whole("rounds", rounds), start=start, settings=settings, out=out, keep=keep,
            data_dir=str(settings.pop("data_dir", "")),
        )  # fmt: skip
        failed, watch = {}, watch or Silent()
        if todo := missing(comparison):
            failed = run_all(
                comparison.directory, todo, watch, federation=federation, observers=observers
            )
        result = ComparisonResult(gather(comparison, failed), Path(out) if directory else None)
        if all(each.failed for each in result.methods):
            raise UserError(f"no method could run; {result.methods[0].failed}")
        if directory is not None:
            command = f"fedem_jax.compare({list(methods)}, ...)"
            write_up(result.methods, Path(out), command, watch.say)
    return result


class Silent(Watcher):
    """Passes sentences on as warnings, and shows nothing else."""

    def say(self, sentence: str) -> None:
        """Warn."""
        warnings.warn(sentence, stacklevel=2)

    def fail(self, run: PlannedRun, reason: str) -> None:
        """Warn that the method failed."""
        warnings.warn(f"{run} failed: {reason}", stacklevel=2)

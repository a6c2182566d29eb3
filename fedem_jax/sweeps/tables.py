"""The table of a sweep, for the terminal and in Markdown, and the winner's settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.config.tuned import Tuned, as_toml
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import full_title, metric_title, metrics_at
from fedem_jax.pages.page import REPORT, can_draw
from fedem_jax.report.tables import (
    Cell,
    Row,
    Shown,
    Table,
    in_markdown,
    in_terminal,
    least_important,
    mean_cell,
    styled,
    written_files,
)
from fedem_jax.storage.files import disk_errors, drawing, finite
from fedem_jax.sweeps.progress import in_brief
from fedem_jax.sweeps.results import CURVES, TRIALS, TRIALS_CSV
from fedem_jax.sweeps.space import FIXED, Values, as_text
from fedem_jax.sweeps.sweep_result import SweepResult
from fedem_jax.units import counted

TABLE, BEST, ENTRY = "table.md", "best.json", "tuned.toml"
EFFECTS, SETTINGS_PICTURE = "effects.png", "settings.png"
TOP = 10
"""Most settings that the tables list."""


def write_up(
    result: SweepResult, directory: Path, command: str, say: Callable[[str], Any]
) -> Shown:
    """Write tables, pictures, the winner's settings, and the report if its plotting library is
    installed. Returns what the terminal shows.

    Args:
        command: reproduces the sweep; stands in the tables.
        say: takes a sentence on each picture that cannot be drawn.

    Raises:
        UserError: a file cannot be written.
    """
    from fedem_jax.sweeps.charts import effects_chart, settings_chart

    with disk_errors(directory, "give another --out"):
        (directory / TABLE).write_text(document(result, command), encoding="utf-8")
        result.best.save(directory / BEST)
        (directory / ENTRY).write_text(as_preset(result, command), encoding="utf-8")
    for draw, name in ((effects_chart, EFFECTS), (settings_chart, SETTINGS_PICTURE)):
        with drawing(directory / name, say):
            draw(result, directory / name)
    files = [TABLE, BEST, EFFECTS, SETTINGS_PICTURE, TRIALS, TRIALS_CSV, CURVES]
    if can_draw():
        with drawing(directory / REPORT, say):
            write_report(result, directory / REPORT, command)
            files.append(REPORT)
    return in_terminal(
        best_settings(result, ("val",)),
        f"\n{outcome(result)}\n",
        styled("as an entry of fedem_jax/config/tuned.toml:", "dim"),
        as_preset(result, command),
        written_files(directory, files),
        f"fedem train --config {directory / BEST}   runs the winner",
    )


def as_dict(result: SweepResult, directory: Path) -> dict[str, Any]:
    """What `fedem sweep --json` prints: the data, all settings, the best first, and the winner."""
    return {
        "directory": str(directory),
        "method": result.best.method,
        **result.about,
        "metric": result.sweep.metric,
        "varied": [each.name for each in result.sweep.varied],
        "seeds": list(result.sweep.seeds),
        "settings": [finite(row) for row in result.settings.to_dict("records")],
        "best": dataclasses.asdict(result.best),
    }


def write_report(result: SweepResult, path: Path, command: str = "") -> None:
    """Write the page of a sweep.

    Args:
        result: of the sweep.
        path: of the page.
        command: reproduces the sweep; "": it is not known.

    Raises:
        UserError: the plotting library is missing, or the file cannot be written.
    """
    from fedem_jax.sweeps.page import sweep_page

    every = len(result.settings)
    table = best_settings(result, ("val", "val_full"), ranks=True, top=every)
    sweep_page(result, table, outcome(result), path, command)


def document(result: SweepResult, command: str) -> str:
    """The sweep in Markdown, with command, data, device and versions."""
    summary, table = result.about, best_settings(result, ("val", "val_full"), ranks=True)
    splits = ", ".join(f"{digest} (seed {seed})" for seed, digest in summary["splits"].items())
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    config = result.sweep.config
    parts = [
        f"# Sweep of {config.method} on {summary['dataset']}, protocol {summary['protocol']}",
        f"`{command}`",
        f"{summary['clients']:,} clients, {summary['items']:,} items; {config.rounds} rounds, "
        f"evaluated every {config.eval_every}. Fingerprint: {summary['fingerprint']}. "
        f"Splits: {splits}. Device: {summary['device']}. Versions: {versions}.",
        f"Varied: {', '.join(f'`{values}`' for values in result.sweep.varied)}.",
        f"## {table.title}",
        in_markdown(table),
        *table.notes,
        "## The winner on test",
        outcome(result),
        "As an entry of `fedem_jax/config/tuned.toml`:",
        f"```toml\n{as_preset(result, command)}```",
    ]
    return "\n\n".join(parts) + "\n"


def best_settings(
    result: SweepResult, parts: Sequence[str], *, ranks: bool = False, top: int = TOP
) -> Table:
    """The best settings by validation: varied values, chosen rounds and metrics of `parts`.

    The best comes first, and at most `top` are listed. With `ranks` a first column numbers them.
    """
    ranked, names = result.settings.head(top), [values.name for values in result.sweep.varied]
    metrics = [" ".join(each) for each in metrics_at(result.sweep.config.top_k, parts)]
    chosen = result.trials.groupby("setting")["best_round"].agg(["min", "max"])
    header = [*names, "best round", *map(_title, metrics), "status"]
    rows = []
    for rank, row in enumerate(ranked.to_dict("records"), start=1):
        low, high = chosen.loc[row["setting"]]
        span = "" if pd.isna(low) else f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"
        cells = [*(as_text(row[name]) for name in names), span]
        cells += [*(_mean(row, metric) for metric in metrics), row["status"]]
        rows.append(Row([str(rank), *cells] if ranks else cells, "bold" if rank == 1 else ""))
    header = ["rank", *header] if ranks else header
    title, first = "Best settings by validation", header.index("best round")
    pairs = [(part, name) for part, _, name in (each.partition(" ") for each in metrics)]
    drop = [*least_important(pairs, first + 1), first, len(header) - 1, *range(first - 1, 0, -1)]
    return Table(title, header, rows, notes(result), align="r" * len(header), drop=drop)


def notes(result: SweepResult) -> list[str]:
    """Notes below the table."""
    trials, seconds = result.trials, result.about["seconds"]
    diverged = int(trials["status"].str.startswith("diverged").sum())
    early = int((trials["status"] == "stopped early").sum())
    seeds = len(result.sweep.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    sentences = [
        f"{len(result.settings)} settings, {len(trials)} trials: {diverged} diverged, {early} "
        f"stopped early. Validation at each trial's best round, {spread}; chosen by "
        f"{_title(result.sweep.metric)}."
    ]
    if "ended_early" in result.about:
        sentences.append(f"Ended early: {result.about['ended_early']}.")
    level = level_values(result)
    sentences += [
        f"The best values of {name} are level: {', '.join(values)}; the first of them is listed "
        "first."
        for name, values in level.items()
    ]
    sentences += [
        f"The best {name} is the {end} that was searched; a better one may lie beyond."
        for name, end in at_an_edge(result.sweep.varied, result.best).items()
        if name not in level
    ]
    if seconds["running"]:
        sentences.append(
            f"This call: {seconds['running']:.1f} s of compiled programs, "
            f"{seconds['compiling']:.1f} s of compiling, {seconds['host']:.1f} s of other work "
            f"({seconds['host'] / sum(seconds.values()):.1%})."
        )
    return sentences


def level_values(result: SweepResult) -> dict[str, list[str]]:
    """By name, the values of a setting among several that are best alike on validation."""
    metrics = [" ".join(each) for each in metrics_at(result.sweep.config.top_k, ("val",))]
    metrics = [name.replace("val ", f"{result.sweep.select} ") for name in metrics]
    ranked = result.settings
    ranked = ranked[ranked["status"] == ranked["status"].iloc[0]]
    best = ranked[(ranked[metrics] == ranked[metrics].iloc[0]).all(axis=1)]
    values = {
        each.name: list(dict.fromkeys(map(as_text, best[each.name])))
        for each in result.sweep.varied
    }
    return {name: alike for name, alike in values.items() if len(alike) > 1}


def at_an_edge(varied: Sequence[Values], best: Config) -> dict[str, str]:
    """Settings whose best value is the "smallest" or the "largest" of the listed numbers, by name.

    A setting counts only if the method takes values beyond.
    """
    ends = {}
    for values in varied:
        name, listed = values.name, values.listed
        if len(set(listed)) < 2 or any(type(value) not in (int, float) for value in listed):
            continue
        value = getattr(best, name)
        smaller, larger = (value - 1, value + 1) if type(value) is int else (value / 2, value * 2)
        if value == min(listed) and _takes(best, name, smaller):
            ends[name] = "smallest"
        if value == max(listed) and _takes(best, name, larger):
            ends[name] = "largest"
    return ends


def _takes(config: Config, name: str, value: Any) -> bool:
    """Whether a setting may take this value, and does not have it yet."""
    try:
        return dataclasses.replace(config, **{name: value}) != config
    except UserError:
        return False


def outcome(result: SweepResult) -> str:
    """A sentence with the winner's test metrics."""
    row, hr = result.settings.iloc[0].to_dict(), f"hr@{result.sweep.config.top_k}"
    setting = in_brief({values.name: row[values.name] for values in result.sweep.varied})
    metrics = [" ".join(each) for each in metrics_at(result.sweep.config.top_k)]
    values = ", ".join(f"{_title(metric)} {_mean(row, metric)}" for metric in metrics)
    levels = [f"{name}: {metric_title(hr)} {result.about[name]['test'][hr]:.4f}"
              for name in ("chance", "popularity")]  # fmt: skip
    return f"{setting}: {values} ({', '.join(levels)})."


def as_preset(result: SweepResult, command: str) -> str:
    """The winner as an entry of `fedem_jax/config/tuned.toml`, ready to be pasted there."""
    best, row = result.best, result.settings.iloc[0].to_dict()
    metric = result.sweep.metric
    evidence = (
        f"Best of {len(result.settings)} settings by validation, {_title(metric)} "
        f"{_mean(row, metric)} over {counted(len(result.sweep.seeds), 'seed')}; "
        f"sweep {result.about['fingerprint']}."
    )
    return as_toml(best.method, best.dataset, Tuned(changed(best), evidence, command))


def changed(config: Config) -> dict[str, Any]:
    """The settings that differ from the method's defaults, as a preset holds them.

    Data, protocol and settings that change no result are left out.
    """
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if (field.name not in FIXED or field.name == "rounds")
        and getattr(config, field.name) != field.default
    }


def _title(metric: str) -> str:
    """`val_full hr@10` as `full val HR@10`."""
    return full_title(*metric.split(" "))


def _mean(row: dict[str, Any], metric: str) -> Cell:
    return mean_cell(row[metric], row[f"{metric} sd"])

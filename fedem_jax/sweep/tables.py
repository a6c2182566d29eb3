"""What a sweep ends with: its table in the terminal and in Markdown, and the winner's settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedem_jax.config.base import Config
from fedem_jax.config.tuned import Tuned, as_toml
from fedem_jax.errors import UserError
from fedem_jax.sweep.results import CURVES, TRIALS, TRIALS_CSV
from fedem_jax.sweep.run import SweepResult
from fedem_jax.sweep.space import FIXED, Values, as_text

TABLE, BEST, ENTRY = "table.md", "best.json", "tuned.toml"
EFFECTS, SETTINGS_PICTURE = "effects.png", "settings.png"
TOP = 10
"""Settings that the tables list."""


def write_up(result: SweepResult, directory: Path, command: str) -> RenderableType:
    """Write tables, pictures and the winner's settings; what the terminal is to show.

    Args:
        command: what makes the same again; stands in the tables.

    Raises:
        UserError: something cannot be written.
    """
    from fedem_jax.sweep.charts import effects_chart, settings_chart

    try:
        (directory / TABLE).write_text(in_markdown(result, command), encoding="utf-8")
        result.best.save(directory / BEST)
        (directory / ENTRY).write_text(as_preset(result, command), encoding="utf-8")
        effects_chart(result, directory / EFFECTS)
        settings_chart(result, directory / SETTINGS_PICTURE)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror}).") from None
    files = (TABLE, BEST, ENTRY, EFFECTS, SETTINGS_PICTURE, TRIALS, TRIALS_CSV, CURVES)
    return Group(
        in_terminal(result),
        Text(f"\n{outcome(result)}\n"),
        Text("as an entry of fedem_jax/config/tuned.toml:", "dim"),
        Text(as_preset(result, command)),
        Text(f"{directory}/ holds {', '.join(files)}"),
        Text(f"fedem train --config {directory / BEST}   runs the winner"),
    )


def in_terminal(result: SweepResult) -> RenderableType:
    """The best settings by validation, best first."""
    table = Table(
        box=box.SIMPLE_HEAD, title="\nBest settings by validation", title_justify="left",
        title_style="bold", show_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    header, rows = listed(result, ("val",))
    for name in header:
        table.add_column(name, justify="right")
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if number == 0 else "")
    return Group(table, *(Text(note, "dim") for note in notes(result)))


def in_markdown(result: SweepResult, command: str) -> str:
    """The same as a document, with the command that makes it and what it was measured on."""
    about, (header, rows) = result.about, listed(result, ("val", "val_full"))
    splits = ", ".join(f"{digest} (seed {seed})" for seed, digest in about["splits"].items())
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [["rank", *header], ["---:"] * (1 + len(header))]
    lines += [[str(rank), *row] for rank, row in enumerate(rows, start=1)]
    method, config = result.sweep.config.method, result.sweep.config
    parts = [
        f"# Sweep of {method} on {about['dataset']}, protocol {about['protocol']}",
        f"`{command}`",
        f"{about['clients']:,} clients, {about['items']:,} items; {config.rounds} rounds, "
        f"evaluated every {config.eval_every}. Fingerprint: {about['fingerprint']}. "
        f"Splits: {splits}. Device: {about['device']}. Versions: {versions}.",
        f"Varied: {', '.join(f'`{values}`' for values in result.sweep.varied)}.",
        "## Best settings by validation",
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        *notes(result),
        "## The winner on test",
        outcome(result),
        "As an entry of `fedem_jax/config/tuned.toml`:",
        f"```toml\n{as_preset(result, command)}```",
    ]
    return "\n\n".join(parts) + "\n"


def listed(result: SweepResult, parts: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the best settings: varied values, rounds chosen, metrics of `parts`."""
    ranked, k = result.settings.head(TOP), result.sweep.config.top_k
    names = [values.name for values in result.sweep.varied]
    metrics = [f"{part} {name}@{k}" for part in parts for name in ("hr", "ndcg")]
    chosen = result.trials.groupby("setting")["best_round"].agg(["min", "max"])
    header = [*names, "best round", *(_title(metric) for metric in metrics), "status"]
    rows = []
    for row in ranked.to_dict("records"):
        low, high = chosen.loc[row["setting"]]
        span = "" if pd.isna(low) else f"{low:.0f}" if low == high else f"{low:.0f}-{high:.0f}"
        cells = [as_text(row[name]) for name in names]
        cells += [span, *(_spread(row, metric) for metric in metrics), row["status"]]
        rows.append(cells)
    return header, rows


def notes(result: SweepResult) -> list[str]:
    """What a reader must know of the table."""
    wanted, trials, seconds = result.sweep, result.trials, result.about["seconds"]
    lost = int(trials["status"].str.startswith("diverged").sum())
    early = int((trials["status"] == "stopped early").sum())
    seeds = len(wanted.seeds)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    sums = sum(seconds.values())
    found = [
        f"{len(result.settings)} settings, {len(trials)} trials: {lost} diverged, {early} stopped "
        f"early. Validation at each trial's best round, {spread}; chosen by "
        f"{_title(_metric(result))}.",
    ]
    found += [
        f"The best {name} is the {end} that was searched; there may be better ones beyond."
        for name, end in at_an_edge(result.sweep.varied, result.best).items()
    ]
    if seconds["running"]:
        found.append(
            f"This call: {seconds['running']:.1f} s of compiled programs, "
            f"{seconds['compiling']:.1f} s of compiling, {seconds['host']:.1f} s of anything else "
            f"({seconds['host'] / sums:.1%})."
        )
    return found


def at_an_edge(varied: Sequence[Values], best: Config) -> dict[str, str]:
    """By name, the settings whose best value is the "smallest" or the "largest" of the numbers that
    were listed, if the method takes any beyond it."""
    found = {}
    for values in varied:
        name, listed = values.name, values.listed
        if len(set(listed)) < 2 or any(type(value) not in (int, float) for value in listed):
            continue
        value = getattr(best, name)
        smaller, larger = (value - 1, value + 1) if type(value) is int else (value / 2, value * 2)
        if value == min(listed) and _takes(best, name, smaller):
            found[name] = "smallest"
        if value == max(listed) and _takes(best, name, larger):
            found[name] = "largest"
    return found


def _takes(config: Config, name: str, value: Any) -> bool:
    """Whether a setting may have a value other than the one it has."""
    try:
        return dataclasses.replace(config, **{name: value}) != config
    except UserError:
        return False


def outcome(result: SweepResult) -> str:
    """The winner's test metrics, in a sentence."""
    row, k, about = result.settings.iloc[0].to_dict(), result.sweep.config.top_k, result.about
    names = [values.name for values in result.sweep.varied]
    setting = ", ".join(f"{name}={as_text(row[name])}" for name in names)
    metrics = [f"{part} {name}@{k}" for part in ("test", "test_full") for name in ("hr", "ndcg")]
    values = ", ".join(f"{_title(metric)} {_spread(row, metric)}" for metric in metrics)
    chance = about["chance"]["test"][f"hr@{k}"]
    return f"{setting}: {values} (chance: HR@{k} {chance:.4f})."


def as_preset(result: SweepResult, command: str) -> str:
    """The winner as an entry of `fedem_jax/config/tuned.toml`, to be pasted there as it stands."""
    best, row = result.best, result.settings.iloc[0].to_dict()
    seeds, metric = len(result.sweep.seeds), _metric(result)
    found = (
        f"Best of {len(result.settings)} settings by validation, {_title(metric)} "
        f"{_spread(row, metric)} over {seeds} seed{'s' * (seeds != 1)}; "
        f"sweep {result.about['fingerprint']}."
    )
    return as_toml(best.method, best.dataset, Tuned(changed(best), found, command))


def changed(config: Config) -> dict[str, Any]:
    """The settings that are not the defaults of the method, as a preset holds them: without data,
    protocol, and what changes no result."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if (field.name not in FIXED or field.name == "rounds")
        and getattr(config, field.name) != field.default
    }


def _metric(result: SweepResult) -> str:
    return f"{result.sweep.select} hr@{result.sweep.config.top_k}"


def _title(metric: str) -> str:
    """`val_full hr@10` as `full val HR@10`."""
    part, name = metric.split(" ")
    which, _, full = part.partition("_")
    return f"{'full ' if full else ''}{which} {name.upper()}"


def _spread(row: dict[str, Any], metric: str) -> str:
    mean, sd = row[metric], row[f"{metric} sd"]
    if pd.isna(mean):
        return ""
    return f"{mean:.4f}" if pd.isna(sd) else f"{mean:.4f} ± {sd:.4f}"

"""The page of one run, or of several beside one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedem_jax.config.base import Config
from fedem_jax.evaluation.metrics import metric_title, metrics_at
from fedem_jax.evaluation.records import Alternative, Part, Summary
from fedem_jax.evaluation.summary import protocol_label, ranks_in, shared_k
from fedem_jax.pages import page
from fedem_jax.pages.figures import Dot, Line, bar_chart, colour_of, line_chart, taken
from fedem_jax.pages.page import Section
from fedem_jax.pages.rho import rho_charts
from fedem_jax.report.alternatives import alternatives_table
from fedem_jax.report.rho_chart import RhoCounts
from fedem_jax.report.run_tables import (
    against_chance,
    against_popularity,
    comparison_table,
    exposure,
    result_tables,
)
from fedem_jax.report.tables import Row, Table
from fedem_jax.runs.reading import Run
from fedem_jax.units import in_bytes, in_seconds, in_span

if TYPE_CHECKING:
    import pandas as pd

RANKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000)
"""List lengths at which the share of clients is shown."""
RANKED: tuple[tuple[Part, str, str], ...] = (
    ("test", "sampled", "sampled candidates"),
    ("test_full", "full", "all items"),
)
"""Parts whose ranks are shown, by their names and what they are ranked among."""
MARKS = (1, 10, 100, 1000, 10_000, 100_000)
"""Those that the axis names."""
PATHS = ("dataset", "out", "data_dir", "val_file", "test_file", "start")
"""Settings that may name a folder of this machine."""
BEST_ROUND = "best validation round"
RHO = (
    "rho is the weight of the aggregated row in a merge: at 0 the client keeps its own row, at 1 "
    "the aggregated row replaces it. Counted are the rows of all clients that merge next. Values "
    "by popularity and by activity pool the last third of the rounds."
)


class ShownRun(NamedTuple):
    """A finished run, with its name on the page."""

    name: str
    run: Run
    clients: pd.DataFrame | None = None
    """Ranks of every client at the best validation round; None: they were not written."""
    alternatives: Sequence[Alternative] = ()
    """What the clients would get otherwise."""
    rho: RhoCounts | None = None
    """How much the clients merge; None: the run learned no rho."""


def run_page(runs: Sequence[ShownRun], path: Path) -> None:
    """Write the page of one run or of several.

    Args:
        runs: at least one.
        path: of the page.

    Raises:
        UserError: the plotting library is missing, or the file cannot be written.
    """
    summaries = [each.run.summary for each in runs]
    first = summaries[0]
    title = f"{first['method']} on {first['dataset']}" if len(runs) == 1 else f"{len(runs)} runs"
    lead = ", ".join(dict.fromkeys(f"protocol {protocol_label(each)}" for each in summaries))
    sections = [
        Section("Results", _results(runs)),
        Section("Learning curves", [page.grid(_learning_curves(runs))]),
        Section("Merging", _merging(runs)),
        Section("Clients", _clients(runs)),
        Section("Rounds", [page.sortable(_rounds(runs))]),
        Section("Settings", [page.sortable(settings_table({r.name: r.run.config for r in runs}))]),
        Section("Protocol and data", [page.sortable(protocol_table(_named(runs)))]),
        Section("Origin", [page.sortable(origin_table(_named(runs)))]),
    ]
    page.write_page(path, title, lead, sections)


def _named(runs: Sequence[ShownRun]) -> dict[str, Summary]:
    """Summaries by the name of the run."""
    return {each.name: each.run.summary for each in runs}


def _learning_curves(runs: Sequence[ShownRun]) -> list[str]:
    """HR and NDCG among the candidates, HR among all items, and the train loss over rounds."""
    k = shared_k([each.run.summary for each in runs])
    figures = [
        _metric_chart(runs, metric, ending, among)
        for metric, ending, among in (
            (f"hr@{k}", "", "sampled candidates"),
            (f"ndcg@{k}", "", "sampled candidates"),
            (f"hr@{k}", "_full", "all items"),
        )
    ]
    lines, losses = [], [record["loss"] for each in runs for record in each.run.records]
    for place, each in enumerate(runs):
        rounds, values = _curve(each.run, lambda record: record["loss"])
        remarks = [f"({record['epochs']:.1f} local epochs)" for record in each.run.records]
        lines.append(Line(each.name, rounds, values, colour_of(place), remarks=remarks))
    log = min(losses) > 0 and max(losses) > 20 * min(losses)
    axis = "y" if log else ""
    return [*figures, line_chart("Train loss", "mean over the clients", lines, log=axis)]


def _merging(runs: Sequence[ShownRun]) -> list[str]:
    """How much of the aggregate the clients merge."""
    figures = rho_charts({each.name: each.rho for each in runs})
    return [page.sentence(RHO), page.grid(figures)] if figures else []


def _clients(runs: Sequence[ShownRun]) -> list[str]:
    """How the test values are spread over the clients."""
    known = {each.name: [each.clients] for each in runs if each.clients is not None}
    figures = rank_charts(known) if known else []
    if len(runs) == 1:
        figures.append(_activity_chart(runs[0].run.summary))
    parts = [page.grid(figures)] if figures else []
    if any(each.clients is None for each in runs):
        parts.append(
            page.sentence(
                "The ranks of single clients were not written; a run with per_client has them."
            )
        )
    return parts


def rank_charts(clients: Mapping[str, Sequence[pd.DataFrame]]) -> list[str]:
    """The share of clients whose test item is within the first K, for every K.

    Args:
        clients: tables of ranks by the name of a run or of a method, which may have several seeds.
    """
    figures = []
    for part, word, among in RANKED:
        ranks = {
            name: np.concatenate([ranks_in(table, part).rank for table in tables])
            for name, tables in clients.items()
        }
        title = f"Test items within the first K, {word}"
        figures.append(_rank_chart(title, among, ranks))
    return figures


def settings_table(configs: Mapping[str, Config]) -> Table:
    """All settings, a column for each run or method, beside the defaults."""
    defaults = {
        name: {field.name: _text(field.default) for field in dataclasses.fields(config)}
        for name, config in configs.items()
    }
    rows = []
    for setting in dict.fromkeys(chain.from_iterable(defaults.values())):
        values = [_setting(config, setting) for config in configs.values()]
        usual = [each.get(setting, "") for each in defaults.values()]
        known = {each[setting] for each in defaults.values() if setting in each}
        default = known.pop() if len(known) == 1 else "by method"
        rows.append(Row([setting, *values, default], "bold" if values != usual else ""))
    rows.sort(key=lambda row: not row.style)
    notes = ["Bold: another value than the default of the method."]
    return Table("", ["setting", *configs, "default"], rows, notes, align="l" * (len(configs) + 2))


def protocol_table(summaries: Mapping[str, Summary]) -> Table:
    """Rules, data and fingerprint, a column for each run or method."""

    def facts(summary: Summary) -> dict[str, str]:
        counts, switches = summary.get("cleaning", {}), summary["protocol_switches"]
        return {
            "data set": summary["dataset"],
            "protocol": protocol_label(summary),
            **{name.replace("_", " "): _text(value) for name, value in switches.items()},
            "fingerprint": summary["fingerprint"],
            "clients": f"{summary['clients']:,}",
            "items": f"{summary['items']:,}",
            "interactions": f"{summary['interactions']:,}",
            "columns": summary.get("columns_read", ""),
            "preparation": ", ".join(f"{n.replace('_', ' ')} {v:,}" for n, v in counts.items()),
        }

    return _side_by_side({name: facts(summary) for name, summary in summaries.items()})


def origin_table(summaries: Mapping[str, Summary]) -> Table:
    """Seed, device, versions and costs, a column for each run or method."""

    def facts(summary: Summary) -> dict[str, str]:
        return {
            "seed": str(summary["seed"]),
            "rounds": str(summary["rounds"]),
            "device": summary["device"],
            **summary["versions"],
            "time per round": in_seconds(summary["seconds_per_round"]),
            "compiling": in_seconds(summary["compile_seconds"]),
            "bytes up": in_bytes(summary["bytes_up"]),
            "bytes down": in_bytes(summary["bytes_down"]),
            "resumed after rounds": ", ".join(map(str, summary["resumed"])),
            "started from": Path(summary["start"]["run"]).name if "start" in summary else "",
        }

    return _side_by_side({name: facts(summary) for name, summary in summaries.items()})


def _results(runs: Sequence[ShownRun]) -> list[str]:
    if len(runs) > 1:
        return [page.sortable(comparison_table([(each.name, each.run) for each in runs]))]
    (only,) = runs
    summary = only.run.summary
    headline, values = summary["headline"], []
    for part, name in metrics_at(summary["top_k"]):
        low, high = headline["interval"][part][name]
        among = "all items" if part == "test_full" else "sampled candidates"
        label = f"test {metric_title(name)}, {among}"
        values.append((label, f"{headline[part][name]:.4f}", f"95 %: {low:.4f} to {high:.4f}"))
    values.append((BEST_ROUND, f"{headline['round']}", f"of {summary['rounds']}"))
    tables = result_tables(summary)
    if only.alternatives:
        tables.append(alternatives_table(only.alternatives, summary))
    doubts = filter(None, [against_chance(summary), *against_popularity(summary)])
    sentences = map(page.sentence, [*doubts, exposure(summary)])
    return [page.cards(values), *map(page.sortable, tables), *sentences]


def _metric_chart(runs: Sequence[ShownRun], metric: str, ending: str, among: str) -> str:
    lines, dots, levels = [], [], {}
    for place, each in enumerate(runs):
        alone, colour = len(runs) == 1, colour_of(place)
        for part, word in (("val", "validation"), ("test", "test")):
            name = word if alone else each.name + ", validation" * (part == "val")
            rounds, values = _curve(each.run, lambda record, p=part: record[p + ending][metric])
            listed = alone or part == "test"
            lines.append(Line(name, rounds, values, colour, part == "val", listed=listed))
        headline, part = each.run.summary["headline"], f"test{ending}"
        value = headline[part][metric]
        low, high = headline["interval"][part].get(metric, (value, value))
        name = BEST_ROUND if alone else f"{each.name}, {BEST_ROUND}"
        dots.append(Dot(name, headline["round"], value, low, high, colour, listed=alone))
        levels["chance"] = each.run.summary["chance"][part].get(metric)
        if popularity := each.run.summary.get("popularity"):
            levels["popularity"] = popularity[part].get(metric)
    known = {name: level for name, level in levels.items() if level is not None}
    unit = "share of clients" if metric.startswith("hr") else "mean over clients"
    return line_chart(f"{metric_title(metric)}, {among}", unit, lines, dots, levels=known)


def _curve(run: Run, value: Any) -> tuple[list[int], list[float]]:
    return [record["round"] for record in run.records], [*map(value, run.records)]


def _rank_chart(title: str, among: str, ranks: Mapping[str, np.ndarray]) -> str:
    known, lines = {name: found for name, found in ranks.items() if len(found)}, []
    for place, (name, found) in enumerate(known.items()):
        at = [k for k in RANKS if k < found.max()] + [int(np.ceil(found.max()))]
        counts = [int((found <= k).sum()) for k in at]
        shares = [count / len(found) for count in counts]
        remarks = [f"({count:,} of {len(found):,})" for count in counts]
        look = colour_of(place), taken(place)
        lines.append(Line(name, at, shares, *look, remarks=remarks))
    across = f"K, among {among}"
    return line_chart(title, "share", lines, across=across, log="x", marks=MARKS)


def _activity_chart(summary: Summary) -> str:
    k, quartiles = summary["top_k"], summary["by_activity"]
    histories = [quartile["history"] for quartile in quartiles]
    names = [in_span(shortest, longest, ",") for shortest, longest in histories]
    remarks = [f"{quartile['clients']:,} clients" for quartile in quartiles]
    groups = {
        among: [quartile[part][f"hr@{k}"] for quartile in quartiles]
        for part, among in (("test", "sampled candidates"), ("test_full", "all items"))
    }
    title = f"Test HR@{k}, by training items of a client"
    return bar_chart(title, "share of clients", "training items", names, groups, remarks)


def _rounds(runs: Sequence[ShownRun]) -> Table:
    k = shared_k([each.run.summary for each in runs])
    metrics = metrics_at(k, ("val", "test", "val_full", "test_full"))
    rows = [
        Row([
            *([each.name] if len(runs) > 1 else []), str(record["round"]), f"{record['loss']:.4f}",
            *(f"{record[part][name]:.4f}" for part, name in metrics),
            in_seconds(record["seconds"]) if "seconds" in record else "",
        ])
        for each in runs
        for record in each.run.records
    ]  # fmt: skip
    words = {"val": "validation", "test": "test", "val_full": "full val", "test_full": "full test"}
    header = ["round", "loss", *(f"{words[part]} {metric_title(name)}" for part, name in metrics)]
    header = [*(["run"] if len(runs) > 1 else []), *header, "time"]
    return Table("", header, rows, align="l" * (len(runs) > 1) + "r" * (3 + len(metrics)))


def _side_by_side(columns: Mapping[str, Mapping[str, str]]) -> Table:
    """A row for each fact; facts that nobody has are left out."""
    names = dict.fromkeys(chain.from_iterable(columns.values()))
    found = {name: [column.get(name, "") for column in columns.values()] for name in names}
    rows = [Row([name, *values]) for name, values in found.items() if any(values)]
    header = ["", *(columns if len(columns) > 1 else ["value"])]
    return Table("", header, rows, align="l" * len(header))


def _setting(config: Config, name: str) -> str:
    """A setting as text. Where a file lies is nobody's concern, so folders are left out."""
    value = _text(getattr(config, name, ""))
    return Path(value).name if name in PATHS else value


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)

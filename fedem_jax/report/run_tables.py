"""The tables of a run: its opening panel and what it ended with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedem_jax.config.base import INERT, Config
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.records import Metrics, Setting, Summary
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.evaluation.summary import protocol_label, shared_k
from fedem_jax.runs.reading import Run


def closing(summary: Summary) -> RenderableType:
    """What a run ended with: its test metrics sampled and in full, and what to hold them against;
    the same by client activity; coverage and costs."""
    ranked = (
        f"sampled: {summary['protocol_switches']['num_candidates']} candidates; full: all "
        f"{summary['items']:,} items but the client's own; {summary['clients']:,} clients"
    )
    notes = [Text(note, "dim") for note in (ranked, _coverage(summary), _costs(summary))]
    if plainly := against_chance(summary):
        notes.insert(0, Text(plainly))
    return Group(_outcomes(summary), _activity(summary), "", *notes)


def comparison(runs: Sequence[tuple[str, Run]]) -> RenderableType:
    """A row for each finished run: the test metrics at its best validation round. Runs that differ
    in nothing but the seed are followed by their mean and standard deviation."""
    columns = _columns(shared_k([run.summary for _, run in runs]), "hr", "ndcg")
    table = _table("Test metrics at the best validation round", "round", columns)
    for label, run in runs:
        summary = run.summary
        about = f"{summary['method']} on {summary['dataset']}, {protocol_label(summary)}"
        headline = summary["headline"]
        _row(table, columns, Text.assemble(label, (f"\n{about}", "dim")), headline)
    for group in same_but_seed(runs):
        table.add_section()
        cells = []
        for part, metric in columns:
            spread = over_seeds([run.summary["headline"][part][metric] for _, run in group])
            cells.append(f"{spread.mean:.4f}\n±{spread.sd:.4f}")
        title = f"mean ± sd over {len(group)} seeds"
        settings = f"\nsettings of {group[0][0]}"
        table.add_row(Text.assemble((title, "bold"), (settings, "dim")), "", *cells)
    return table


def same_but_seed(runs: Sequence[tuple[str, Run]]) -> list[list[tuple[str, Run]]]:
    """The runs gathered into groups of at least two that differ in nothing but the seed (and in
    what changes no result). A seed counts once."""
    groups: dict[Config, dict[int, tuple[str, Run]]] = {}
    alike: dict[str, Any] = {name: getattr(Config, name) for name in (*INERT, "seed", "per_client")}
    for label, run in runs:
        settings = dataclasses.replace(run.config, **alike)
        groups.setdefault(settings, {})[run.config.seed] = (label, run)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _opening(setting: Setting) -> Panel:
    config: Config = setting["config"]
    federation: Federation = setting["federation"]
    rules = federation.protocol
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    interactions = len(federation.items) + 2 * federation.num_clients
    table.add_row(
        "data",
        f"{federation.num_clients:,} clients, {federation.num_items:,} items, "
        f"{interactions:,} interactions",
    )
    steps = [
        f"{count:,} {name.replace('_', ' ')}"
        for name, count in federation.cleaning.items()
        if count and name not in ("users", "items", "interactions")
    ]
    if steps:
        table.add_row("preparation", ", ".join(steps))
    table.add_row(
        "protocol",
        f"{rules.name}: negatives from the {rules.negative_pool} items, "
        f"{rules.num_candidates} candidates ({rules.candidates}), ties {rules.ties}",
    )
    table.add_row("fingerprint", federation.fingerprint)
    table.add_row("device", f"{setting['device']} · jax {setting['versions']['jax']}")
    table.add_row("run", f"{config.rounds} rounds, seed {config.seed}")
    return Panel(
        table, title=f"[bold]{config.method}[/bold] on {federation.name}", title_align="left"
    )


def _outcomes(summary: Summary) -> Table:
    columns = _columns(summary["top_k"], "hr", "ndcg", "mrr")
    title = (
        f"{summary['method']} on {summary['dataset']} · protocol {protocol_label(summary)} · "
        f"{summary['fingerprint']}"
    )
    table = _table(title, "round", columns)
    mark = {"headline": "", "best_test": "", "last": ""}
    if summary["selected"] != "headline":
        mark[summary["selected"]] = " *"
        table.caption = f"* the round that protocol {summary['protocol']} reports"
    low, high = (
        {
            part: {name: ends[end] for name, ends in values.items()}
            for part, values in summary["headline"]["interval"].items()
        }
        for end in (0, 1)
    )
    _row(table, columns, "best validation", summary["headline"], style="bold")
    _row(table, columns, "  95 % from", low)
    _row(table, columns, "  to", high)
    _row(table, columns, f"last{mark['last']}", summary["last"])
    _row(table, columns, "chance", summary["chance"])
    table.add_section()
    label = f"best test{mark['best_test']}, as in\npublished tables"
    _row(table, columns, label, summary["best_test"], style="dim")
    return table


def _activity(summary: Summary) -> Table:
    columns = _columns(summary["top_k"], "hr", "ndcg", "mrr")
    table = _table("Best validation round, by training items of a client", "clients", columns)
    for entry in summary["by_activity"]:
        low, high = entry["history"]
        label = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        _row(table, columns, label, entry, second="clients")
    return table


def _columns(k: int, *metrics: str) -> list[tuple[str, str]]:
    """Test metrics, first among the candidates, then among all items, as (part, name)."""
    names = [metric if metric == "mrr" else f"{metric}@{k}" for metric in metrics]
    return [(part, name) for part in ("test", "test_full") for name in names]


def _table(title: str, second: str, columns: Sequence[tuple[str, str]]) -> Table:
    """A table with a label, the field `second` and `columns`; three of each kind fill 80 signs."""
    table = Table(
        box=box.SIMPLE_HEAD, title=f"\n{title}", title_justify="left", title_style="bold",
        caption_justify="left", show_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("", overflow="fold", min_width=17)
    table.add_column(f"\n{second}", justify="right", min_width=7)
    for part, metric in columns:
        kind = "full" if part == "test_full" else "sampled"
        table.add_column(f"{kind}\n{metric.upper()}", justify="right", no_wrap=True)
    return table


def _row(
    table: Table, columns: Sequence[tuple[str, str]], label: str | Text, entry: Mapping[str, Any],
    style: str = "", second: str = "round",
) -> None:  # fmt: skip
    values = [f"{entry[part][metric]:.4f}" for part, metric in columns]
    table.add_row(label, str(entry.get(second, "")), *values, style=style)


def against_chance(summary: Summary) -> str:
    """Names the headline's metrics whose interval holds the chance level. The bootstrap of no hit
    at all ends at 0; 3 / C, the 95 % bound on a share never observed, then takes its place."""
    least, found = 3 / summary["clients"], []
    for part, levels in cast(Mapping[str, Metrics], summary["chance"]).items():
        ends = summary["headline"]["interval"][part]
        names = [
            name.upper()
            for name, level in levels.items()
            if ends[name][0] <= level <= (ends[name][1] or least)
        ]
        if names:
            found.append(f"{'full' if part == 'test_full' else 'sampled'} {', '.join(names)}")
    return f"not distinguishable from chance: {'; '.join(found)}" if found else ""


def _coverage(summary: Summary) -> str:
    best, last = (summary[entry]["coverage"] for entry in ("headline", "last"))
    return (
        f"coverage: {best:.1%} of the items are in some top {summary['top_k']}; "
        f"{last:.1%} in the last round"
    )


def _costs(summary: Summary) -> str:
    return (
        f"{_speed(summary['seconds_per_round'])} after {summary['compile_seconds']:.1f} s of "
        f"compiling on {summary['device']} · {_bytes(summary['bytes_up'])} up, "
        f"{_bytes(summary['bytes_down'])} down"
    )


def _speed(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms/round" if seconds < 0.1 else f"{seconds:.3g} s/round"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"

"""The tables of a run: its setting and its results; and a table of several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from fedem_jax.config.base import INERT, Config
from fedem_jax.config.references import Popularity
from fedem_jax.data.federation import Federation
from fedem_jax.evaluation.metrics import Metric, metric_title, metrics_at, ranked_title
from fedem_jax.evaluation.records import Setting, Summary
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.evaluation.summary import protocol_label, shared_k
from fedem_jax.report.tables import (
    Cell,
    Row,
    Shown,
    Table,
    in_terminal,
    least_important,
    mean_cell,
    styled,
)
from fedem_jax.runs.reading import Run
from fedem_jax.units import in_bytes, in_seconds, in_span


def closing(summary: Summary) -> Shown:
    """The results of a run: test metrics, sampled and full, beside chance and popularity; the same
    by activity of the clients; what the lists show; costs."""
    clients, evaluated = summary["clients"], summary.get("evaluated", {})
    ranked = (
        f"sampled: {summary['protocol_switches']['num_candidates']} candidates; full: all "
        f"{summary['items']:,} items but the client's own; {clients:,} clients"
    )
    if evaluated and min(evaluated.values()) < clients:
        ranked += f", {evaluated['val']:,} with validation items, {evaluated['test']:,} with test"
    said = (ranked, exposure(summary), _privacy(summary), _costs(summary))
    notes = [styled(note, "dim") for note in said if note]
    doubts = filter(None, [against_chance(summary), *against_popularity(summary)])
    return in_terminal(*result_tables(summary), "", *doubts, *notes)


def result_tables(summary: Summary) -> list[Table]:
    """Test metrics beside chance and popularity, and the same by activity of the clients."""
    several = [_several(summary)] if _has_several(summary) else []
    return [_outcomes(summary), *several, _activity(summary)]


def comparison(runs: Sequence[tuple[str, Run]]) -> Shown:
    """The table of several runs, for a terminal."""
    return in_terminal(comparison_table(runs))


def comparison_table(runs: Sequence[tuple[str, Run]]) -> Table:
    """The test metrics of finished runs at their best validation round, a row for each run.

    Further rows hold mean and standard deviation of runs that differ only in their seed.
    """
    metrics, rows = metrics_at(shared_k([run.summary for _, run in runs])), []
    for label, run in runs:
        summary = run.summary
        setting = f"{summary['method']} on {summary['dataset']}, {protocol_label(summary)}"
        rows.append(_row(metrics, Cell(label, setting), summary["headline"]))
    for group in same_but_seed(runs):
        label = Cell(f"mean ± sd over {len(group)} seeds", f"settings of {group[0][0]}")
        cells = []
        for part, name in metrics:
            spread = over_seeds([run.summary["headline"][part][name] for _, run in group])
            cells.append(mean_cell(spread.mean, spread.sd))
        rows.append(Row([label, "", *cells], apart=True))
    return _table("Test metrics at the best validation round", metrics, rows)


def same_but_seed(runs: Sequence[tuple[str, Run]]) -> list[list[tuple[str, Run]]]:
    """Groups of at least two runs that differ only in their seed and in settings without effect.

    If a seed occurs twice in a group, the later run counts.
    """
    groups: dict[Config, dict[int, tuple[str, Run]]] = {}
    alike: dict[str, Any] = {name: getattr(Config, name) for name in (*INERT, "seed", "per_client")}
    for label, run in runs:
        settings = dataclasses.replace(run.config, **alike)
        groups.setdefault(settings, {})[run.config.seed] = (label, run)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def opening(setting: Setting) -> Panel:
    """The setting of a run: data, protocol, device, rounds, seed."""
    config: Config = setting["config"]
    federation: Federation = setting["federation"]
    rules = federation.protocol
    steps = [
        f"{count:,} {name.replace('_', ' ')}"
        for name, count in federation.cleaning.items()
        if count and name not in ("users", "items", "interactions")
    ]
    facts = {
        "data": f"{federation.num_clients:,} clients, {federation.num_items:,} items, "
        f"{federation.num_interactions:,} interactions",
        "columns": str(federation.columns_read or ""),
        "preparation": ", ".join(steps),
        "split": _split(federation),
        "protocol": f"{rules.name}: negatives from the {rules.negative_pool} items, "
        f"{rules.num_candidates} candidates ({rules.candidates}), ties {rules.ties}",
        "fingerprint": federation.fingerprint,
        "device": f"{setting['device']} · jax {setting['versions']['jax']}",
        "run": f"{config.rounds} rounds, seed {config.seed}"
        + f", patience {config.patience}" * bool(config.patience),
        "start": config.start,
        "states": kept_states(setting.get("kept_bytes", 0)),
    }
    grid = Grid.grid(padding=(0, 2))
    for name, fact in facts.items():
        if fact:
            grid.add_row(Text(name, "dim"), Text(fact))
    title = Text.assemble((config.method, "bold"), f" on {federation.name}")
    return Panel(grid, title=title, title_align="left")


def _split(federation: Federation) -> str:
    """What is held out, unless it is one item each."""
    rules, number = federation.protocol, len(federation.test_item)
    if rules.split == "leave-one-out":
        return ""
    shares = f", shares {rules.val_share:g} and {rules.test_share:g}"
    return (
        f"{rules.split}{shares if rules.split != 'given' else ''}: "
        f"{len(federation.val_item):,} validation and {number:,} test items"
    )


def kept_states(size: int) -> str:
    """What stays on disk of all parameters, so many bytes at most; "" if nothing does."""
    return f"best and last are kept, up to {in_bytes(size)} (--keep none: none)" if size else ""


def _outcomes(summary: Summary) -> Table:
    metrics = metrics_at(summary["top_k"], names=("hr", "ndcg", "mrr"))
    planned = summary.get("planned_rounds")
    title = (
        f"{summary['method']} on {summary['dataset']} · protocol {protocol_label(summary)} · "
        f"{summary['fingerprint']}"
    )
    mark, notes = {"headline": "", "best_test": "", "last": ""}, []
    if summary["selected"] != "headline":
        mark[summary["selected"]] = " *"
        notes.append(f"* the round that protocol {summary['protocol']} reports")
    if planned:
        why = summary.get("ended_early", "no better validation value within the patience")
        notes.append(f"ended after {summary['rounds']} of {planned} rounds: {why}")
    interval = summary["headline"]["interval"].items()
    low, high = (
        {part: {name: ends[end] for name, ends in values.items()} for part, values in interval}
        for end in (0, 1)
    )
    popular = summary.get("popularity")
    published = f"best test{mark['best_test']}, as in\npublished tables"
    rows = [
        _row(metrics, "best validation", summary["headline"], style="bold"),
        _row(metrics, "  95 % from", low),
        _row(metrics, "  to", high),
        _row(metrics, f"last{mark['last']}", summary["last"]),
        _row(metrics, "chance", summary["chance"]),
        *([_row(metrics, "popularity", popular)] if popular else []),
        *_worst(metrics, summary),
        _row(metrics, published, summary["best_test"], style="dim", apart=True),
    ]
    return _table(title, metrics, rows, notes)


def _worst(metrics: Sequence[Metric], summary: Summary) -> list[Row]:
    """The tenth of the clients with the lowest values; runs of earlier versions have none."""
    worst = summary.get("worst_decile")
    return [_row(metrics, "worst decile", worst)] if worst else []


def _has_several(summary: Summary) -> bool:
    """Whether a client may have several held-out items."""
    return "mrr@" in "".join(summary["headline"]["test"])


def _several(summary: Summary) -> Table:
    """Metrics of several held-out items, among all items, at the best validation round."""
    names = ("hr", "recall", "precision", "ndcg", "map", "mrr")
    metrics = [("test_full", f"{name}@{summary['top_k']}") for name in names]
    rows = [
        _row(metrics, "best validation", summary["headline"], style="bold"),
        _row(metrics, "chance", summary["chance"]),
        *_worst(metrics, summary),
    ]
    return _table("All test items of a client in one list", metrics, rows)


def _activity(summary: Summary) -> Table:
    metrics = metrics_at(summary["top_k"], names=("hr", "ndcg", "mrr"))
    rows = [
        _row(metrics, in_span(low, high, ","), quartile, second="clients")
        for quartile in summary["by_activity"]
        for low, high in [quartile["history"]]
    ]
    title = "Best validation round, by training items of a client"
    return _table(title, metrics, rows, second="clients")


def _table(
    title: str, metrics: Sequence[Metric], rows: Sequence[Row], notes: Sequence[str] = (),
    second: str = "round",
) -> Table:  # fmt: skip
    """A table of a label, the field `second`, and metrics. Six metrics fill 80 columns."""
    names = [f"{ranked_title(part)}\n{metric_title(name)}" for part, name in metrics]
    drop = [*least_important(metrics, 2), 1]
    return Table(title, ["", f"\n{second:>7}", *names], rows, notes, label_width=17, drop=drop)


def _row(
    metrics: Sequence[Metric], label: Cell | str, values: Mapping[str, Any], *,
    second: str = "round", style: str = "", apart: bool = False,
) -> Row:  # fmt: skip
    cells = [f"{values[part][name]:.4f}" for part, name in metrics]
    return Row([label, str(values.get(second, "")), *cells], style, apart)


def against_chance(summary: Summary) -> str:
    """A sentence that names the metrics whose interval contains the chance level; "" for none.

    Without any hit the bootstrap interval ends at 0. Its end is then 3 / C, the 95 % bound on the
    rate of an event that never occurred.
    """
    within, _ = _intervals_against(summary, summary["chance"])
    return f"not distinguishable from chance: {within}" if within else ""


def against_popularity(summary: Summary) -> list[str]:
    """Sentences that name the metrics whose interval contains the level of popularity, or lies
    below it. They take that level as fixed, although the same clients make it."""
    levels = summary.get("popularity")
    if levels is None or summary["method"] == Popularity.method:
        return []
    within, below = _intervals_against(summary, levels)
    sentences = {"not distinguishable from popularity": within, "below popularity": below}
    return [f"{words}: {metrics}" for words, metrics in sentences.items() if metrics]


def _intervals_against(summary: Summary, levels: Mapping[str, Any]) -> tuple[str, str]:
    """The metrics whose interval contains a level, and those whose interval lies below it."""
    least = 3 / summary["clients"]
    found: tuple[list[str], list[str]] = ([], [])
    for part, values in levels.items():
        ends = summary["headline"]["interval"][part]
        place = {
            name: 1 if level > (ends[name][1] or least) else 0
            for name, level in values.items()
            if level >= ends[name][0]
        }
        for which, names in enumerate(found):
            chosen = [metric_title(name) for name, at in place.items() if at == which]
            if chosen:
                names.append(f"{ranked_title(part)} {', '.join(chosen)}")
    within, below = found
    return "; ".join(within), "; ".join(below)


def exposure(summary: Summary) -> str:
    """A sentence on how many items the lists show, and how evenly."""
    best, last = summary["headline"], summary["last"]
    sentence = (
        f"coverage: {best['coverage']:.1%} of the items are in some top {summary['top_k']}; "
        f"{last['coverage']:.1%} in the last round"
    )
    if "gini" in best and "novelty" in best:
        sentence += f"; Gini {best['gini']:.3f}, novelty {best['novelty']:.2f} bits"
    return sentence


def _privacy(summary: Summary) -> str:
    """Epsilon and delta of normal noise on uploads; "" without a guarantee."""
    privacy = summary.get("privacy")
    if privacy is None:
        return ""
    at = f"delta {privacy['delta']:g}, for all uploads of a client"
    if "epsilon" not in privacy:
        return f"privacy: {at}; fedem_jax[privacy] also computes epsilon"
    sentence = f"privacy: epsilon {privacy['epsilon']:.3g} and {at}, against the server"
    if "epsilon_of_means" in privacy:
        sentence += f"; epsilon {privacy['epsilon_of_means']:.3g} against who sees the means alone"
    return sentence


def _costs(summary: Summary) -> str:
    return (
        f"{in_seconds(summary['seconds_per_round'])}/round after "
        f"{summary['compile_seconds']:.1f} s of compiling on {summary['device']} · "
        f"{in_bytes(summary['bytes_up'])} up, {in_bytes(summary['bytes_down'])} down"
    )

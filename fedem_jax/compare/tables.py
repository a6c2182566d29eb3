"""What a comparison ends with: its tables in the terminal and in Markdown, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedem_jax.compare.plan import Comparison
from fedem_jax.compare.results import MethodRuns, gather
from fedem_jax.compare.standings import (
    REFERENCES,
    MethodSummary,
    Metric,
    as_csv,
    published,
    reached,
    standings,
)
from fedem_jax.config.protocol import SELECTED
from fedem_jax.errors import UserError
from fedem_jax.evaluation.records import Summary
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.evaluation.summary import protocol_label
from fedem_jax.units import in_bytes, in_seconds

TABLE, NUMBERS, PICTURE = "table.md", "table.csv", "comparison.png"


class Cell(NamedTuple):
    """A value in a table."""

    value: str
    aside: str = ""
    """What stands below it in a terminal, and after it in Markdown."""
    best: bool = False


class Section(NamedTuple):
    """A table with a title, in a form that both kinds of output are made from."""

    title: str
    header: list[tuple[str, str]]
    """Two lines for each column after the first, which names the contenders."""
    rows: list[tuple[str, list[Cell]]]
    notes: list[str]
    """Sentences below it."""


def write_up(
    comparison: Comparison, failed: dict[str, str], command: str, reach: float = 0.0
) -> RenderableType:
    """Write the tables and the picture of finished runs; what the terminal is to show.

    Args:
        failed: why contenders failed, by name.
        command: what makes the same again; stands in the tables.
        reach: validation HR whose price is told, in rounds and bytes; 0: none.

    Raises:
        UserError: all failed, or something cannot be read or written.
    """
    from fedem_jax.compare.charts import standings_chart

    entries = gather(comparison, failed)
    reference, lines = standings(entries)
    if all(line.failed for line in lines):
        raise UserError(f"no method could run; {lines[0].name}: {lines[0].failed}")
    parts = sections(entries, reference, lines)
    if reach:
        parts.append(_price(entries, lines, reach))
    about = next(entry.summaries[0] for entry in entries if not entry.failed)
    seeds = f"{comparison.seeds} seeds" if comparison.seeds > 1 else "seed 0"
    directory = comparison.directory
    try:
        (directory / TABLE).write_text(in_markdown(entries, parts, command), encoding="utf-8")
        as_csv(lines, directory / NUMBERS)
        standings_chart(
            lines, directory / PICTURE,
            title=f"{about['dataset']}, protocol {about['protocol']}",
            caption="test metrics at the best validation round · protocol "
            f"{protocol_label(about)} · {about['clients']:,} clients · {about['items']:,} items · "
            f"{about['protocol_switches']['num_candidates']} sampled candidates · {seeds}",
            reference=reference, chance=about["chance"],
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror}).") from None
    files = f"{directory}/ holds {TABLE}, {NUMBERS}, {PICTURE} and a folder for each run"
    return Group(in_terminal(parts), Text(f"\n{files}"))


def sections(
    entries: Sequence[MethodRuns], reference: str, lines: Sequence[MethodSummary]
) -> list[Section]:
    """All tables of a comparison with at least one finished contender."""
    about = next(entry.summaries[0] for entry in entries if not entry.failed)
    found = [_results(about, lines)]
    if about["protocol_switches"]["selection"] == "test":
        found.append(_best_test(lines))
    if any(line.against for line in lines):
        found.append(_differences(reference, lines))
    found.append(_published(about, lines))
    found.append(_costs(about, lines))
    return found


def in_terminal(parts: Sequence[Section]) -> RenderableType:
    """The tables within 80 columns."""
    shown: list[RenderableType] = []
    for part in parts:
        if part.rows:
            shown.append(_table(part))
        else:
            shown.append(Text(f"\n{part.title}", "bold"))
        shown += [Text(note, "dim") for note in part.notes]
    return Group(*shown)


def in_markdown(entries: Sequence[MethodRuns], parts: Sequence[Section], command: str) -> str:
    """The same as a document, with the command that makes it and what it was measured on."""
    every = [summary for entry in entries for summary in entry.summaries]
    about, seeds = every[0], {summary["seed"]: summary["fingerprint"] for summary in every}
    splits = ", ".join(f"{fingerprint} (seed {seed})" for seed, fingerprint in seeds.items())
    devices = " and ".join(dict.fromkeys(summary["device"] for summary in every))
    versions = " and ".join(
        dict.fromkeys(
            ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
            for summary in every
        )
    )
    lines = [
        f"# {about['dataset']}, protocol {protocol_label(about)}",
        f"`{command}`",
        f"{about['clients']:,} clients, {about['items']:,} items, "
        f"{about['interactions']:,} interactions. Splits: {splits}. Device: {devices}. "
        f"Versions: {versions}.",
    ]
    for part in parts:
        lines.append(f"## {part.title}")
        if part.rows:
            header = [" ".join(filter(None, names)) for names in part.header]
            rows = [["method", *header], ["---", *["---:"] * len(header)]]
            rows += [[name, *map(_marked, cells)] for name, cells in part.rows]
            lines.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        lines += part.notes
    return "\n\n".join(lines) + "\n"


def _columns(metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    return [("full" if part == "test_full" else "sampled", name.upper()) for part, name in metrics]


def _results(about: Summary, lines: Sequence[MethodSummary]) -> Section:
    metrics, rows = _metrics(lines), _spreads(lines, "scores")
    for (_, cells), line in zip(rows, lines, strict=True):
        low, high = line.chosen
        cells.insert(0, Cell("" if line.failed else f"{low}-{high}" if low < high else f"{low}"))
    levels = [Cell(f"{about['chance'][part][name]:.4f}") for part, name in metrics]
    rows.append(("chance", [Cell(""), *levels]))
    done = [line for line in lines if not line.failed]
    seeds = len(next(iter(done[0].scores.values())))
    notes = [
        f"{f'Mean ± standard deviation over {seeds} seeds' if seeds > 1 else 'One seed'}; the best "
        "mean of the federated methods is marked. Sampled: "
        f"{about['protocol_switches']['num_candidates']} candidates; full: all {about['items']:,} "
        f"items but the client's own; {about['clients']:,} clients.",
        *(f"{line.name} failed: {line.failed}" for line in lines if line.failed),
    ]
    title = f"Test metrics at the best validation round, protocol {protocol_label(about)}"
    return Section(title, [("", "round"), *_columns(metrics)], rows, notes)


def _best_test(lines: Sequence[MethodSummary]) -> Section:
    notes = [
        "The round is chosen on the test items themselves, so these values are too high; for "
        "comparison with published tables alone."
    ]
    title = "Best test value, as the released programs of this protocol report it"
    return Section(title, _columns(_metrics(lines)), _spreads(lines, "best_test"), notes)


def _differences(reference: str, lines: Sequence[MethodSummary]) -> Section:
    metrics, rows = _metrics(lines), []
    for line in lines:
        if line.against:
            each = [line.against[metric] for metric in metrics]
            rows.append((line.name, [Cell(f"{d.value:+.4f}", _p(d.p_holm)) for d in each]))
    notes = [
        "p: two-sided sign-flip permutation test over the clients, whose metrics are averaged over "
        f"the seeds; corrected for the number of methods, {len(rows)} (Holm)."
    ]
    return Section(f"Difference to {reference}", _columns(metrics), rows, notes)


def _published(about: Summary, lines: Sequence[MethodSummary]) -> Section:
    """Published values beside those of the same data set, line of programs and way of selecting."""
    chosen = SELECTED[about["protocol_switches"]["selection"]]
    known = published(about["dataset"], about["protocol"]) if about["top_k"] == 10 else []
    own = {line.name: line for line in lines if not line.failed}
    rows, notes = [], []
    for row in known:
        if row["method"] not in own:
            continue
        line = own[row["method"]]
        scores = line.best_test if chosen == "best_test" else line.scores
        part = "test_full" if row["candidates"] == "all" else "test"
        ours = [f"{over_seeds(scores[part, name]).mean:.4f}" for name in ("hr@10", "ndcg@10")]
        values = [row["hr@10"], row["ndcg@10"] or "-", *ours]
        number = f"[{len(rows) + 1}]"
        rows.append((f"{row['method']} {number}", [Cell(value) for value in values]))
        rank = "all items" if part == "test_full" else f"{row['candidates']} candidates"
        said = "; ".join(filter(None, (row["source"], rank, row["note"])))
        notes.append(f"{number} {said}; {line.rounds} rounds here.")
    header = [(who, metric) for who in ("published", "ours") for metric in ("HR@10", "NDCG@10")]
    if rows:
        notes.append(
            f"Ours: mean over seeds at the best {'test' if chosen == 'best_test' else 'validation'}"
            " round, which this line of programs reports; splits differ where timestamps tie. "
            "Second hand, from memory: not checked against the paper itself."
        )
    else:
        notes.append(
            f"fedem_jax/compare/published.csv has none of {about['dataset']} under protocol "
            f"{about['protocol']} for these methods; numbers of other protocols would mislead."
        )
    return Section("Published numbers beside ours", header, rows, notes)


def _costs(about: Summary, lines: Sequence[MethodSummary]) -> Section:
    rows = [(line.name, [Cell(text) for text in _cost(line)]) for line in lines if not line.failed]
    header = [("", "rounds"), ("up per", "round"), ("down per", "round"), ("time per", "round")]
    notes = [
        f"Bytes over all clients; time with evaluation, without compiling, on {about['device']}."
    ]
    return Section("Costs", header, rows, notes)


def _cost(line: MethodSummary) -> list[str]:
    exchanged = [in_bytes(line.bytes_up), in_bytes(line.bytes_down)]
    return [str(line.rounds), *exchanged, in_seconds(line.seconds)]


def _price(
    entries: Sequence[MethodRuns], lines: Sequence[MethodSummary], quality: float
) -> Section:
    """Rounds and bytes until a validation HR."""
    rows, metric = [], ""
    for entry, line in zip(entries, lines, strict=True):
        if line.failed:
            continue
        metric = f"HR@{entry.summaries[0]['top_k']}"
        rounds = reached(entry, quality)
        cells = ["never", "-", "-"]
        if rounds is not None:
            sent = (line.bytes_up, line.bytes_down)
            cells = [f"{rounds:.1f}", *(in_bytes(rounds * each) for each in sent)]
        total = line.rounds * (line.bytes_up + line.bytes_down)
        rows.append((line.name, [Cell(text) for text in (*cells, in_bytes(total))]))
    header = [("", "rounds"), ("bytes", "up"), ("bytes", "down"), ("bytes of", "all rounds")]
    notes = [
        "Over all clients, mean over seeds; rounds by the validation items among the sampled "
        "candidates; never: not with every seed. All rounds: up and down together."
    ]
    return Section(f"Price of a validation {metric} of {quality:g}", header, rows, notes)


def _metrics(lines: Sequence[MethodSummary]) -> list[Metric]:
    return list(next(line.scores for line in lines if not line.failed))


def _spreads(lines: Sequence[MethodSummary], of: str) -> list[tuple[str, list[Cell]]]:
    """A row for each contender with mean and spread of each metric; the best is marked."""
    metrics = _metrics(lines)
    rows: list[tuple[str, list[Cell]]] = []
    rated = [line for line in lines if not line.failed and line.method not in REFERENCES]
    best = {
        metric: max((np.mean(getattr(line, of)[metric]) for line in rated), default=np.inf)
        for metric in metrics
    }
    for line in lines:
        if line.failed:
            rows.append((line.name, [Cell("failed"), *[Cell("-")] * (len(metrics) - 1)]))
            continue
        cells = []
        for metric in metrics:
            spread = over_seeds(getattr(line, of)[metric])
            aside = f"±{spread.sd:.4f}" if spread.n > 1 else ""
            marked = line in rated and spread.mean >= best[metric]
            cells.append(Cell(f"{spread.mean:.4f}", aside, marked))
        rows.append((line.name, cells))
    return rows


def _p(value: float) -> str:
    return "p<0.001" if value < 0.001 else f"p={value:.3f}"


def _marked(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return f"{value} {cell.aside}".rstrip()


def _table(part: Section) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title=f"\n{part.title}", title_justify="left", title_style="bold",
        show_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("", overflow="fold", min_width=17)
    for names in part.header:
        table.add_column("\n".join(names), justify="right", no_wrap=True, min_width=7)
    for name, cells in part.rows:
        shown = [
            Text.assemble(
                (f"*{cell.value}" if cell.best else cell.value, "bold" if cell.best else ""),
                (f"\n{cell.aside}" if cell.aside else "", "dim"),
            )
            for cell in cells
        ]
        table.add_row(Text(name), *shown)
    return table

"""The tables of a comparison, for the terminal and in Markdown, and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedem_jax.comparisons.results import MethodRuns
from fedem_jax.comparisons.standings import (
    MethodSummary,
    as_csv,
    as_row,
    published,
    rounds_to,
    standings,
)
from fedem_jax.config.protocol import SELECTED
from fedem_jax.config.references import Popularity
from fedem_jax.errors import UserError
from fedem_jax.evaluation.metrics import Metric, metric_title, ranked_title
from fedem_jax.evaluation.records import Summary
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.evaluation.summary import protocol_label
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
    written_files,
)
from fedem_jax.storage.files import disk_errors, drawing, finite
from fedem_jax.units import in_bytes, in_seconds

TABLE, NUMBERS, PICTURE = "table.md", "table.csv", "comparison.png"


def write_up(
    methods: Sequence[MethodRuns], directory: Path, command: str, say: Callable[[str], Any],
    reach: float = 0.0,
) -> Shown:  # fmt: skip
    """Write the tables and the picture of finished runs, and their report if its plotting library
    is installed. Returns what the terminal shows.

    Args:
        methods: their runs, read back.
        directory: of the comparison.
        command: reproduces the comparison; stands in the tables.
        say: takes a sentence on each picture that cannot be drawn.
        reach: validation HR; the rounds and bytes that reach it are reported; 0: none.

    Raises:
        UserError: all methods failed, or a file cannot be written.
    """
    reference, summaries = standings(methods)
    if all(summary.failed for summary in summaries):
        raise UserError(f"no method could run; {summaries[0].name}: {summaries[0].failed}")
    run = first_run(methods)
    tables = all_tables(run, reference, summaries)
    if reach:
        tables.append(_price(methods, summaries, reach))
    with disk_errors(directory, "give another --out"):
        (directory / TABLE).write_text(document(methods, tables, command), encoding="utf-8")
        as_csv(summaries, directory / NUMBERS)
    with drawing(directory / PICTURE, say):
        draw(directory / PICTURE, run, reference, summaries)
    files = [TABLE, NUMBERS]
    if can_draw():
        from fedem_jax.comparisons.page import comparison_page

        with drawing(directory / REPORT, say):
            comparison_page(methods, reference, summaries, tables, directory / REPORT, command)
            files.append(REPORT)
    files.append(f"{PICTURE} and a folder for each run")
    return in_terminal(*tables, "", written_files(directory, files))


def as_dict(methods: Sequence[MethodRuns], directory: Path, reach: float = 0.0) -> dict[str, Any]:
    """What `fedem compare --json` prints: the data, and a row for each method as in table.csv.

    Args:
        methods: their runs, read back; at least one has not failed.
        directory: of the comparison.
        reach: as in `write_up`; each row then has `rounds_to_reach`, None where that is never.
    """
    reference, summaries = standings(methods)
    run, rows = first_run(methods), []
    for runs, summary in zip(methods, summaries, strict=True):
        row = finite(as_row(summary))
        if reach and not runs.failed:
            row["rounds_to_reach"] = rounds_to(runs, reach)
        rows.append(row)
    about = {name: run[name] for name in ("dataset", "protocol", "clients", "items")}
    return {"directory": str(directory), **about, "reference": reference or None, "methods": rows}


def write_report(methods: Sequence[MethodRuns], path: Path) -> None:
    """Write the page of a comparison that was read back.

    Args:
        methods: their runs; at least one has not failed.
        path: of the page.

    Raises:
        UserError: the plotting library is missing, or the file cannot be written.
    """
    from fedem_jax.comparisons.page import comparison_page

    reference, summaries = standings(methods)
    tables = all_tables(first_run(methods), reference, summaries)
    comparison_page(methods, reference, summaries, tables, path)


def draw(
    path: str | Path, run: Summary, reference: str, summaries: Sequence[MethodSummary]
) -> None:
    """Draw the picture of a comparison with at least one finished method.

    Args:
        path: PNG or any other format that Matplotlib knows by its ending.
        run: summary of one of the runs.
    """
    from fedem_jax.comparisons.charts import standings_chart

    number = max(len(next(iter(each.scores.values()), [])) for each in summaries)
    seeds = f"{number} seeds" if number > 1 else f"seed {run['seed']}"
    standings_chart(
        summaries, path, title=f"{run['dataset']}, protocol {run['protocol']}",
        caption="test metrics at the best validation round · protocol "
        f"{protocol_label(run)} · {run['clients']:,} clients · {run['items']:,} items · "
        f"{run['protocol_switches']['num_candidates']} sampled candidates · {seeds}",
        reference=reference, chance=run["chance"],
    )  # fmt: skip


def first_run(methods: Sequence[MethodRuns]) -> Summary:
    """Summary of the first finished run. Its data and protocol are those of all runs."""
    return next(runs.summaries[0] for runs in methods if not runs.failed)


def all_tables(run: Summary, reference: str, summaries: Sequence[MethodSummary]) -> list[Table]:
    """All tables of a comparison with at least one finished method.

    Args:
        run: summary of one of the runs.
    """
    tables = [_results(run, summaries)]
    if run["protocol_switches"]["selection"] == "test":
        tables.append(_best_test(summaries))
    if any(summary.against for summary in summaries):
        tables.append(_differences(reference, summaries))
    return [*tables, _published(run, summaries), _costs(run, summaries)]


def document(methods: Sequence[MethodRuns], tables: Sequence[Table], command: str) -> str:
    """The tables in Markdown, with command, data, device and versions."""
    runs = [summary for method in methods for summary in method.summaries]
    first, seeds = runs[0], {run["seed"]: run["fingerprint"] for run in runs}
    splits = ", ".join(f"{fingerprint} (seed {seed})" for seed, fingerprint in seeds.items())
    devices = " and ".join(dict.fromkeys(run["device"] for run in runs))
    each = (", ".join(f"{name} {n}" for name, n in run["versions"].items()) for run in runs)
    versions = " and ".join(dict.fromkeys(each))
    parts = [
        f"# {first['dataset']}, protocol {protocol_label(first)}",
        f"`{command}`",
        f"{first['clients']:,} clients, {first['items']:,} items, "
        f"{first['interactions']:,} interactions. Splits: {splits}. Device: {devices}. "
        f"Versions: {versions}.",
    ]
    for table in tables:
        parts += [f"## {table.title}", *([in_markdown(table)] if table.rows else []), *table.notes]
    return "\n\n".join(parts) + "\n"


def _table(
    title: str, header: Sequence[str], rows: Sequence[Row], notes: Sequence[str],
    drop: Sequence[int] = (),
) -> Table:  # fmt: skip
    """A table with a row for each method; `drop` as in `Table`."""
    return Table(title, ["\nmethod", *header], rows, notes, label_width=17, drop=drop)


def _header(metrics: Sequence[Metric]) -> list[str]:
    return [f"{ranked_title(part)}\n{metric_title(name)}" for part, name in metrics]


def _results(run: Summary, summaries: Sequence[MethodSummary]) -> Table:
    metrics, rows = _metrics(summaries), []
    for summary, (name, *cells) in zip(summaries, _means(summaries, "scores"), strict=True):
        low, high = summary.chosen
        chosen = "" if summary.failed else f"{low}-{high}" if low < high else f"{low}"
        rows.append(Row([name, chosen, *cells]))
    levels = [f"{run['chance'][part][name]:.4f}" for part, name in metrics]
    rows.append(Row(["chance", "", *levels]))
    done = _finished(summaries)
    popular = next((each.popularity for each in done if each.popularity), None)
    if popular and all(each.method != Popularity.method for each in done):
        spreads = [over_seeds(popular[metric]) for metric in metrics]
        rows.append(Row(["popularity", "", *(mean_cell(each.mean, each.sd) for each in spreads)]))
    seeds = len(next(iter(done[0].scores.values())))
    notes = [
        f"{f'Mean ± standard deviation over {seeds} seeds' if seeds > 1 else 'One seed'}; the best "
        "mean of a federated method is marked. Sampled: "
        f"{run['protocol_switches']['num_candidates']} candidates; full: all {run['items']:,} "
        f"items but the client's own; {run['clients']:,} clients.",
        *(f"{each.name} failed: {each.failed}" for each in summaries if each.failed),
    ]
    title = f"Test metrics at the best validation round, protocol {protocol_label(run)}"
    drop = [*least_important(metrics, 2), 1]
    return _table(title, ["\nround", *_header(metrics)], rows, notes, drop)


def _best_test(summaries: Sequence[MethodSummary]) -> Table:
    notes = [
        "The round is chosen on the test items themselves, so these values are too high. They "
        "compare with published tables only."
    ]
    title = "Best test value, as the released programs of this protocol report it"
    rows = [Row(cells) for cells in _means(summaries, "best_test")]
    drop = least_important(_metrics(summaries), 1)
    return _table(title, _header(_metrics(summaries)), rows, notes, drop)


def _differences(reference: str, summaries: Sequence[MethodSummary]) -> Table:
    metrics, rows = _metrics(summaries), []
    for summary in summaries:
        if summary.against:
            each = [summary.against[metric] for metric in metrics]
            rows.append(Row([summary.name, *(Cell(f"{d.value:+.4f}", _p(d.p_holm)) for d in each)]))
    notes = [
        "p: two-sided sign-flip permutation test over the clients, whose metrics are averaged over "
        f"the seeds; corrected for the number of methods, {len(rows)} (Holm)."
    ]
    drop = least_important(metrics, 1)
    return _table(f"Difference to {reference}", _header(metrics), rows, notes, drop)


def _published(run: Summary, summaries: Sequence[MethodSummary]) -> Table:
    """Published values beside ours, with the same data set, protocol and choice of the round."""
    on_test = SELECTED[run["protocol_switches"]["selection"]] == "best_test"
    known = published(run["dataset"], run["protocol"]) if run["top_k"] == 10 else []
    own = {summary.name: summary for summary in _finished(summaries)}
    rows, notes = [], []
    for paper in known:
        if paper["method"] not in own:
            continue
        summary = own[paper["method"]]
        scores = summary.best_test if on_test else summary.scores
        part = "test_full" if paper["candidates"] == "all" else "test"
        ours = [f"{over_seeds(scores[part, name]).mean:.4f}" for name in ("hr@10", "ndcg@10")]
        number = f"[{len(rows) + 1}]"
        name = f"{paper['method']} {number}"
        rows.append(Row([name, paper["hr@10"], paper["ndcg@10"] or "-", *ours]))
        among = "all items" if part == "test_full" else f"{paper['candidates']} candidates"
        remark = "; ".join(filter(None, (paper["source"], among, paper["note"])))
        notes.append(f"{number} {remark}; {summary.rounds} rounds here.")
    header = [
        f"{who}\n{metric}" for who in ("published", "ours") for metric in ("HR@10", "NDCG@10")
    ]
    if rows:
        notes.append(
            f"Ours: mean over seeds at the best {'test' if on_test else 'validation'} round, as "
            "this protocol reports it; splits differ where timestamps tie. Published numbers are "
            "second hand, from memory, and not checked against the paper."
        )
    else:
        notes.append(
            f"fedem_jax/comparisons/published.csv has none of {run['dataset']} under protocol "
            f"{run['protocol']} for these methods. Numbers of other protocols are not comparable."
        )
    return _table("Published numbers beside ours", header, rows, notes)


def _costs(run: Summary, summaries: Sequence[MethodSummary]) -> Table:
    rows = []
    for each in _finished(summaries):
        exchanged = (in_bytes(each.bytes_up), in_bytes(each.bytes_down))
        rows.append(Row([each.name, str(each.rounds), *exchanged, in_seconds(each.seconds)]))
    header = ["\nrounds", "up per\nround", "down per\nround", "time per\nround"]
    notes = [
        f"Bytes: sum over all clients; time: with evaluation, without compiling, {run['device']}."
    ]
    return _table("Costs", header, rows, notes)


def _price(
    methods: Sequence[MethodRuns], summaries: Sequence[MethodSummary], quality: float
) -> Table:
    """Rounds and bytes until a validation HR is reached."""
    rows, metric = [], f"hr@{first_run(methods)['top_k']}"
    for runs, summary in zip(methods, summaries, strict=True):
        if summary.failed:
            continue
        rounds, cells = rounds_to(runs, quality), ["never", "-", "-"]
        if rounds is not None:
            each = (summary.bytes_up, summary.bytes_down)
            cells = [f"{rounds:.1f}", *(in_bytes(rounds * count) for count in each)]
        total = summary.rounds * (summary.bytes_up + summary.bytes_down)
        rows.append(Row([summary.name, *cells, in_bytes(total)]))
    header = ["\nrounds", "bytes\nup", "bytes\ndown", "bytes of\nall rounds"]
    notes = [
        "Bytes over all clients, mean over seeds. Rounds: until the validation HR among the "
        "sampled candidates reaches this level; never: not with every seed. All rounds: up and "
        "down together."
    ]
    title = f"Price of a validation {metric_title(metric)} of {quality:g}"
    return _table(title, header, rows, notes)


def _finished(summaries: Sequence[MethodSummary]) -> list[MethodSummary]:
    return [summary for summary in summaries if not summary.failed]


def _metrics(summaries: Sequence[MethodSummary]) -> list[Metric]:
    return list(_finished(summaries)[0].scores)


def _means(summaries: Sequence[MethodSummary], of: str) -> list[list[Cell | str]]:
    """The cells of each method: its name, then mean and spread of each metric.

    The best mean is marked. References are never marked.
    """
    metrics, rows = _metrics(summaries), []
    rated = [summary for summary in _finished(summaries) if not summary.central]
    best = [
        max((np.mean(getattr(each, of)[metric]) for each in rated), default=np.inf)
        for metric in metrics
    ]
    for summary in summaries:
        cells = ["failed", *["-"] * (len(metrics) - 1)]
        if not summary.failed:
            spreads = [over_seeds(getattr(summary, of)[metric]) for metric in metrics]
            cells = [
                mean_cell(spread.mean, spread.sd, best=summary in rated and spread.mean >= most)
                for spread, most in zip(spreads, best, strict=True)
            ]
        rows.append([summary.name, *cells])
    return rows


def _p(value: float) -> str:
    return "p<0.001" if value < 0.001 else f"p={value:.3f}"

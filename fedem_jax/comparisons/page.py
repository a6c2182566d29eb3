"""The report of a comparison, a page to pass on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedem_jax.comparisons.results import MethodRuns
from fedem_jax.comparisons.standings import MethodSummary
from fedem_jax.evaluation.metrics import metric_title
from fedem_jax.evaluation.records import Summary
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.evaluation.summary import protocol_label
from fedem_jax.pages import page
from fedem_jax.pages.figures import Line, Spread, colour_of, line_chart, row_chart, taken
from fedem_jax.pages.page import Section
from fedem_jax.pages.run_page import (
    origin_table,
    protocol_table,
    rank_charts,
    settings_table,
)
from fedem_jax.report.tables import Row, Table


def comparison_page(
    methods: Sequence[MethodRuns], reference: str, summaries: Sequence[MethodSummary],
    tables: Sequence[Table], path: Path, command: str = "",
) -> None:  # fmt: skip
    """Write the page of a comparison with at least one finished method.

    Args:
        methods: the runs of each method.
        reference: name of the method that the others were tested against; "": none.
        summaries: of `standings`.
        tables: of `all_tables`.
        path: of the page.
        command: reproduces the comparison; "": it is not known.

    Raises:
        UserError: the plotting library is missing, or the file cannot be written.
    """
    done = [runs for runs in methods if not runs.failed]
    first = done[0].summaries[0]
    configs = {runs.name: runs.config for runs in done if runs.config}
    clients = {runs.name: runs.clients for runs in done}
    splits = {f"seed {each['seed']}": each for each in done[0].summaries}
    shown = [page.sortable(table) for table in tables]
    better = [page.sortable(_winners(done, reference))] if reference and len(done) > 1 else []
    sections = [
        Section("Test metrics", [page.grid(_standings(summaries, reference, first)), *shown]),
        Section("Learning curves", [page.grid(_curves(done))]),
        Section("Clients", [page.grid(rank_charts(clients)), *better]),
        Section("Settings", [page.sortable(settings_table(configs))]),
        Section("Protocol and data", [page.sortable(protocol_table(splits))]),
        Section("Origin", [
            *([page.code(command)] if command else []),
            page.sortable(origin_table({runs.name: runs.summaries[0] for runs in done})),
        ]),
    ]  # fmt: skip
    title = f"{len(done)} methods on {first['dataset']}"
    number = len(done[0].summaries)
    seeds = f"{number} seeds" if number > 1 else "one seed"
    lead = f"protocol {protocol_label(first)}, {first['clients']:,} clients, {seeds}"
    page.write_page(path, title, lead, sections)


def _standings(summaries: Sequence[MethodSummary], reference: str, first: Summary) -> list[str]:
    """A figure for each metric, the method with the best HR on top."""
    done = [summary for summary in summaries if not summary.failed]
    metrics = list(done[0].scores)
    done.sort(key=lambda summary: -float(np.mean(summary.scores[metrics[0]])))
    figures = []
    for metric in metrics:
        part, name = metric
        chance = {"chance": first["chance"][part][name]}
        rows = []
        for each in done:
            spread, remark = over_seeds(each.scores[metric]), ""
            if metric in each.against:
                gap = each.against[metric]
                remark = f", {gap.value:+.4f} to {reference}, corrected p {gap.p_holm:.3f}"
            rows.append(Spread(each.name, each.scores[metric], spread.mean, spread.sd, remark))
        among = "all items" if part == "test_full" else "sampled candidates"
        figures.append(
            row_chart(f"Test {metric_title(name)}, {among}", metric_title(name), rows, chance)
        )
    return figures


def _curves(done: Sequence[MethodRuns]) -> list[str]:
    """Means over the seeds, round by round."""
    hr, figures = f"hr@{done[0].summaries[0]['top_k']}", []
    for part, title in (("val", "Validation"), ("test", "Test"), ("test_full", "Full test")):
        lines = []
        for place, runs in enumerate(done):
            by_round: dict[int, list[float]] = {}
            for records in runs.records:
                for record in records:
                    by_round.setdefault(record["round"], []).append(record[part][hr])
            spreads = [over_seeds(values) for values in by_round.values()]
            means = [spread.mean for spread in spreads]
            remarks = ["" if np.isnan(each.sd) else f"± {each.sd:.4f}" for each in spreads]
            look = colour_of(place), taken(place)
            lines.append(Line(runs.name, [*by_round], means, *look, remarks=remarks))
        among = "all items" if part == "test_full" else "sampled candidates"
        name = f"{title} {metric_title(hr)} over rounds, {among}"
        figures.append(line_chart(name, "share of clients", lines))
    return figures


def _winners(done: Sequence[MethodRuns], reference: str) -> Table:
    """How many clients a method serves better, equally well and worse than the reference."""
    column = f"test_full ndcg@{done[0].summaries[0]['top_k']}"
    means = {
        runs.name: np.mean([table[column].to_numpy(float) for table in runs.clients], axis=0)
        for runs in done
    }
    rows = []
    for name, values in means.items():
        if name != reference:
            gap = values - means[reference]
            gap = gap[~np.isnan(gap)]
            counts = [(gap > 0).sum(), (gap == 0).sum(), (gap < 0).sum()]
            rows.append(Row([name, *(f"{count / len(gap):.1%}" for count in counts)]))
    header = ["method", "better", "equal", "worse"]
    notes = ["Each client's full test NDCG, averaged over the seeds."]
    return Table(f"Clients that are better off than with {reference}", header, rows, notes)

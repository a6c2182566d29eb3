"""The report of a sweep, a page to pass on."""

from __future__ import annotations

from pathlib import Path

from fedem_jax.evaluation.metrics import full_title, metrics_at
from fedem_jax.pages import page
from fedem_jax.pages.figures import Line, colour_of, line_chart, point_chart
from fedem_jax.pages.page import Section
from fedem_jax.pages.run_page import settings_table
from fedem_jax.report.tables import Row, Table, mean_cell
from fedem_jax.sweeps.progress import in_brief
from fedem_jax.sweeps.space import as_text
from fedem_jax.sweeps.sweep_result import SweepResult
from fedem_jax.units import counted

CURVES_SHOWN = 8
"""Settings whose curves are drawn, the best ones."""


def sweep_page(
    result: SweepResult, table: Table, outcome: str, path: Path, command: str = ""
) -> None:
    """Write the page of a sweep.

    Args:
        result: of the sweep.
        table: its settings, the best first.
        outcome: the sentence on the winner's test metrics.
        path: of the page.
        command: reproduces the sweep; "": it is not known.

    Raises:
        UserError: the plotting library is missing, or the file cannot be written.
    """
    sweep, about = result.sweep, result.about
    title = f"Sweep of {sweep.config.method} on {about['dataset']}"
    lead = (
        f"protocol {about['protocol']}, {about['clients']:,} clients, "
        f"{counted(len(result.settings), 'setting')}, {counted(len(sweep.seeds), 'seed')}"
    )
    sections = [
        Section("Best settings", [page.sentence(outcome), page.sortable(table)]),
        Section("What each setting does", [page.grid(_effects(result))]),
        Section("Learning curves", [page.grid(_curves(result))]),
        Section("Trials", [page.sortable(_trials(result))]),
        Section("Settings of the winner", [page.sortable(settings_table({"value": result.best}))]),
        Section("Protocol and origin", [
            *([page.code(command)] if command else []), page.facts(_facts(result)),
        ]),
    ]  # fmt: skip
    page.write_page(path, title, lead, sections)


def _effects(result: SweepResult) -> list[str]:
    """The deciding metric of every setting that stayed finite, against each varied value."""
    ranked, metric = result.settings, result.sweep.metric
    ranked = ranked[ranked[metric].notna()]
    names = [values.name for values in result.sweep.varied]
    remarks = [in_brief({name: row[name] for name in names}) for row in ranked.to_dict("records")]
    figures = []
    for values in result.sweep.varied:
        places = ranked[values.name].tolist()
        words = not all(type(place) in (int, float) for place in places)
        figures.append(
            point_chart(
                values.name, full_title(*metric.split(" ")), values.name,
                [as_text(place) for place in places] if words else places,
                ranked[metric].tolist(), remarks, best=0, log=values.log, words=words,
            )
        )  # fmt: skip
    return figures


def _curves(result: SweepResult) -> list[str]:
    """The deciding metric and the loss over rounds, means over the seeds, of the best settings."""
    names = [values.name for values in result.sweep.varied]
    figures = []
    units = {result.sweep.metric: "share of clients", "loss": "mean over the clients"}
    for column, unit in units.items():
        lines = []
        for place, row in enumerate(result.settings.head(CURVES_SHOWN).to_dict("records")):
            of_setting = result.curves[result.curves["setting"] == row["setting"]]
            means = of_setting.groupby("round")[column].mean()
            if len(means):
                name = in_brief({each: row[each] for each in names})
                rounds = means.index.tolist()
                lines.append(Line(name, rounds, means.tolist(), colour_of(place)))
        title = "Train loss" if column == "loss" else full_title(*column.split(" "))
        figures.append(line_chart(f"{title} of the best settings", unit, lines))
    return figures


def _trials(result: SweepResult) -> Table:
    """Every trial at its best validation round."""
    names = [values.name for values in result.sweep.varied]
    metrics = metrics_at(result.sweep.config.top_k, ("val", "val_full", "test", "test_full"))
    columns = [" ".join(metric) for metric in metrics]
    rows = [
        Row([
            *(as_text(row[name]) for name in names), str(row["seed"]), str(row["status"]),
            str(row["rounds"]), *(str(mean_cell(row[column])) for column in columns),
        ])
        for row in result.trials.to_dict("records")
    ]  # fmt: skip
    header = [*names, "seed", "status", "rounds", *(full_title(*metric) for metric in metrics)]
    notes = ["Test values chose nothing."]
    return Table("", header, rows, notes, align="r" * len(header))


def _facts(result: SweepResult) -> dict[str, str]:
    sweep, about = result.sweep, result.about
    return {
        "fingerprint of the sweep": about["fingerprint"],
        "data set": about["dataset"],
        "protocol": about["protocol"],
        "splits": ", ".join(f"{split} (seed {seed})" for seed, split in about["splits"].items()),
        "clients": f"{about['clients']:,}",
        "items": f"{about['items']:,}",
        "varied": ", ".join(map(str, sweep.varied)),
        "search": sweep.search,
        "chosen by": full_title(*sweep.metric.split(" ")),
        "device": about["device"],
        **about["versions"],
    }

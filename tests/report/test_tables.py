"""One form of a table, in a terminal and as Markdown."""

import io

import numpy as np
import pytest
from made_up import federation, made_up
from rich.console import Console

from fedem_jax.config.fedem import FedEM
from fedem_jax.evaluation.metrics import full_title, metric_title, metrics_at, ranked_title
from fedem_jax.report.progress import Progress
from fedem_jax.report.run_tables import closing, comparison, opening
from fedem_jax.report.tables import (
    Cell,
    Row,
    Table,
    in_markdown,
    in_terminal,
    mean_cell,
    written_files,
)
from fedem_jax.units import counted, in_span

TABLE = Table(
    "A title", ["method", "sampled\nHR@10", "rounds"],
    [
        Row(["fedem", Cell("0.3000", "± 0.0100", best=True), "4"], style="bold"),
        Row([Cell("a|b", "tuned"), Cell("0.2000", "± 0.0200"), "12"], apart=True),
    ],
    ["A note."],
)  # fmt: skip


def printed(*parts, width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, highlight=False)
    for part in parts:
        console.print(part)
    return file.getvalue()


def test_a_table_in_a_terminal():
    lines = [line.rstrip() for line in printed(in_terminal(TABLE, "the end")).splitlines()]
    assert lines == [
        "",
        "A title",
        "         sampled",
        "method     HR@10  rounds",
        "─────────────────────────",
        "fedem    *0.3000       4",
        "        ± 0.0100",
        "",
        "a|b       0.2000      12",
        "tuned   ± 0.0200",
        "A note.",
        "the end",
    ]


def test_a_table_as_markdown():
    assert in_markdown(TABLE) == (
        "| method | sampled HR@10 | rounds |\n"
        "| --- | ---: | ---: |\n"
        "| fedem | **0.3000** ± 0.0100 | 4 |\n"
        "| a\\|b tuned | 0.2000 ± 0.0200 | 12 |"
    )
    aligned = in_markdown(TABLE._replace(align="rlr")).splitlines()[1]
    assert aligned == "| ---: | --- | ---: |"


def test_without_rows_a_table_is_its_title_and_notes():
    assert printed(in_terminal(TABLE._replace(rows=[]))) == "\nA title\nA note.\n"


def test_a_label_has_the_width_that_is_asked_for():
    wide = printed(in_terminal(TABLE._replace(label_width=30))).splitlines()
    assert wide[3].index("HR@10") == 30 + 2 + len("sam")


def test_what_is_too_wide_is_folded_and_not_cut():
    name = "x" * 150
    shown = printed(in_terminal(TABLE._replace(rows=[Row([name, "1", "2"])])))
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("x") == 150
    assert "…" not in shown


@pytest.mark.parametrize(
    ("mean", "sd", "cell"),
    [
        (0.12345, 0.01, Cell("0.1235", "± 0.0100")),
        (0.5, np.nan, Cell("0.5000")),
        (np.nan, 0.1, Cell("")),
    ],
)
def test_a_mean_with_its_spread(mean, sd, cell):
    assert mean_cell(mean, sd) == cell


def test_numbers_and_names_are_written_in_one_way():
    assert [counted(number, "run") for number in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
    assert in_span(0.1, 0.25) == "0.1000 to 0.2500"
    assert in_span(0.1, 0.10001) == "0.1000"
    assert in_span(1, 2000, ",") == "1 to 2,000"
    assert metrics_at(5, ["val"], ["hr", "mrr"]) == [("val", "hr@5"), ("val", "mrr")]
    assert metric_title("ndcg@10") == "NDCG@10"
    assert [ranked_title(part) for part in ("test", "test_full")] == ["sampled", "full"]
    assert full_title("val", "hr@5") == "val HR@5"
    assert full_title("val_full", "hr@5") == "full val HR@5"


ODD = "[red]:smile: x[/red]"
"""Markup to rich."""


def test_words_of_the_user_are_no_markup(tmp_path):
    table = Table(
        ODD, [ODD, ODD], [Row([ODD, Cell(ODD, ODD)]), Row([ODD, Cell(ODD, best=True)])], [ODD]
    )
    shown = printed(in_terminal(table, ODD), written_files(tmp_path / ODD, [ODD]), width=200)
    assert shown.count(ODD) == 12
    run = made_up(FedEM(rounds=2, dataset=ODD))[0]
    setting = {
        "config": run.config, "federation": federation(run.config), "device": ODD,
        "versions": {"jax": "1"},
    }  # fmt: skip
    for part in (closing(run.summary), comparison([(ODD, run)]), opening(setting)):
        assert ODD in printed(part, width=200)


def test_the_bar_takes_no_words_as_markup():
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True, highlight=False)
    with Progress(console, ODD) as progress:  # a folder of that name
        run, clients = made_up(FedEM(rounds=2, dataset=ODD))
        progress.on_start({
            "config": run.config, "federation": federation(run.config), "device": "cpu",
            "versions": {"jax": "1"},
        })  # fmt: skip
        progress.on_round(run.records[0])
        progress.say(ODD)
        progress.on_end(run.summary, clients)
    assert f"{ODD}/" in file.getvalue()
    assert f"on {ODD}" in file.getvalue()


def test_a_resumed_run_shows_no_line_for_the_rounds_before():
    file = io.StringIO()
    run, _ = made_up(FedEM(rounds=3))
    with Progress(Console(file=file, width=200)) as progress:
        progress.on_start({
            "config": run.config, "federation": federation(run.config), "device": "cpu",
            "versions": {"jax": "1"},
        })  # fmt: skip
        progress.on_resume(run.records[:2])
        progress.on_round(run.records[2])
    lines = [line for line in file.getvalue().splitlines() if line.startswith("round")]
    assert [line.split()[1] for line in lines] == ["3/3"]

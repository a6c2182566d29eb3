"""Tables in narrow terminals: columns are left out by importance, numbers stay whole."""

import io
import re

import pytest
from made_up import made_up
from rich.console import Console

from fedem_jax.config.fedem import FedEM
from fedem_jax.report.run_tables import closing, comparison
from fedem_jax.report.tables import Row, Table, in_terminal, least_important


def printed(part, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(part)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 60, 40, 30])
def test_the_closing_tables_of_a_run(width):
    run, _ = made_up(FedEM(rounds=3))
    lines = printed(closing(run.summary), width)
    assert max(map(len, lines)) <= width
    (best,) = [line for line in lines if line.startswith("best validation")]
    shown = run.summary["headline"]
    values = [
        f"{shown[part][name]:.4f}"
        for part in ("test", "test_full")
        for name in ("hr@10", "ndcg@10", "mrr")
    ]
    found = re.findall(r"\d\.\d{4}", best)
    assert found == {
        80: values, 60: [values[0], values[1], values[3]], 40: values[:1], 30: values[:1],
    }[width]  # fmt: skip
    left_out = [line for line in lines if line.startswith("left out for lack of room")]
    assert len(left_out) == (2 if width < 80 else 0)


@pytest.mark.parametrize("width", [60, 40])
def test_labels_are_folded_before_numbers(width):
    run, _ = made_up(FedEM(rounds=3))
    lines = printed(comparison([("results/a-rather-long-name-of-a-run", run)]), width)
    assert max(map(len, lines)) <= width
    value = f"{run.summary['headline']['test']['hr@10']:.4f}"
    assert sum(value in line for line in lines) == 1


def test_metrics_by_importance():
    metrics = [(part, name) for part in ("test", "test_full") for name in ("hr@5", "ndcg@5", "mrr")]
    assert least_important(metrics, 2) == [7, 4, 6, 3, 5]


def test_columns_go_from_the_right_unless_a_table_says_otherwise():
    names = ["label", "first", "second", "third"]
    table = Table("", names, [Row(["x", "0.12345678", "0.12345678", "0.12345678"])])
    assert printed(in_terminal(table), 34)[-1] == "left out for lack of room: third"
    chosen = table._replace(drop=(1, 3))
    lines = printed(in_terminal(chosen), 34)
    assert lines[-1] == "left out for lack of room: first"
    assert printed(in_terminal(table), 80)[-1].split() == ["x", *["0.12345678"] * 3]

"""Pictures: drawn for any number of rounds and runs, and without Matplotlib's global state."""

import subprocess
import sys
from pathlib import Path

import pytest
from made_up import made_up

from fedem_jax.plots import learning_curves
from fedem_jax.record import Run
from fedem_jax.settings import FedEM


def run(rounds: int, **settings) -> Run:
    return made_up(FedEM(rounds=rounds, **settings))[0]


@pytest.mark.parametrize(("runs", "rounds"), [(1, 1), (1, 60), (3, 5)])
def test_picture_is_drawn(tmp_path, runs, rounds):
    path = tmp_path / "curves.png"
    named = [(f"run {seed}", run(rounds, seed=seed)) for seed in range(runs)]
    learning_curves(named, path, title="a title")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def words(tmp_path: Path, *runs: tuple[str, Run]) -> str:
    """The text of a picture; an SVG keeps each in a comment."""
    learning_curves(runs, tmp_path / "curves.svg", title="a title")
    return (tmp_path / "curves.svg").read_text()


def test_the_picture_says_what_its_numbers_mean(tmp_path):
    shown = words(tmp_path, ("fedem", run(3, ties="average")))
    for text in (
        "protocol leak-free* (ties average) · fingerprint 0123456789abcdef · 8 clients · "
        "120 items · seed 0",
        "HR@10, 99 candidates",
        "NDCG@10, 99 candidates",
        "HR@10, all items",
        "Train loss",
        "best validation round, 95 %",
        "0.1000",
    ):
        assert f"<!-- {text} -->" in shown


def test_runs_that_differ_have_a_caption_each(tmp_path):
    shown = words(tmp_path, ("x", run(3)), ("y", run(3, seed=1, num_candidates=49, top_k=7)))
    assert "<!-- x: protocol leak-free ·" in shown
    assert "<!-- y: protocol leak-free* (num candidates 49) ·" in shown
    assert "<!-- HR@10, sampled candidates -->" in shown


def test_a_metric_of_zero_throughout_is_drawn(tmp_path):
    flat = run(2)
    for record in (*flat.records, flat.summary["headline"]):
        record["loss"] = 0.0
        for part in ("val", "test", "val_full", "test_full"):
            record[part] = dict.fromkeys(record[part], 0.0)
    flat.summary["headline"]["interval"] = {part: {} for part in ("test", "test_full")}
    learning_curves([("flat", flat)], tmp_path / "flat.png", title="flat")
    assert (tmp_path / "flat.png").exists()


def test_global_state_of_matplotlib_is_left_alone(tmp_path):
    _, records, summary = run(3)
    script = (
        "import sys; from fedem_jax.settings import FedEM; from fedem_jax.record import Run\n"
        "from fedem_jax.plots import learning_curves\n"
        f"run = Run(FedEM(), {records!r}, {summary!r})\n"
        f"learning_curves([('x', run)], {str(tmp_path / 'x.png')!r}, title='x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

"""Pictures: drawn for any number of rounds and runs, and without Matplotlib's global state."""

import subprocess
import sys

import pytest

from fedem_jax.plots import Curve, learning_curves
from fedem_jax.record import chance_level


def curve(label: str, rounds: int) -> Curve:
    records = [
        {
            "round": r,
            "loss": 0.7 / r,
            "val": {"hr@10": 0.1 + 0.5 * r / rounds, "ndcg@10": 0.3 * r / rounds},
            "test": {"hr@10": 0.1 + 0.4 * r / rounds, "ndcg@10": 0.2 * r / rounds},
        }
        for r in range(1, rounds + 1)
    ]
    return Curve(label, records, best_round=rounds)


@pytest.mark.parametrize(("runs", "rounds"), [(1, 1), (1, 60), (3, 5)])
def test_picture_is_drawn(tmp_path, runs, rounds):
    path = tmp_path / "curves.png"
    curves = [curve(f"run {number}", rounds) for number in range(runs)]
    learning_curves(curves, path, title="a title", subtitle="a caption", num_candidates=99)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def test_a_metric_of_zero_throughout_is_drawn(tmp_path):
    flat = {"hr@10": 0.0, "ndcg@10": 0.0}
    records = [{"round": r, "loss": 0.0, "val": flat, "test": flat} for r in (1, 2)]
    learning_curves([Curve("flat", records, 1)], tmp_path / "flat.png", title="flat")
    assert (tmp_path / "flat.png").exists()


def test_global_state_of_matplotlib_is_left_alone(tmp_path):
    run = tuple(curve("x", 3))
    script = (
        "import sys; from fedem_jax.plots import Curve, learning_curves\n"
        f"learning_curves([Curve(*{run!r})], {str(tmp_path / 'x.png')!r}, title='x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("metric", "candidates", "expected"),
    [
        ("hr@10", 99, 0.1),
        ("hr@1", 1, 0.5),
        ("hr@10", 4, 1.0),  # the list holds every candidate
        ("ndcg@1", 99, 0.01),
        ("ndcg@2", 9, (1 + 0.6309297535714575) / 10),
    ],
)
def test_chance_level(metric, candidates, expected):
    assert chance_level(metric, candidates) == pytest.approx(expected)

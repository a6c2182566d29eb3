"""The curve of accuracy against noise: what is run, what is refused, what is written."""

import re
from types import SimpleNamespace
from typing import Any

import noise
import numpy as np
import pandas as pd
import pytest
import soak
from pictures import bars, curves, labels, level, ticks

from fedem_jax.errors import UserError
from fedem_jax.report.style import GREY


@pytest.fixture
def dataset(tmp_path):
    soak.ratings(tmp_path / "ratings.csv", np.random.default_rng(0))
    return str(tmp_path / "ratings.csv")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "fcf"], "fcf has no ldp_scale"),
        (["--methods", "gpfedrec", "--clip", "1"], "gpfedrec has no ldp_clip"),
        (["--methods", "gpfedrec", "--noise", "gaussian"], "gpfedrec has no ldp_noise"),
        (["--methods", "fedmf", "--scales", "-1"], "ldp_scale"),
        (["--methods", "fedmv"], "did you mean 'fedmf'"),
    ],
)
def test_what_takes_no_noise_is_refused(dataset, arguments, said):
    with pytest.raises(UserError, match=said):
        noise.measure(["--dataset", dataset, *arguments])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "norm"), [("laplace", "L1"), ("gaussian", "L2")])
def test_a_curve_of_one_method(kind, norm, monkeypatch, dataset, tmp_path, capsys, pictures):
    monkeypatch.setattr(noise.process, "prepare_jax", lambda: None)
    monkeypatch.setattr(noise, "preset", small(noise.preset))
    out = tmp_path / "out"
    arguments = f"--dataset {dataset} --methods fedmf --scales 0 1 --seeds 2 --rounds 2 --clip 3"
    arguments += f" --noise {kind}"
    noise.measure([*arguments.split(), "--out", str(out)])
    text = (out / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert arguments in text
    assert f"{norm} bound 3" in text
    assert f"| {kind.capitalize()} scale |" in text
    assert f"the {kind.capitalize()} noise" in pictures["noise.png"].axes[0].get_xlabel()
    rows = [line for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert len(rows) == 2
    written = [re.findall(r"0\.\d{4}", row) for row in rows]  # HR, its deviation, NDCG
    (bar,) = bars(pictures["noise.png"].axes[0])
    assert (bar.label, bar.x) == ("fedmf", [0, 1])
    half = (np.array(bar.high) - np.array(bar.low)) / 2
    shown = [[f"{hr:.4f}", f"{sd:.4f}"] for hr, sd in zip(bar.y, half, strict=True)]
    assert shown == [row[:2] for row in written]
    trials = pd.read_parquet(out / "fedmf" / "trials.parquet")
    found = trials.groupby("ldp_scale")["test hr@5"]
    assert bar.y == pytest.approx(found.mean().tolist())
    assert half == pytest.approx(found.std(ddof=1).to_numpy())


def result(rows: list[tuple[float, str, float, float]], k: int = 5) -> Any:
    """A sweep over the scale: scale, status, HR, standard deviation."""
    columns = ["ldp_scale", "status", f"test hr@{k}", f"test hr@{k} sd"]
    about = {"dataset": "d", "protocol": "paper", "clients": 100}
    chance = {"test": {f"hr@{k}": 0.05}}
    return SimpleNamespace(
        sweep=SimpleNamespace(config=SimpleNamespace(top_k=k)),
        settings=pd.DataFrame(rows, columns=columns), about=about | {"chance": chance},
    )  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_picture_has_a_curve_for_each_method(tmp_path, pictures, seeds):
    sd = [0.01, 0.02, 0.03] if seeds == 2 else [np.nan] * 3
    results = {
        "fedem": result([
            (1.0, "done", 0.2, sd[1]), (0.0, "done", 0.5, sd[0]), (2.0, "diverged", 0.9, sd[2]),
        ]),
        "fedmf": result([(2.0, "done", 0.1, sd[2]), (0.0, "done", 0.4, sd[0])]),
    }  # fmt: skip
    options = noise.Noise(scales=(2.0, 0.0, 1.0), seeds=seeds)
    noise.draw(options, results, tmp_path / "n.png")
    figure = pictures["n.png"]
    assert figure.get_suptitle() == "Noise on uploads: d, protocol paper"
    (panel,) = figure.axes
    spread = "sd over seeds" if seeds == 2 else "se over clients, one seed"
    assert panel.get_xlabel() == "scale of the Laplace noise on every number of an upload"
    assert figure.get_supxlabel() == f"test HR@5 at the best validation round; bars: ± {spread}"
    assert panel.get_ylabel() == "test HR@5, sampled candidates"
    assert labels(figure.legends[0]) == ["chance", "fedem", "fedmf"]
    expected = {"fedem": ([0, 1], [0.5, 0.2]), "fedmf": ([0, 2], [0.4, 0.1])}
    halves = {"fedem": [0.01, 0.02], "fedmf": [0.01, 0.03]}
    if seeds == 1:  # sqrt(r (1 - r) / 100)
        halves = {"fedem": [0.05, 0.04], "fedmf": [0.24**0.5 / 10, 0.03]}
    drawn = bars(panel)
    assert [bar.label for bar in drawn] == list(expected)
    assert len({bar.colour for bar in drawn}) == 2
    for bar in drawn:
        assert (bar.x, bar.y) == expected[bar.label]
        half = np.array(halves[bar.label])
        np.testing.assert_allclose([bar.low, bar.high], [bar.y - half, bar.y + half])
    (guess,) = curves(panel, GREY)
    assert level(guess) == 0.05
    assert ticks(panel.xaxis) == {0: "0", 1: "1", 2: "2"}
    assert panel.get_ylim()[0] == 0


def small(preset):
    """A preset that suits a few clients."""

    def changed(*args, **settings):
        few = {"num_candidates": 9, "top_k": 5, "min_interactions": 5, "size_classes": 1}
        return preset(*args, **settings, **few)

    return changed

"""`fedem sweep`: flags, what is shown, what is left behind."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from pictures import curve, curves, key, said, ticks
from slope import SELECTED, Slope, Turning, put_among_methods, turning

from fedem_jax.cli import main as cli
from fedem_jax.config import presets
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.file import load_settings
from fedem_jax.config.registry import METHODS, Method
from fedem_jax.config.tuned import entries_of
from fedem_jax.report.style import COLOURS
from fedem_jax.sweeps.charts import effects_chart, settings_chart
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.run import SweepResult, sweep
from fedem_jax.sweeps.space import space
from fedem_jax.sweeps.tables import at_an_edge


@pytest.fixture(autouse=True)
def method(monkeypatch, tmp_path):
    """`slope` among the methods, a small federation, an empty working directory."""
    put_among_methods(monkeypatch)
    monkeypatch.setattr("fedem_jax.cli.process.prepare_jax", lambda: None)
    monkeypatch.chdir(tmp_path)


SWEEP = "sweep --method slope --rounds 4 --seeds 2 --out s --vary speed=0.1,1,20 --vary dim=4,8"


def test_a_sweep_says_what_is_to_come_and_leaves_the_winner(tmp_path, capsys, monkeypatch):
    cli.main(SWEEP.split())
    shown = capsys.readouterr().out
    for words in (
        "7 clients, 40 items",
        "6 settings x 2 seeds = 12 trials of 4 rounds",
        "12 trials, rounds 1 to 4: 2 programs to compile, 12 calls, 1 side by side",
        "12/12",
        "6 settings, 12 trials: 4 diverged",
        "The best dim is the smallest that was searched",
        "speed=1, dim=4: test HR@5",
        "fedem train --config s/best.json",
    ):
        assert words in shown
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "about.json", "best.json", "curves.parquet", "effects.png", "report.html", "settings.png",
        "sweep.json", "table.md", "trials.csv", "trials.parquet", "tuned.toml",
    ]  # fmt: skip
    best = load_settings(tmp_path / "s" / "best.json")
    assert (best.method, best.rounds, best.seed, best.out) == ("slope", 4, 0, "")
    assert best == dataclasses.replace(Slope(), rounds=4, dim=4, speed=1.0)

    # the entry for the presets is one
    table = (tmp_path / "s" / "table.md").read_text()
    assert f"`fedem {SWEEP}`" in table
    entry = (tmp_path / "s" / "tuned.toml").read_text()
    assert entry in shown
    assert f"```toml\n{entry}```" in table
    entries = entries_of(entry, "tuned.toml")
    (found,) = entries.values()
    assert found.command == f"fedem {SWEEP}"
    spread = r"0\.\d{4} ± 0\.\d{4}"
    words = rf"Best of 6 settings by validation, val HR@5 {spread} over 2 seeds; sweep \w{{16}}\."
    assert re.fullmatch(words, found.found)
    with monkeypatch.context() as patch:
        patch.setattr(presets, "tuned", lambda: entries)
        assert presets.preset("tuned", dataset="synthetic", method="slope") == best

    cli.main(SWEEP.split())  # nothing is left to run
    again = capsys.readouterr().out
    assert "programs to compile" not in again
    assert "speed=1, dim=4: test HR@5" in again
    with pytest.raises(SystemExit) as end:
        cli.main([*SWEEP.split(), "--top-k", "4"])
    assert end.value.code == 2
    assert "holds another sweep (config top_k 5, now 4)" in capsys.readouterr().err


def test_quiet_shows_warnings_alone(tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise ValueError("no font")

    monkeypatch.setattr("fedem_jax.sweeps.charts.effects_chart", broken)
    monkeypatch.setattr(Slope, "without_effect", lambda _: ("dim",))
    cli.main([*SWEEP.split(), "--quiet"])
    out, err = capsys.readouterr()
    assert out == ""
    idle, undrawn = err.splitlines()
    assert idle.startswith("dim: without effect on slope")
    assert undrawn == "s/effects.png: cannot be drawn (no font)."
    assert (tmp_path / "s" / "table.md").exists()


def test_json_is_one_object_and_nothing_else(tmp_path, capsys):
    cli.main([*SWEEP.split(), "--json"])
    out, err = capsys.readouterr()
    assert "12/12" in err
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["best"] == json.loads((tmp_path / "s" / "best.json").read_text())
    assert found["metric"] == "val hr@5"
    assert (found["varied"], found["seeds"]) == (["speed", "dim"], [0, 1])
    about = json.loads((tmp_path / "s" / "about.json").read_text())
    assert found | about == found
    first, *_, last = found["settings"]
    assert len(found["settings"]) == 6
    assert (first["speed"], first["dim"], first["status"]) == (1.0, 4, "done")
    assert last["status"].startswith("diverged")
    cli.main([*SWEEP.split(), "--json", "--quiet"])  # nothing is left to run
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["settings"] == found["settings"]
    cli.main(
        ["sweep", "--method", "slope", "--rounds", "1", "--vary", "dim=4,8", "--json", "--quiet"]
    )
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["settings"]
    assert [row["val hr@5 sd"] for row in rows] == [None, None]  # of a single seed


@pytest.mark.parametrize("select", SELECTED)
def test_the_winner_is_chosen_by_what_was_asked_for(tmp_path, capsys, monkeypatch, select):
    monkeypatch.setitem(METHODS, "turning", Method(Turning, turning))
    monkeypatch.setattr("fedem_jax.sweeps.charts.effects_chart", lambda *_: None)
    monkeypatch.setattr("fedem_jax.sweeps.charts.settings_chart", lambda *_: None)
    cli.main(f"sweep --method turning --out s --vary turn=9,0.5 --select {select}".split())
    best = load_settings(tmp_path / "s" / "best.json")
    assert isinstance(best, Turning)
    assert best.turn == SELECTED[select][2][0]


@pytest.mark.parametrize(
    ("values", "best", "edge"),
    [
        ("lr_embedding=0.01,0.1", 0.1, {"lr_embedding": "largest"}),
        ("lr_embedding=0.01,0.1", 0.01, {"lr_embedding": "smallest"}),
        ("lr_embedding=0.01,0.1,1", 0.1, {}),
        ("lr_embedding=0.1", 0.1, {}),
        ("local_epochs=2,5", 2, {"local_epochs": "smallest"}),
        ("local_epochs=1,5", 1, {}),  # no fewer
        ("aggregation_fraction=0.5,1", 1.0, {}),  # no more
        ("alpha=0,0.5", 0.0, {}),
        ("merging=0.5,replace", "replace", {}),
        ("lr_embedding=log:0.01:1", 0.01, {}),
    ],
)
def test_a_winner_at_the_edge_of_what_was_searched_is_called_so(values, best, edge):
    (varied,) = space(FedEM, [values])
    winner = dataclasses.replace(FedEM(), **{varied.name: best})
    assert at_an_edge([varied], winner) == edge


def test_an_interrupted_sweep_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedem_jax.sweeps.progress.Watch.chunk", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main(SWEEP.split())
    assert end.value.code == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "s keeps the finished trials; the same command goes on" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sweep"], "nothing is varied"),
        (["sweep", "--vary", "dim=4,8", "--search", "random"], "give --trials N"),
        (["sweep", "--vary", "alfa=1"], "did you mean 'alpha'"),
    ],
)
def test_mistakes_are_one_sentence(args, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(args)
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def searched():
    """Numbers, a range of ratios, words; six settings with two seeds each."""
    speeds, scales = [0.5, 0.5, 1.0, 1.0, 2.0, 2.0], [0.5, 0.9, 1.1, 2.0, 1.6, 1.3]
    words = ["logit", "probability"] * 3
    status = ["done", "done", "stopped early", "done", "diverged in round 3", "done"]
    values = [0.31, 0.52, 0.28, 0.73, np.nan, 0.44]
    settings = pd.DataFrame({
        "setting": range(6), "speed": speeds, "init_scale": scales, "bce": words,
        "status": status, "val hr@5": values,
    })  # fmt: skip
    apart = settings.loc[settings.index.repeat(2)].reset_index(drop=True)
    trials = apart.assign(**{"val hr@5": apart["val hr@5"] + [-0.02, 0.02] * 6})
    ranked = settings.sort_values("val hr@5", ascending=False).reset_index(drop=True)
    vary = ["speed=0.5,1,2", "init_scale=log:0.5:2", "bce=logit,probability"]
    config = Slope(rounds=4, top_k=5)
    sweep = Sweep(config, space(Slope, vary), seeds=(0, 1), search="random", trials=6)
    about = {"dataset": "d", "protocol": "paper", "fingerprint": "0123"}
    return SweepResult(sweep, trials, curves=trials, settings=ranked, best=config, about=about)


CAPTION = (
    "protocol paper · 6 settings x 2 seeds · 4 rounds, each trial at its best validation round · "
    "sweep 0123"
)


def test_main_effects_are_those_of_the_trials(searched, tmp_path, pictures):
    effects_chart(searched, tmp_path / "effects.png")
    figure, trials = pictures["effects.png"], searched.trials
    assert said(figure) == ("slope on d: main effects", CAPTION)
    shown = key(figure.legends[0])
    assert list(shown) == ["trial", "stopped early", "mean", "best setting", "diverged"]
    assert figure.axes[0].get_ylabel() == "HR@5 on validation, sampled"
    assert [panel.get_xlabel() for panel in figure.axes] == ["speed", "init_scale, log", "bce"]
    assert [panel.get_xscale() for panel in figure.axes] == ["linear", "log", "linear"]
    assert ticks(figure.axes[0].xaxis) == {0.5: "0.5", 1: "1", 2: "2"}
    assert ticks(figure.axes[2].xaxis) == {0: "logit", 1: "probability"}
    quality = trials["val hr@5"].tolist()
    places = {
        "speed": trials["speed"].tolist(),
        "init_scale": trials["init_scale"].tolist(),
        "bce": [0, 0, 1, 1] * 3,
    }
    of_status = {
        "trial": [0, 1, 2, 3, 6, 7, 10, 11], "stopped early": [4, 5], "best setting": [6, 7],
        "diverged": [8, 9],
    }  # fmt: skip
    # over the trials that ran to their end; of the range, groups of 2, 2, 1, 1, 1, 1 trials
    means = {
        "speed": ([0.5, 1, 2], [0.415, 0.73, 0.44]),
        "init_scale": ([0.5, 0.9, 1.3, 1.3, 2, 2], [0.31, 0.52, 0.42, 0.46, 0.71, 0.75]),
        "bce": ([0, 1], [0.31, (0.52 + 0.73 + 0.44) / 3]),
    }
    for panel, (name, x) in zip(figure.axes, places.items(), strict=True):
        lines = dict(zip(shown, panel.lines, strict=False))
        for label in shown:
            for look in ("get_marker", "get_color", "get_markerfacecolor"):
                assert getattr(lines[label], look)() == getattr(shown[label], look)()
        for label, rows in of_status.items():
            across, heights = curve(lines[label])
            assert across == [x[row] for row in rows]
            if label == "diverged":  # has no quality, so it lies at the bottom
                assert heights == [0.02] * 2
            else:
                assert heights == [quality[row] for row in rows]
        np.testing.assert_allclose(curve(lines["mean"]), means[name])


def test_a_line_for_each_setting_ends_at_its_quality(searched, tmp_path, pictures):
    settings_chart(searched, tmp_path / "settings.png")
    figure = pictures["settings.png"]
    assert said(figure) == ("slope on d: settings", CAPTION)
    (panel,) = figure.axes
    assert ticks(panel.xaxis) == {
        0: "speed", 1: "init_scale, log", 2: "bce", 3: "HR@5 on validation, sampled",
    }  # fmt: skip
    assert list(key(figure.legends[0])) == ["best setting", "good", "bad"]
    # a share of each axis, from its lowest to its highest; the worst first, what diverged not
    low, span = 0.28, 0.45
    expected = np.array([
        [1 / 3, np.log(1.1 / 0.5) / np.log(4), 0, 0],
        [0, 0, 0, (0.31 - low) / span],
        [1, np.log(1.3 / 0.5) / np.log(4), 1, (0.44 - low) / span],
        [0, np.log(0.9 / 0.5) / np.log(4), 1, (0.52 - low) / span],
        [1 / 3, 1, 1, 1],
    ])  # fmt: skip
    lines = [line for line in panel.lines if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(
        [curve(line)[1] for line in lines[:5]], expected, atol=0.0151
    )  # set apart a little
    (winner,) = curves(panel, COLOURS[1])
    assert winner is lines[5]
    np.testing.assert_allclose(curve(winner), [[0, 1, 2, 3], expected[-1]])
    shades = [np.mean(to_rgb(line.get_color())) for line in lines[:5]]
    assert shades == sorted(shades, reverse=True)  # the better, the darker
    good, bad = (np.mean(to_rgb(key(figure.legends[0])[of].get_color())) for of in ("good", "bad"))
    assert good == pytest.approx(shades[-1])
    assert bad == pytest.approx(shades[0])
    marks = {(text.get_text(), *text.xy) for text in panel.texts}
    assert {("0.5", 0, 0.0), ("2", 0, 1.0), ("logit", 2, 0.0), ("probability", 2, 1.0)} <= marks
    assert {("0.5", 1, 0.0), ("2", 1, 1.0), ("0.2800", 3, 0), ("0.7300", 3, 1)} <= marks


def test_a_name_of_data_is_no_formula(searched, tmp_path, pictures):
    odd = dataclasses.replace(searched, about=searched.about | {"dataset": "$x^$"})
    effects_chart(odd, tmp_path / "effects.png")
    settings_chart(odd, tmp_path / "settings.png")
    assert said(pictures["effects.png"])[0] == "slope on $x^$: main effects"
    assert said(pictures["settings.png"])[0] == "slope on $x^$: settings"


def test_a_picture_of_many_listed_values_can_be_drawn(tmp_path, pictures):
    """More than there is room for labels: the axis chooses its own."""
    few, many = "0.1,0.2,0.4,0.8,1,2,3,4", "0.1,0.2,0.4,0.8,1,2,3,4,5"
    for values, labelled in ((few, True), (many, False)):
        result = sweep(Slope(rounds=1), [f"speed={values}"])
        effects_chart(result, tmp_path / "effects.png")
        axis = pictures["effects.png"].axes[0].xaxis
        assert (list(ticks(axis).values()) == values.split(",")) == labelled


@pytest.mark.slow
def test_pictures_of_a_random_search_hold_all_its_trials(tmp_path, pictures):
    """Ranges and words; trials that ended early."""
    vary = ["speed=log:0.1:4", "init_scale=0.5:2", "bce=logit,probability"]
    config = Slope(rounds=4)
    result = sweep(config, vary, search="random", trials=6, halving=2)
    assert "stopped early" in set(result.trials["status"])
    effects_chart(result, tmp_path / "effects.png")
    settings_chart(result, tmp_path / "settings.png")
    metric = f"val hr@{config.top_k}"
    panel = pictures["effects.png"].axes[0]
    both = [curve(line) for line in panel.lines[:2]]
    shown = {point for x, y in both for point in zip(x, y, strict=True)}
    assert shown == set(zip(result.trials["speed"], result.trials[metric], strict=True))
    lines = pictures["settings.png"].axes[0].lines
    assert sum(len(line.get_xdata()) == 4 for line in lines) == 6 + 1  # the best is drawn twice

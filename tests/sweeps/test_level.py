"""What a sweep says beside its table: best values that are level, settings without effect, pictures
that cannot be drawn."""

import pandas as pd
import pytest

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.presets import preset
from fedem_jax.sweeps import charts
from fedem_jax.sweeps.description import Sweep
from fedem_jax.sweeps.progress import idle_settings
from fedem_jax.sweeps.run import SweepResult, sweep
from fedem_jax.sweeps.space import space
from fedem_jax.sweeps.tables import notes, write_up


def result(hr, ndcg, status=("done", "done", "done")):
    """A sweep of three settings with these validation metrics, the best first."""
    config = preset(method="fcf", lr_server=0.1, num_negative=1)
    varied = space(type(config), ["lr_server=0.1,0.2,0.4", "num_negative=1,2,4"])
    settings = pd.DataFrame({
        "setting": range(3), "lr_server": [0.1, 0.2, 0.4], "num_negative": [1, 2, 4],
        "status": status, "val hr@10": hr, "val ndcg@10": ndcg,
    })  # fmt: skip
    trials = settings.assign(seed=0)
    about = {"seconds": {"running": 0}}
    return SweepResult(Sweep(config, varied, (0,)), trials, trials, settings, config, about)


def test_equal_best_values_are_level_and_at_no_edge():
    said = " ".join(notes(result([0.5, 0.5, 0.3], [0.2, 0.2, 0.1])))
    assert "The best values of lr_server are level: 0.1, 0.2;" in said
    assert "The best values of num_negative are level: 1, 2;" in said
    assert "that was searched" not in said


@pytest.mark.parametrize(
    ("hr", "ndcg", "status"),
    [
        ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1], ("done",) * 3),
        ([0.5, 0.5, 0.3], [0.2, 0.1, 0.1], ("done",) * 3),
        ([0.5, 0.5, 0.3], [0.2, 0.2, 0.1], ("done", "stopped early", "done")),
    ],
)
def test_a_single_best_value_may_be_at_an_edge(hr, ndcg, status):
    said = " ".join(notes(result(hr, ndcg, status)))
    assert "level" not in said
    assert "The best lr_server is the smallest that was searched" in said


# --- without effect -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "vary", "idle"),
    [
        ("fcf", {}, ["num_negative=2,4", "lr_server=0.1,0.2"], ["num_negative"]),
        ("fedem", {}, ["lr_network=0.1,0.2", "alpha=0.5,1"], ["lr_network"]),
        ("fedem", {}, ["lr_network=0.1,0.2", "backbone=mf,ncf"], []),
        ("fedem", {"merging": "none"}, ["lr_adapter=0.1,0.2", "dim=2,4"], ["lr_adapter"]),
    ],
)
def test_a_setting_that_is_varied_without_effect_is_said_first(method, settings, vary, idle):
    config = preset("released", method=method, **settings)
    wanted = Sweep(config, space(type(config), vary), (0,))
    assert wanted.idle() == idle
    said = idle_settings(wanted)
    assert ("without effect" in said) == bool(idle)
    if idle:
        assert f"{idle[0]}: without effect on {method} with these settings;" in said


def test_a_search_by_optuna_says_it_too():
    wanted = Sweep(
        FedEM(), space(FedEM, ["lr_network=0.1:0.2", "alpha=0.5:1"]), (0,), "optuna", trials=3
    )
    assert wanted.idle() == ["lr_network"]


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_costs_a_sentence(tmp_path, monkeypatch):
    few = {"rounds": 1, "dim": 2, "local_epochs": 1, "top_k": 3}
    found = sweep(preset(method="fedmf", **few), "lr_embedding=0.01,0.1", out=tmp_path)

    def broken(*_):
        raise ValueError("no font")

    monkeypatch.setattr(charts, "effects_chart", broken)
    said = []
    write_up(found, tmp_path, "fedem sweep", said.append)
    assert said == [f"{tmp_path / 'effects.png'}: cannot be drawn (no font)."]
    left = {path.name for path in tmp_path.iterdir()}
    assert {"table.md", "best.json", "tuned.toml", "settings.png"} <= left
    assert "effects.png" not in left

"""What a sweep varies, as it is written on the command line and in files."""

import json

import numpy as np
import pytest

from fedem_jax.config.fedem import FedEM
from fedem_jax.errors import UserError
from fedem_jax.sweeps.space import drawn, grid, space


def values_of(text):
    (values,) = space(FedEM, [text])
    return values


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("lr_embedding=0.01,0.03", (0.01, 0.03)),
        ("lr-embedding=1", (1.0,)),
        ("alpha=0.5:1.0:6", (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("lr_adapter=log:1e-3:1e-1:3", (0.001, 0.01, 0.1)),
        ("local_epochs=1:10:4", (1, 4, 7, 10)),
        ("aggregation=avg,sim", ("avg", "sim")),
        ("merging=0.3,once", ("0.3", "once")),
        ("adapter_widths=16x8,32", ((16, 8), (32,))),
    ],
)
def test_values_have_the_type_of_their_setting(text, listed):
    values = values_of(text)
    assert values.listed == listed
    assert [type(value) for value in values.listed] == [type(value) for value in listed]
    assert values_of(str(values)).listed == listed


@pytest.mark.parametrize(
    ("name", "given", "listed"),
    [
        ("merging", [0.3, "once", "0.7"], ("0.3", "once", "0.7")),
        ("alpha", ["0.3", 1, np.float32(0.5)], (0.3, 1.0, 0.5)),
        ("alpha", 1, (1.0,)),
        ("dim", [4, 8.0, np.int64(16)], (4, 8, 16)),
        ("adapter_widths", [[16, 8], (32,), "64x32", []], ((16, 8), (32,), (64, 32), ())),
        ("adapter_widths", ",16", ((), (16,))),
    ],
)
def test_values_of_a_file_or_of_python_have_it_too(name, given, listed):
    (values,) = space(FedEM, {name: given})
    assert repr(values.listed) == repr(listed)
    assert values_of(str(values)).listed == listed


def test_a_grid_is_every_combination():
    settings = grid(space(FedEM, {"alpha": [0.5, 1], "dim": "4,8,16"}))
    assert len(settings) == 6
    assert settings[0] == {"alpha": 0.5, "dim": 4}
    assert settings[1] == {"alpha": 0.5, "dim": 8}


def test_draws_stay_in_their_range_and_are_spread_as_asked():
    varied = space(FedEM, ["lr_embedding=log:1e-4:1", "local_epochs=1:10", "aggregation=avg,sim"])
    settings = drawn(varied, 400, seed=0)
    steps = np.log10([setting["lr_embedding"] for setting in settings])
    assert steps.min() >= -4
    assert steps.max() <= 0
    counts, _ = np.histogram(steps, bins=4, range=(-4, 0))
    assert counts.min() > 70  # 100 expected, sd 9
    assert {setting["local_epochs"] for setting in settings} == set(range(1, 11))
    assert {setting["aggregation"] for setting in settings} == {"avg", "sim"}
    assert drawn(varied, 10, seed=0) == settings[:10]
    assert drawn(varied, 10, seed=1) != settings[:10]
    assert len(drawn(space(FedEM, ["aggregation=avg,sim"]), 10, seed=0)) == 2


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_a_space_may_stand_in_a_file(tmp_path, ending):
    path = tmp_path / f"space.{ending}"
    text = json.dumps({"lr_embedding": [0.01, 0.1], "alpha": "0:1:3"})
    path.write_text(text if ending == "json" else 'lr_embedding = [0.01, 0.1]\nalpha = "0:1:3"\n')
    varied = space(FedEM, ["dim=4,8"], path)
    assert [values.name for values in varied] == ["lr_embedding", "alpha", "dim"]
    assert varied[1].listed == (0.0, 0.5, 1.0)
    path.write_text("{")
    with pytest.raises(UserError, match=f"space.{ending}: is not {ending.upper()}"):
        space(FedEM, [], path)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "nothing is varied"),
        (["lr_embedding"], "'lr_embedding' names no values"),
        (["lr_embeding=1"], "'lr_embeding' is unknown; did you mean 'lr_embedding'"),
        (["seed=0,1"], "'seed' is the same for all trials"),
        (["order=file,random"], "'order' is the same for all trials"),
        (["alpha=0,1", "alpha=2"], "'alpha' is named twice"),
        (["alpha=much"], "alpha: 'much' is no number"),
        (["dim=1.5"], "dim: '1.5' is no integer"),
        (["alpha=1:0:3"], "alpha=1:0:3 is no range"),
        (["alpha=0:1:1"], "alpha=0:1:1 is no range"),
        (["alpha=log:0:1:3"], "no logarithm at 0"),
    ],
)
def test_mistakes_are_named(texts, message):
    with pytest.raises(UserError, match=message):
        space(FedEM, texts)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dim", [4, 8.5], "vary: dim: 8.5 is no integer"),
        ("dim", [True], "vary: dim: True is no integer"),
        ("alpha", [[0.1]], r"vary: alpha: \[0.1\] is no number"),
        ("aggregation", [1], "vary: aggregation: 1 is none of both, avg, sim"),
        ("adapter_widths", [16, 8], "vary: adapter_widths: 16 is no list of integers"),
        ("adapter_widths", "16x8,16xy", "vary: adapter_widths: 'y' is no integer"),
        ("alpha", [], "vary: 'alpha' has no values"),
    ],
)
def test_a_value_of_another_type_is_named(name, given, message):
    with pytest.raises(UserError, match=message):
        space(FedEM, {name: given})


def test_a_grid_needs_steps():
    with pytest.raises(UserError, match="alpha=0:1 is a range without steps"):
        grid(space(FedEM, ["alpha=0:1"]))

"""A sweep takes the values that people have at hand: arrays and scalars of NumPy, ranges, paths."""

import numpy as np
import pandas as pd
import pytest

import fedem_jax as fj
from fedem_jax.config.fedem import FedEM
from fedem_jax.errors import UserError
from fedem_jax.sweeps.run import sweep
from fedem_jax.sweeps.space import space


@pytest.mark.parametrize(
    ("name", "given", "listed"),
    [
        ("lr_embedding", np.logspace(-3, -1, 3), (0.001, 0.01, 0.1)),
        ("lr_embedding", np.float32(0.1), (0.1,)),
        ("lr_embedding", np.array([0.1, 0.2], np.float32), (0.1, 0.2)),
        ("lr_embedding", pd.Series([0.1, 0.2]), (0.1, 0.2)),
        ("local_epochs", np.arange(1, 4), (1, 2, 3)),
        ("local_epochs", range(1, 3), (1, 2)),
        ("local_epochs", np.array([1.0, 2.0]), (1, 2)),
        ("adapter_widths", [np.array([16, 8]), (4,)], ((16, 8), (4,))),
        ("merging", np.array([0.5, 1.0]), ("0.5", "1.0")),
    ],
)
def test_values_of_a_setting(name, given, listed):
    (values,) = space(FedEM, {name: given})
    assert repr(values.listed) == repr(listed)


def test_a_single_sentence_of_values_is_no_list_of_letters():
    assert space(FedEM, "alpha=0.5,1")[0].listed == (0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 1.5}, "seeds: 1.5 is no integer."),
        ({"seeds": (0.5,)}, "seeds: 0.5 is no integer."),
        ({"seeds": np.array([-1])}, "seeds: -1 is out of range"),
        ({"seeds": np.array([])}, "seeds: give at least one"),
        ({"search": "random", "trials": 1.5}, "trials: 1.5 is no integer."),
        ({"halving": -2}, "halving: -2 is out of range"),
        ({"width": 0.5}, "width: 0.5 is no integer."),
    ],
)
def test_numbers_of_another_type_are_refused_before_anything_runs(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        sweep(FedEM(), "alpha=0.5,1", **changes)


@pytest.mark.slow
def test_a_sweep_of_numpy_values_ends_with_its_tables(tmp_path):
    config = fj.preset(method="fedmf", rounds=np.int64(1), dim=2, local_epochs=np.float64(1))
    values = {"lr_embedding": np.logspace(-3, -2, 2, dtype=np.float32)}
    result = sweep(config, values, seeds=np.arange(2), out=tmp_path / "s", width=np.int64(2))
    assert len(result.trials) == 4
    again = sweep(config, values, seeds=(0, 1), out=str(tmp_path / "s"))
    assert again.about["fingerprint"] == result.about["fingerprint"]
    assert again.about["seconds"]["running"] == 0

"""Types of settings where they enter: what is meant is taken, anything else is a sentence."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import fedem_jax as fj
from fedem_jax.config.base import share_of
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.file import load_settings


@pytest.mark.parametrize(
    ("field", "given", "value"),
    [
        ("rounds", 5.0, 5),
        ("top_k", np.float64(5), 5),
        ("rounds", np.int32(5), 5),
        ("rounds", np.array(5), 5),
        ("rounds", jnp.int32(5), 5),
        ("lr_embedding", 1, 1.0),
        ("lr_embedding", np.float32(0.1), 0.1),
        ("lr_embedding", np.float64(0.1), 0.1),
        ("lr_embedding", jnp.float32(0.1), 0.1),
        ("per_client", np.True_, True),
        ("dataset", Path("a/mine.csv"), "a/mine.csv"),
        ("out", Path("r"), "r"),
        ("dataset", np.str_("ml-100k"), "ml-100k"),
        ("adapter_widths", np.array([16, 8]), (16, 8)),
        ("adapter_widths", [16.0], (16,)),
        ("columns", ["user", "item"], ("user", "item")),
        ("merging", 0.3, "0.3"),
        ("merging", np.float32(0.3), "0.3"),
    ],
)
def test_what_is_meant_is_taken(field, given, value, tmp_path):
    config = fj.preset(**{field: given})
    found = getattr(config, field)
    assert (found, type(found)) == (value, type(value))
    assert all(type(entry) in (int, str) for entry in found) if type(found) is tuple else True
    config.save(tmp_path / "config.json")
    assert load_settings(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("field", "given", "sentence"),
    [
        ("rounds", "5", "rounds: '5' is no integer."),
        ("eval_every", 1.5, "eval_every: 1.5 is no integer."),
        ("rounds", True, "rounds: True is no integer."),
        ("rounds", np.float32("nan"), "rounds: nan is no integer."),
        ("rounds", None, "rounds: None is no integer."),
        ("seed", [0], "seed: [0] is no integer."),
        ("lr_embedding", "0.1", "lr_embedding: '0.1' is no number."),
        ("per_client", 1, "per_client: 1 is neither true nor false."),
        ("dataset", 3, "dataset: 3 is no text."),
        ("protocol", ["paper"], "protocol: ['paper'] is no text."),
        ("adapter_widths", "16,8", "adapter_widths: '16,8' is no list of integers."),
        ("aggregation", 1, "aggregation: 1 is none of both, avg, sim, cohort."),
    ],
)
def test_another_type_is_a_sentence(field, given, sentence):
    for make in (FedEM, fj.preset):
        with pytest.raises(fj.UserError, match=rf"^{re.escape(sentence)}$"):
            make(**{field: given})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"roundz": 3}, "unknown setting 'roundz'; did you mean 'rounds'?"),
        ({"name": "relased"}, "preset: 'relased' is unknown; did you mean 'released'?"),
        ({"method": "pfedrek"}, "method: 'pfedrek' is unknown; did you mean 'pfedrec'?"),
        ({"method": ["fedem"]}, "method: ['fedem'] is unknown"),
        ({"protocol": "papr"}, "protocol: 'papr' is unknown; did you mean 'paper'?"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(given, sentence):
    with pytest.raises(fj.UserError, match=rf"^{re.escape(sentence)}"):
        fj.preset(**given)


def test_a_run_of_unknown_data_suggests_the_nearest():
    with pytest.raises(fj.UserError, match="did you mean 'ml-100k'"):
        fj.run(fj.preset(dataset="ml-10k"))


@pytest.mark.parametrize(
    ("number", "share", "count"),
    [(100, 0.29, 29), (100, 0.57, 57), (1000, 0.001, 1), (100, 0.299, 29), (943, 0.1, 94),
     (6040, 0.1, 604), (10, 0.999, 9), (7, 1.0, 7)],
)  # fmt: skip
def test_a_share_that_is_whole_loses_nobody_to_rounding(number, share, count):
    assert share_of(number, share) == count


def test_shares_that_are_no_hundredths_are_those_of_the_released_programs():
    for number in range(1, 3000, 7):
        for share in (0.1, 0.125, 0.25, 0.3333, 0.5, 0.75, 1.0):
            assert share_of(number, share) - int(number * share) in (0, 1)
            assert abs(share_of(number, share) - number * share) < 1


def test_participants_and_uploaders_are_counted_alike():
    config = FedEM(client_fraction=0.29, aggregation_fraction=0.29)
    assert config.round_sizes(100) == (29, 8)
    assert FedEM(aggregation_fraction=0.29).round_sizes(100) == (100, 29)


def test_settings_of_a_summary_are_json(tmp_path):
    config = fj.preset(rounds=np.int64(3), lr_embedding=np.float32(0.1), seed=np.uint8(4))
    config.save(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 4


def test_the_path_of_a_known_name_has_its_preset():
    assert fj.preset(dataset=Path("synthetic")) == fj.preset(dataset="synthetic")

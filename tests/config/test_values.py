"""Texts and data become values of the types that fields declare."""

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from fedem_jax.comparisons.plan import plan_comparison
from fedem_jax.config.ranges import Count, Positive
from fedem_jax.config.registry import METHODS
from fedem_jax.config.values import declared, from_data, from_text
from fedem_jax.errors import UserError


@dataclass
class Fields:
    """One field of each type."""

    whole: Count = 1
    real: Positive = 1.0
    flag: bool = True
    word: str = "a"
    choice: Literal["", "left", "right"] = "left"
    widths: tuple[Count, ...] = (1,)
    steps: tuple[float, ...] = (1.0,)
    names: tuple[str, ...] = ("a",)


def same(found, value):
    """Equal, and of equal types."""
    return repr(found) == repr(value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("whole", "3", 3),
        ("real", "3", 3.0),
        ("real", "1e-3", 0.001),
        ("flag", "false", False),
        ("flag", "False", False),
        ("flag", "true", True),
        ("word", "0.3", "0.3"),
        ("word", "a,b", "a,b"),
        ("choice", "right", "right"),
        ("choice", "rihgt", "rihgt"),  # refused when the settings are made, with the choices
        ("widths", "16,8", (16, 8)),
        ("widths", "16", (16,)),
        ("widths", "", ()),
        ("steps", "1,0.5", (1.0, 0.5)),
        ("names", "user,3", ("user", "3")),
        ("names", "", ()),
    ],
)
def test_a_text_has_the_type_of_its_field(name, text, value):
    assert same(from_text(Fields, name, text), value)


def test_entries_may_stand_between_other_signs():
    assert from_text(Fields, "widths", "16x8", between="x") == (16, 8)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("whole", 3, 3),
        ("whole", 3.0, 3),
        ("whole", np.int64(3), 3),
        ("real", 3, 3.0),
        ("real", 0.1, 0.1),
        ("real", np.float32(0.5), 0.5),
        ("flag", False, False),
        ("word", "0.3", "0.3"),
        ("choice", "right", "right"),
        ("widths", [16, 8.0], (16, 8)),
        ("widths", (), ()),
        ("steps", [1, 0.5], (1.0, 0.5)),
        ("names", ["user", "3"], ("user", "3")),
    ],
)
def test_data_have_the_type_of_their_field(name, given, value):
    assert same(from_data(Fields, name, given), value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("whole", "wide", "whole: 'wide' is no integer."),
        ("whole", "1.5", "whole: '1.5' is no integer."),
        ("whole", "9" * 5000, "is no integer."),
        ("real", "much", "real: 'much' is no number."),
        ("real", "", "real: '' is no number."),
        ("flag", "maybe", "flag: 'maybe' is neither true nor false."),
        ("flag", "", "flag: '' is neither true nor false."),
        ("widths", "16,8.5", "widths: '8.5' is no integer."),
        ("widths", "16,", "widths: '' is no integer."),
        ("steps", "1;2", "steps: '1;2' is no number."),
    ],
)
def test_a_text_of_another_type_is_named(name, text, sentence):
    with pytest.raises(UserError, match=rf"{re.escape(sentence)}$"):
        from_text(Fields, name, text)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("whole", "3", "whole: '3' is no integer."),
        ("whole", 2.5, "whole: 2.5 is no integer."),
        ("whole", True, "whole: True is no integer."),
        ("whole", float("nan"), "whole: nan is no integer."),
        ("whole", float("inf"), "whole: inf is no integer."),
        ("real", "3", "real: '3' is no number."),
        ("real", None, "real: None is no number."),
        ("real", False, "real: False is no number."),
        ("real", 10**400, "is too large; give a number of at most 1.8e+308."),
        ("flag", "false", "flag: 'false' is neither true nor false."),
        ("flag", 0, "flag: 0 is neither true nor false."),
        ("word", 3, "word: 3 is no text."),
        ("choice", 3, "choice: 3 is none of left, right."),
        ("choice", ["left"], "choice: ['left'] is none of left, right."),
        ("widths", 16, "widths: 16 is no list of integers."),
        ("widths", "16", "widths: '16' is no list of integers."),
        ("widths", ["16"], "widths: '16' is no integer."),
        ("steps", {"a": 1}, "steps: {'a': 1} is no list of numbers."),
        ("names", "user", "names: 'user' is no list of texts."),
        ("names", [0], "names: 0 is no text."),
    ],
)
def test_data_of_another_type_are_named(name, value, sentence):
    with pytest.raises(UserError, match=rf"{re.escape(sentence)}$"):
        from_data(Fields, name, value)


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_of_every_method_are_read_back(method):
    kind = METHODS[method].settings
    for field in dataclasses.fields(kind):
        value = field.default
        assert same(from_data(kind, field.name, json.loads(json.dumps(value))), value)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert same(from_text(kind, field.name, text), value)
        assert declared(kind, field.name) is not None


def test_a_setting_of_a_comparison_may_be_an_empty_list():
    (fedem,) = plan_comparison(["fedem:adapter_widths="], settings=["columns="]).contenders
    assert (fedem.config.adapter_widths, fedem.config.columns) == ((), ())

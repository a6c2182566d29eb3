"""`tuned.toml`: what an entry may hold, and that it is read as it was written."""

import dataclasses
import re
import shlex
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedem_jax.config import presets
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.presets import preset
from fedem_jax.config.tuned import FILE, Tuned, as_toml, entries_of, tuned
from fedem_jax.errors import UserError

ENTRY = """
[fedem.ml-100k]
command = "fedem sweep --dataset ml-100k --vary lr_embedding=1,3"
found = "Best of 2."

[fedem.ml-100k.settings]
lr_embedding = 3
adapter_widths = [8]
"""


def test_an_entry_has_the_types_of_the_settings():
    entry = Tuned(
        settings={"lr_embedding": 3.0, "adapter_widths": (8,)},
        found="Best of 2.",
        command="fedem sweep --dataset ml-100k --vary lr_embedding=1,3",
    )
    found = entries_of(ENTRY, "x.toml")
    assert repr(found) == repr({("fedem", "ml-100k"): entry})


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "rounds": st.integers(1, 2**31 - 1),
        "lr_embedding": st.floats(0, exclude_min=True, allow_infinity=False),
        "bce": st.sampled_from(["logit", "probability"]),
        "per_client": st.booleans(),
        "adapter_widths": st.lists(st.integers(1, 99), max_size=3).map(tuple),
        "columns": st.lists(st.text(), max_size=3).map(tuple),
        "separator": st.text(),
        "encoding": st.text(),
    },
)
TEXTS = st.text(st.characters(codec="utf-8")) | st.sampled_from(["a.b/c 'd'.csv", '"', "\x7f", ""])


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(dataset=TEXTS, values=SETTINGS, found=TEXTS.filter(bool), command=TEXTS)
def test_what_is_written_is_read_back(dataset, values, found, command):
    entry = Tuned(values, found, command)
    text = as_toml("fedem", dataset, entry)
    assert entries_of(text, "x.toml") == {("fedem", dataset): entry}


@pytest.mark.parametrize("dataset", ["a.b/my data.csv", "naïve.csv", 'the "best".tsv', "\x7f"])
def test_settings_may_be_of_any_file(monkeypatch, dataset):
    entry = Tuned({"lr_embedding": 0.5}, "Best of 2.")
    entries = entries_of(ENTRY + as_toml("fedem", dataset, entry), "x.toml")
    monkeypatch.setattr(presets, "tuned", lambda: entries)
    assert preset("tuned", dataset=dataset) == FedEM(dataset=dataset, lr_embedding=0.5)
    assert preset("tuned", dataset="ml-100k").lr_embedding == 3.0


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("lr_embedding = 3", "lr_embeding = 3", "unknown field 'lr_embeding'; did you mean"),
        ("lr_embedding = 3", 'lr_embedding = "3"', "lr_embedding: '3' is no number."),
        ("lr_embedding = 3", "lr_embedding = 0", "lr_embedding: 0.0 is out of range"),
        ("[8]", "8", "adapter_widths: 8 is no list of integers."),
        ("found =", "fund =", "'fund' is unknown; known: command, found, settings."),
        ('found = "Best of 2."', "", "has no text called found."),
        ('found = "Best of 2."', "found = 2", "has no text called found."),
        (".settings]", ".setting]", "'setting' is unknown"),
        ("[fedem.ml-100k.settings]", "", "'adapter_widths' is unknown"),
    ],
)
def test_a_mistake_is_named_with_its_entry(old, new, sentence):
    assert old in ENTRY
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        entries_of(ENTRY.replace(old, new), "x.toml")
    assert str(caught.value).startswith("x.toml: [fedem.ml-100k]: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (ENTRY.replace("fedem.", "fedm."), "x.toml: [fedm.ml-100k]: method: 'fedm' is unknown"),
        (ENTRY + ENTRY, "x.toml: is not TOML (Cannot declare ('fedem', 'ml-100k') twice"),
        ("rounds = 3", "x.toml: [rounds]: is no table; see the entries of tuned.toml."),
        ("[fedem]\nrounds = 3", "x.toml: [fedem.rounds]: is no table"),
        ('[fedem."a.b"]\nfound = "it"', 'x.toml: [fedem."a.b"]: settings: is no table'),
    ],
)
def test_a_text_without_entries_is_named(text, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        entries_of(text, "x.toml")


def test_the_file_is_written_as_a_sweep_writes_it():
    """An entry may be replaced by what a new sweep prints, and nothing else changes."""
    text = FILE.read_text(encoding="utf-8")
    for (method, dataset), entry in tuned().items():
        assert as_toml(method, dataset, entry) in text


@pytest.mark.parametrize(("method", "dataset"), tuned())
def test_the_command_of_an_entry_is_of_its_method_and_data(method, dataset):
    command = shlex.split(tuned()[method, dataset].command)
    if dataset == "synthetic" and not command:  # from before commands were kept
        return
    assert command[:2] == ["fedem", "sweep"]
    flags = dict(zip(command[2::2], command[3::2], strict=True))
    assert flags["--dataset"] == dataset
    assert flags.get("--method", "fedem") == method
    assert flags["--protocol"] == "leak-free"
    assert int(flags["--rounds"]) == preset("tuned", dataset=dataset, method=method).rounds


def test_the_file_is_part_of_the_package():
    project = tomllib.loads((FILE.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["package-data"]["fedem_jax"]
    assert str(FILE.relative_to(FILE.parents[1])) in listed


def test_the_file_is_read_once_and_only_when_needed(monkeypatch):
    monkeypatch.setattr(presets, "tuned", lambda: pytest.fail("the file was read"))
    paper = {"dataset": "ml-100k", "protocol": "paper"}
    assert dataclasses.asdict(preset(**paper)) == dataclasses.asdict(preset("released", **paper))
    assert tuned() is tuned()

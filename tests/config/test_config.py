"""Settings: what is refused, and that a file holds them all."""

import dataclasses
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedem_jax.config.fedem import FedEM
from fedem_jax.config.file import load_settings
from fedem_jax.config.presets import RELEASED, preset
from fedem_jax.config.tuned import tuned
from fedem_jax.data.sources import known_datasets
from fedem_jax.errors import UserError


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rounds", 0, "rounds: 0 is out of range; give a number of at least 1"),
        ("rounds", -3, "rounds: -3 is out of range"),
        ("seed", -1, "seed: -1 is out of range; give a number of at least 0"),
        ("eval_every", 0, "eval_every: 0 is out of range"),
        ("dim", 0, "dim: 0 is out of range"),
        ("local_epochs", 0, "local_epochs: 0 is out of range"),
        ("batch_size", 0, "batch_size: 0 is out of range"),
        ("num_negative", 0, "num_negative: 0 is out of range"),
        ("top_k", 0, "top_k: 0 is out of range"),
        ("block_size", -1, "block_size: -1 is out of range"),
        ("size_classes", -1, "size_classes: -1 is out of range"),
        ("num_candidates", -1, "num_candidates: -1 is out of range"),
        ("min_interactions", -1, "min_interactions: -1 is out of range"),
        ("lr_embedding", 0.0, "lr_embedding: 0.0 is out of range; give a number above 0"),
        ("lr_embedding", float("nan"), "lr_embedding: nan is out of range; give a number above 0"),
        ("lr_adapter", -0.1, "lr_adapter: -0.1 is out of range; give a number above 0"),
        ("lr_adapter", float("inf"), "lr_adapter: inf is out of range; give a number above 0"),
        ("init_scale", 0.0, "init_scale: 0.0"),
        ("threshold", -1e-4, "threshold: -0.0001 is out of range"),
        ("threshold", float("nan"), "threshold: nan is out of range"),
        ("alpha", -0.1, "alpha: -0.1 is out of range"),
        ("client_fraction", 0.0, "client_fraction: 0.0 is out of range; give a number in (0, 1]"),
        ("client_fraction", 2.0, "client_fraction: 2.0 is out of range; give a number in (0, 1]"),
        (
            "aggregation_fraction",
            1.1,
            "aggregation_fraction: 1.1 is out of range; give a number in (0, 1]",
        ),
        (
            "aggregation_fraction",
            float("nan"),
            "aggregation_fraction: nan is out of range; give a number in (0, 1]",
        ),
        (
            "adapter_widths",
            (16, 0),
            "adapter_widths: 0 is out of range; give a number of at least 1",
        ),
        ("merging", "per_batch", "merging: 'per_batch' is unknown; did you mean 'per-batch'"),
        ("merging", "1.5", "merging: 1.5 is no weight"),
        ("merging", "-0.1", "merging: -0.1 is no weight"),
        ("merging", "nan", "merging: nan is no weight"),
        ("aggregation", "bth", "aggregation: 'bth' is unknown; did you mean 'both'"),
        ("similarity", "cosine", "similarity: 'cosine' is unknown"),
        ("bce", "logits", "bce: 'logits' is unknown; did you mean 'logit'"),
        ("header", "true", "header: 'true' is unknown; known: auto, yes, no"),
        ("ties", "averge", "ties: 'averge' is unknown; did you mean 'average'"),
        ("protocol", "leakfree", "protocol: 'leakfree' is unknown; did you mean 'leak-free'"),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(field, value, words):
    with pytest.raises(UserError, match=re.escape(words)):
        FedEM(**{field: value})


@pytest.mark.parametrize("merging", ["per-batch", "once", "replace", "none", "0", "0.3", "1"])
def test_all_ways_of_merging_are_taken(merging):
    assert FedEM(merging=merging).merging == merging


def test_limits_are_inside():
    FedEM(rounds=1, client_fraction=1.0, threshold=0.0, alpha=0.0, block_size=0, adapter_widths=())


@pytest.mark.parametrize(
    ("name", "values", "method", "dataset"),
    [("released", values, *key) for key, values in RELEASED.items()]
    + [("tuned", entry.settings, *key) for key, entry in tuned().items()],
)
def test_presets_are_settings_of_their_method_on_known_data(name, values, method, dataset):
    assert dataset in {"synthetic", *(known.name for known in known_datasets())}
    config = preset(name, dataset=dataset, method=method)
    assert values.items() <= dataclasses.asdict(config).items()


# --- files ----------------------------------------------------------------------------------------


def test_a_saved_config_is_loaded_as_it_was(tmp_path):
    config = FedEM(
        dataset="a.csv", rounds=7, lr_embedding=0.025, merging="0.3", adapter_widths=(5,),
        columns=("user", "3"), client_fraction=0.5, ties="average", per_client=True,
    )  # fmt: skip
    config.save(tmp_path / "config.json")
    assert load_settings(tmp_path / "config.json") == config
    assert set(json.loads((tmp_path / "config.json").read_text())) == {
        field.name for field in dataclasses.fields(FedEM)
    }


def written(path, text):
    path.write_text(text)
    return path


def test_what_a_file_leaves_out_is_the_default(tmp_path):
    path = written(tmp_path / "c.json", '{"rounds": 3, "lr_embedding": 1}')
    config = load_settings(path)
    assert config == FedEM(rounds=3, lr_embedding=1.0)
    assert isinstance(config.lr_embedding, float)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"runds": 3}', "unknown field 'runds'; did you mean 'rounds'"),
        ('{"rounds": "3"}', "config.json: rounds: '3' is no integer."),
        ('{"rounds": 2.5}', "config.json: rounds: 2.5 is no integer."),
        ('{"rounds": true}', "config.json: rounds: True is no integer."),
        ('{"lr_embedding": null}', "lr_embedding: None is no number."),
        ('{"adapter_widths": 16}', "adapter_widths: 16 is no list of integers."),
        ('{"rounds": 0}', "config.json: rounds: 0 is out of range"),
        ('{"rounds": 3', "is not JSON"),
        ("[1, 2]", "holds no settings"),
        ('{"adapter_widths": ["16"]}', "adapter_widths: '16' is no integer."),
        ('{"columns": [0, 1]}', "columns: 0 is no text."),
        ('{"per_client": "false"}', "per_client: 'false' is neither true nor false."),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, words):
    path = written(tmp_path / "config.json", text)
    with pytest.raises(UserError, match=re.escape(words)):
        load_settings(path)


HOSTILE = {
    "nested": ("[" * 100_000, "nested too deep"),
    "nested value": ('{"dim": ' + "[" * 900 + "]" * 900 + "}", "dim: [[[[[[[...]]]]]]] is no"),
    "twice": ('{"dim": 4, "rounds": 1, "dim": 5}', "gives 'dim' twice"),
    "twice inside": ('{"dim": {"a": 1, "a": 2}}', "gives 'a' twice"),
    "nan": ('{"lr_embedding": NaN}', "lr_embedding: nan is out of range"),
    "infinity": ('{"lr_embedding": Infinity}', "lr_embedding: inf is out of range"),
    "minus infinity": ('{"alpha": -Infinity}', "alpha: -inf is out of range"),
    "no integer": ('{"rounds": NaN}', "rounds: nan is no integer"),
    "overflow": ('{"lr_embedding": 1e999}', "lr_embedding: inf is out of range"),
    "long seed": ('{"seed": 4294967296}', "seed: has too many digits; give a number of at most"),
    "long rounds": ('{"rounds": 1' + "0" * 400 + "}", "rounds: has too many digits"),
    "long width": ('{"adapter_widths": [99999999999]}', "adapter_widths: has too many digits"),
    "long float": ('{"lr_embedding": 1' + "0" * 400 + "}", "is too large; give a number of"),
    "longer": ('{"rounds": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
    "method": ('{"method": {"__class__": "os.system"}}', "method: {'__class__': 'os.system'} is"),
    "no method": ('{"method": null}', "method: None is unknown"),
    "long method": (f'{{"method": "{"x" * 10**5}"}}', "is unknown; known: fedem"),
    "long field": (f'{{"{"x" * 10**5}": 1}}', "unknown field 'xxxx"),
    "dunder": ('{"__init__": 1}', "unknown field '__init__'"),
    "line break": ('{"a\\nb": 1}', "unknown field 'a\\nb'"),
    "long value": (f'{{"rounds": "{"x" * 10**5}"}}', "is no integer"),
    "long choice": (f'{{"bce": "{"x" * 10**5}"}}', "bce: 'xxxx"),
    "long merging": (f'{{"merging": "{"x" * 10**5}"}}', "merging: 'xxxx"),
    "long protocol": (f'{{"protocol": "{"x" * 10**5}"}}', "protocol: 'xxxx"),
    "huge": (" " * 2**20 + "{}", "has more than 1048576 bytes"),
    "empty": ("", "is not JSON"),
    "code": ("__import__('os').abort()", "is not JSON"),
    "latin": ('{"dataset": "é"}'.encode("latin-1"), "is not JSON"),
    "pickle": (b"\x80\x04cos\nabort\n(tR.", "is not JSON"),
    "zeros": (b"\0" * 100, "is not JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_sentence(tmp_path, name):
    content, words = HOSTILE[name]
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        load_settings(path)
    sentence = str(caught.value).replace(str(tmp_path), "")
    assert sentence.isprintable()
    assert sentence.endswith(".")
    assert len(sentence) < 1200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from([field.name for field in dataclasses.fields(FedEM)]) | st.text(max_size=4)


@settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(values=st.dictionaries(FIELDS, VALUES, max_size=3), cut=st.none() | st.integers(0, 30))
def test_any_json_gives_settings_or_one_sentence(tmp_path, values, cut):
    path = written(tmp_path / "config.json", json.dumps(values)[:cut])
    try:
        loaded = load_settings(path)
    except UserError:
        return
    for name, value in values.items():
        assert getattr(loaded, name) == (tuple(value) if isinstance(value, list) else value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: cannot be read"):
        load_settings(tmp_path / "nowhere.json")


# --- the folder of a run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({}, "results/synthetic-fedem-leak-free-seed0"),
        ({"dataset": "some/where/mine.csv", "seed": 3}, "results/mine-fedem-leak-free-seed3"),
        ({"out": "x", "seed": 3}, "x"),
    ],
)
def test_a_run_has_a_folder(changes, folder):
    assert FedEM(**changes).run_directory().as_posix() == folder

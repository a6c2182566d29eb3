"""Federations that were split before, and are read from `.npz` files."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from toy import small_federation

import fedem_jax as fj
from fedem_jax.cli.main import main
from fedem_jax.config.protocol import preset
from fedem_jax.data.federation import Federation
from fedem_jax.data.memory import federation
from fedem_jax.data.prepared import read_federation, write_federation
from fedem_jax.data.sources import load
from fedem_jax.errors import UserError


def assert_equal(one: Federation, other: Federation) -> None:
    for field in dataclasses.fields(Federation):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
        elif field.name != "columns_read":  # the columns of a file that is gone
            assert mine == theirs, field.name


@pytest.mark.parametrize("protocol", ["leak-free", "paper"])
def test_a_federation_comes_back(tmp_path, protocol):
    made = small_federation(protocol)
    write_federation(made, tmp_path / "it.npz")
    assert_equal(load(tmp_path / "it.npz", made.protocol, made.seed), made)


def test_labels_that_are_texts_cohorts_and_other_splits_come_back(tmp_path):
    rows = pd.DataFrame({"user": np.repeat([f"u{n}" for n in range(6)], 12)})
    rows["item"] = [f"i{(3 * n) % 40}" for n in range(len(rows))]
    rows["time"], rows["shop"] = range(len(rows)), rows["user"] > "u2"
    rules = dataclasses.replace(preset("leak-free"), split="ratio", num_candidates=9)
    made = federation(rows, rules, cohort="shop")
    write_federation(made, tmp_path / "it.npz")
    again = read_federation(tmp_path / "it.npz", rules, 0)
    assert_equal(again, made)
    assert again.user_ids[0] == "u0"
    assert again.cohort.max() == 1


BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pandas", "pyarrow", "tyro", "pooch"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import fedem_jax as fj

federation = fj.read_federation(sys.argv[1])
config = fj.preset("released", method="fedmf", dim=2, local_epochs=1, size_classes=1)
simulation = fj.Simulation(config, federation)
state = simulation.init()
state, info, ranks = simulation.segment(state, 1)(state, 0)
print(simulation.record(1, info, ranks)["fingerprint"])
"""


def test_a_machine_with_jax_and_numpy_alone_trains_on_it(tmp_path):
    path, made = tmp_path / "it.npz", load("synthetic")
    fj.write_federation(made, path)
    command = [sys.executable, "-c", BARE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == made.fingerprint, done.stderr[-500:]


def altered(path, **changes):
    with np.load(path) as file:
        arrays = dict(file) | changes
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04 no archive"), "is no prepared federation"),
        (lambda path: np.savez(path, items=np.arange(3)), "is no prepared federation"),
        (lambda path: altered(path, facts=np.array("{}")), "is no prepared federation"),
        (lambda path: altered(path, facts=np.array({}, object)), "is no prepared federation"),
        (lambda path: altered(path, items=np.zeros(7, np.int32)), "was altered"),
        (lambda path: path.unlink(), "no such file"),
    ],
    ids=["no archive", "other arrays", "no facts", "an object", "other items", "missing"],
)
def test_another_file_is_refused(tmp_path, change, words):
    path = tmp_path / "it.npz"
    write_federation(small_federation(), path)
    change(path)
    with pytest.raises(UserError, match=words) as caught:
        load(path, small_federation().protocol)
    assert str(path) in str(caught.value)


def test_another_protocol_or_seed_or_a_setting_of_files_is_refused(tmp_path):
    path = tmp_path / "it.npz"
    write_federation(load("synthetic"), path)
    with pytest.raises(UserError, match="split by protocol leak-free with seed 0"):
        load(path, "paper")
    with pytest.raises(UserError, match="not by leak-free with seed 1"):
        load(path, seed=1)
    with pytest.raises(UserError, match="has no columns"):
        load(path, order="file")
    with pytest.raises(UserError, match=r"ends in \.npz"):
        write_federation(small_federation(), tmp_path / "it.csv")
    with pytest.raises(UserError, match="cannot be written"):
        write_federation(small_federation(), tmp_path / "none" / "it.npz")


def test_the_command_prepares_what_load_splits(tmp_path, capsys):
    path = tmp_path / "it.npz"
    main(["data", "synthetic", "--out", str(path), "--seed", "3"])
    made = load("synthetic", seed=3)
    assert made.fingerprint in capsys.readouterr().out
    assert_equal(load(path, seed=3), made)

"""Two processes run one experiment: as one does, and what comes of it if one is killed."""

import signal
import time

import numpy as np
import pytest
from cutting import lines_of
from two_processes import SETTINGS, both, fedem, ratings

from fedem_jax.storage.checkpoint import found

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ratings(tmp_path_factory.mktemp("data") / "ratings.csv")


def arguments(data, method, rounds, out):
    settings = f"{SETTINGS} --checkpoint-every 1 --rounds {rounds} --method {method}"
    return ["--dataset", data, *settings.split(), "--out", out]


def ended(process, seconds=120):
    """Exit status and messages of a process that has to end by then."""
    _, messages = process.communicate(timeout=seconds)
    return process.returncode, messages


def wait_for_rounds(out, number, process):
    """Wait until so many rounds are on disk, as long as the process runs."""
    while not (out / "metrics.jsonl").exists() or len(lines_of(out)) < number:
        assert process.poll() is None, ended(process)
        time.sleep(0.05)


def assert_close(path, other):
    records, others = lines_of(path), lines_of(other)
    assert len(records) == len(others)
    for record, expected in zip(records, others, strict=True):
        for part in ("val", "test", "val_full", "test_full"):
            found_values = [record[part][name] for name in expected[part]]
            np.testing.assert_allclose(
                found_values, list(expected[part].values()), atol=TOLERANCE, rtol=0
            )
        np.testing.assert_allclose(record["loss"], expected["loss"], rtol=TOLERANCE)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_one_process_goes_on(data, tmp_path):
    whole = fedem(*arguments(data, "fedmf", 150, tmp_path / "whole"))
    assert ended(whole)[0] == 0

    out = tmp_path / "cut"
    survivor, victim = both(*arguments(data, "fedmf", 150, out))
    wait_for_rounds(out, 5, survivor)
    victim.send_signal(signal.SIGKILL)
    status, messages = ended(survivor, seconds=30)
    assert status == 4
    assert messages == (
        "error: processes: another one has ended or cannot be reached; go on with `fedem train "
        f"--resume {out}`.\n"
    )
    assert "lost: process 1 of 2 was killed" in ended(victim)[1]
    saved = found(out / "checkpoint")
    names = {path.name for path in saved[max(saved)].glob("arrays*")}
    assert names == {"arrays-00000-of-00002.npz", "arrays-00001-of-00002.npz"}
    assert len(lines_of(out)) < 150

    assert ended(fedem("--resume", out))[0] == 0
    assert_close(out, tmp_path / "whole")


def test_a_signal_to_one_process_stops_both_at_the_same_round(data, tmp_path):
    out = tmp_path / "stopped"
    first, second = both(*arguments(data, "fedmf", 3000, out))
    wait_for_rounds(out, 2, first)
    second.send_signal(signal.SIGTERM)
    for process in (first, second):
        status, messages = ended(process)
        assert status == 128 + signal.SIGTERM
        assert f"fedem train --resume {out}" in messages
    assert max(found(out / "checkpoint")) == lines_of(out)[-1]["round"]


def test_processes_with_other_settings_are_refused(data, tmp_path):
    settings = arguments(data, "fedmf", 3, tmp_path / "run")
    for process in both(*settings, each=lambda process: ["--seed", process]):
        status, messages = ended(process)
        assert status == 2
        assert messages == (
            "error: processes: they have different settings; give all of them the same command.\n"
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fedem", "gpfedrec", "fedrap", "fcf", "cofedrec"])
def test_two_processes_are_as_one(data, tmp_path, method):
    one = fedem(*arguments(data, method, 3, tmp_path / "one"))
    assert ended(one, 300)[0] == 0
    for process in both(*arguments(data, method, 3, tmp_path / "two")):
        assert ended(process, 300)[0] == 0
    assert_close(tmp_path / "two", tmp_path / "one")

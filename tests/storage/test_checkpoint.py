"""Checkpoints on disk, the lock, and signals: none of them knows what is trained."""

import json
import os
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest
from made_up_checkpoint import saved

from fedem_jax.cli.signals import Stopping
from fedem_jax.errors import CannotResume, UserError
from fedem_jax.storage.checkpoint import Checkpoints, Joined, Saved, found, opened, read
from fedem_jax.storage.lock import LOCK, Lock, holder


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    yield checkpoints
    checkpoints.close()


def write(checkpoints, *qualities):
    """One checkpoint after the other, from round 1."""
    for number, validation in enumerate(qualities, start=1):
        checkpoints.save(saved(number, validation))
        checkpoints.wait()


def silent(sentence):
    pytest.fail(f"nothing should be said: {sentence}")


def test_what_is_read_is_what_was_written_to_the_bit(checkpoints):
    write(checkpoints, 0.5)
    about, arrays = checkpoints.latest(silent)
    assert about == {"round": 1, "validation": 0.5}
    for part, values in saved(1).arrays.items():
        ours = values if isinstance(values, dict) else {"": values}
        theirs = arrays[part] if isinstance(values, dict) else {"": arrays[part]}
        assert set(ours) == set(theirs)
        for name, array in ours.items():
            assert theirs[name].dtype == array.dtype
            np.testing.assert_array_equal(theirs[name], array)


@pytest.mark.parametrize("array", [np.array([None]), np.zeros(2, ml_dtypes.bfloat16)])
def test_what_numpy_cannot_read_back_without_pickles_is_not_written(checkpoints, array):
    checkpoints.save(Saved({"round": 1}, {"state": {"server-table": array}}))
    with pytest.raises(UserError, match=r"server-table: is of type .* a checkpoint cannot hold"):
        checkpoints.wait()
    assert list(checkpoints.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("qualities", "kept"),
    [
        ([0.1], {1}),
        ([0.1, 0.2, 0.3], {2, 3}),  # the best is the latest: the one before stays, too
        ([0.1, 0.3, 0.2, 0.1], {2, 4}),
        ([0.3, 0.3, 0.1], {2, 3}),  # of equals the latest, as for the headline
    ],
)
def test_the_latest_and_the_best_stay(checkpoints, qualities, kept):
    write(checkpoints, *qualities)
    assert set(found(checkpoints.folder)) == kept


def test_nothing_written_is_nothing_found(checkpoints):
    assert checkpoints.latest(silent) is None


def flip(path):
    """Change a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=os.path.getsize)


DAMAGES = {
    "a bit": lambda folder: flip(largest(folder)),
    "half a file": lambda folder: os.truncate(largest(folder), 100),
    "a file": lambda folder: largest(folder).unlink(),
    "the manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half the manifest": lambda folder: os.truncate(folder / "manifest.json", 60),
    "a checksum": lambda folder: flip(folder / "manifest.json"),
    "what it is of": lambda folder: flip(folder / "about.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_is_taken(checkpoints, damage):
    write(checkpoints, 0.1, 0.2)
    DAMAGES[damage](found(checkpoints.folder)[2])
    said = []
    assert checkpoints.latest(said.append).about["round"] == 1
    (sentence,) = said
    assert "round-000002: is damaged (" in sentence
    checkpoints.save(saved(2, 0.3))
    checkpoints.wait()
    assert checkpoints.latest(silent).about == {"round": 2, "validation": 0.3}


def test_if_all_are_damaged_it_says_how_to_start_over(checkpoints):
    write(checkpoints, 0.1, 0.2)
    for folder in found(checkpoints.folder).values():
        flip(largest(folder))
    with pytest.raises(CannotResume, match=r"every checkpoint is damaged; remove that folder"):
        checkpoints.latest(lambda _: None)
    assert set(found(checkpoints.folder)) == {1, 2}


@pytest.mark.parametrize(("number", "versions"), [(1, "earlier"), (3, "later")])
def test_another_format_is_refused(checkpoints, number, versions):
    write(checkpoints, 0.1)
    path = found(checkpoints.folder)[1] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": number}))
    sentence = f"is of format {number}, this version reads 2; runs of {versions} versions cannot"
    with pytest.raises(CannotResume, match=sentence):
        checkpoints.latest(silent)


def test_what_was_cut_off_while_it_was_written_is_no_checkpoint(checkpoints):
    write(checkpoints, 0.1, 0.2)
    folder = checkpoints.folder
    (folder / "round-000002").rename(folder / "unfinished")  # the last step of a write is missing
    again = Checkpoints(folder)
    assert again.latest(silent).about["round"] == 1
    assert not (folder / "unfinished").exists()
    again.close()


def test_a_write_that_fails_is_told_and_harms_nothing(checkpoints, monkeypatch):
    write(checkpoints, 0.1)
    monkeypatch.setattr(
        "fedem_jax.storage.checkpoint.sha256",
        lambda path: (_ for _ in ()).throw(OSError(28, os.strerror(28))),
    )
    checkpoints.save(saved(2))
    with pytest.raises(
        UserError, match=r"cannot be written \(No space left on device\); make room"
    ):
        checkpoints.wait()
    monkeypatch.undo()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["round-000001"]
    read(found(checkpoints.folder)[1])


# --- several processes ----------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path):
    pair = [Checkpoints(tmp_path / "checkpoint", process, 2) for process in range(2)]
    yield pair
    for checkpoints in pair:
        checkpoints.close()


def part(number, process):
    """What each of two processes has of `saved`: three clients and four."""
    about, arrays = saved(number)
    rows = slice(0, 3) if process == 0 else slice(3, None)
    clients = {
        name: values[rows] for name, values in arrays["state"].items() if name.startswith("clients")
    }
    if process == 0:
        return Saved(about, arrays | {"state": arrays["state"] | clients})
    return Saved(about, {"state": clients})


def test_two_processes_write_one_checkpoint(pair):
    for number in (1, 2):
        for process in (1, 0):
            pair[process].save(part(number, process))
        for process in (1, 0):
            pair[process].wait()
    for checkpoints in pair:
        about, arrays = checkpoints.latest(silent)
        assert about["round"] == 2
        for name, values in saved(2).arrays["state"].items():
            np.testing.assert_array_equal(arrays["state"][name], values)
        np.testing.assert_array_equal(arrays["place"], np.arange(7))
    names = {path.name for path in found(pair[0].folder)[2].iterdir()}
    parts = {"arrays-00000-of-00002.npz", "arrays-00001-of-00002.npz"}
    assert names == {"about.json", "manifest.json", *parts}


def test_rows_of_a_divided_array_are_those_of_the_whole(pair):
    for process in (1, 0):
        pair[process].save(part(1, process))
    for checkpoints in pair:
        checkpoints.wait()
    _, arrays = pair[1].latest(silent)
    for name, whole in saved(1).arrays["state"].items():
        read = arrays["state"][name]
        assert isinstance(read, Joined) == name.startswith("clients")
        assert (read.shape, read.dtype) == (whole.shape, whole.dtype)
        if not isinstance(read, Joined):
            continue
        for rows in (slice(1, 3), slice(3, 6), slice(2, 5), slice(None), np.array([6, 0, 3, 2])):
            np.testing.assert_array_equal(read[rows], whole[rows])
        every = (slice(2, 5), *[slice(None)] * (whole.ndim - 1))
        np.testing.assert_array_equal(read[every], whole[every])


def test_what_is_not_asked_for_is_not_read(checkpoints):
    """Rows stay on disk: neither part is an array in memory."""
    write(checkpoints, 0.5)
    read = opened(next(found(checkpoints.folder)[1].glob("arrays*")))
    assert all(isinstance(array, np.memmap) for array in read.values() if array.size)


def test_a_checkpoint_without_the_part_of_a_process_is_none(pair):
    pair[0].save(part(1, 0))
    time.sleep(0.2)
    assert found(pair[0].folder) == {}
    pair[0].close()
    with pytest.raises(UserError, match="another process did not write its part"):
        pair[0].wait()


def test_a_damaged_part_is_seen(pair):
    for process in (1, 0):
        pair[process].save(part(1, process))
    for checkpoints in pair:
        checkpoints.wait()
    flip(found(pair[0].folder)[1] / "arrays-00001-of-00002.npz")
    with pytest.raises(CannotResume, match="every checkpoint is damaged"):
        pair[1].latest(lambda sentence: None)


# --- one process at a time ------------------------------------------------------------------------

HOLD = (
    "import sys, time, pathlib; from fedem_jax.storage.lock import Lock; "
    "Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
)


def test_a_lock_keeps_others_out_until_it_is_released(tmp_path):
    lock = Lock(tmp_path)
    assert f"process {os.getpid()} on " in holder(tmp_path)
    with pytest.raises(UserError, match=f"process {os.getpid()} on .* is at work there"):
        Lock(tmp_path)
    lock.release()
    assert holder(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
    Lock(tmp_path).release()


def test_a_dead_process_holds_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            Lock(tmp_path)
        process.kill()
    assert (tmp_path / LOCK).exists()
    Lock(tmp_path).release()


# --- signals --------------------------------------------------------------------------------------


def until(true):
    """Wait for another thread."""
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it never came")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_wish(number):
    said, before = [], signal.getsignal(number)
    with Stopping(said.append) as stop:
        assert stop() == 0
        os.kill(os.getpid(), number)
        until(stop)
        assert stop() == number
    assert said == ["stopping after this segment of rounds; a second signal stops at once"]
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_whatever_it_does():
    script = (
        "import hashlib; from fedem_jax.cli.signals import Stopping\n"
        "with Stopping(lambda sentence: print('told', flush=True)):\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # an hour in which no Python runs
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in (b"ready\n", b"told\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM

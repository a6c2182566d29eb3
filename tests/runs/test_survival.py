"""What can happen to a run, done to it in earnest: kills, full and read-only disks, lost files.

The slow ones start `fedem train` as a process of its own, by way of `experiments/soak.py`.
"""

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import made_up_checkpoint
import numpy as np
import pytest
import soak
from cutting import assert_equal, cut_off, lines_of, resumed, run, toys
from toy import small_federation

from fedem_jax.errors import UserError
from fedem_jax.runs.directory import RunDirectory
from fedem_jax.runs.names import CHECKPOINT
from fedem_jax.runs.observers import Observer
from fedem_jax.storage.checkpoint import Checkpoints, found, read
from fedem_jax.storage.lock import LOCK


@pytest.fixture(scope="module")
def federation():
    return small_federation()


@pytest.fixture
def config(monkeypatch, federation):
    return dataclasses.replace(toys(monkeypatch, federation), checkpoint_every=1)


class Afterwards(Observer):
    """An observer that does something after the third round, once the second is saved."""

    def __init__(self, path, does):
        self.folder, self.does = path / CHECKPOINT, does

    def on_round(self, record):
        if record["round"] == 3:
            while 2 not in found(self.folder) or list(self.folder.glob("unfinished*")):
                time.sleep(0.01)
            self.does()


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def files_no_larger_than():
    """Hands out a function that sets the most bytes a file may grow to, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("room", "file"), [(20, "metrics.jsonl"), (1500, CHECKPOINT)])
def test_a_file_that_may_not_grow_ends_the_run_with_a_sentence(
    config, federation, tmp_path, capfd, room, file
):
    """A line of metrics has some 1000 bytes, the arrays of a checkpoint some 10,000."""
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))
    cut, metrics = tmp_path / "cut", tmp_path / "cut" / "metrics.jsonl"
    with files_no_larger_than() as limit:
        full = Afterwards(cut, lambda: limit(metrics.stat().st_size + room))
        with pytest.raises(UserError) as error:
            run(config, federation, [full], RunDirectory(cut))
    assert capfd.readouterr().err == ""
    said = str(error.value)
    assert said.startswith(f"{cut / file}: ")
    assert "cannot be written (File too large); make room, then go on with `fedem train" in said
    assert "The state of round 2 is kept" in said
    assert not (cut / LOCK).exists()
    assert [line["round"] for line in lines_of(cut)][:3] == [1, 2, 3]  # every line is whole
    read(found(cut / CHECKPOINT)[max(found(cut / CHECKPOINT))])
    result, _ = resumed(config, federation, cut)
    assert_equal(result, whole, cut, tmp_path / "whole")


@pytest.fixture
def disk(tmp_path):
    """A disk of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only the superuser may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("left", [1000, 9000])
def test_a_full_disk_ends_the_run_with_a_sentence(config, federation, tmp_path, disk, left):
    """With room for nothing, or for the next line but for no checkpoint."""
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))

    def fill():
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "ballast").write_bytes(bytes(max(0, free - left)))

    with pytest.raises(UserError) as error:
        run(config, federation, [Afterwards(disk / "run", fill)], RunDirectory(disk / "run"))
    assert "cannot be written (No space left on device); make room, then" in str(error.value)
    assert "The state of round 2 is kept" in str(error.value)
    read(found(disk / "run" / CHECKPOINT)[max(found(disk / "run" / CHECKPOINT))])
    (disk / "ballast").unlink()
    result, _ = resumed(config, federation, disk / "run")
    assert_equal(result, whole, disk / "run", tmp_path / "whole")


def test_a_run_whose_folder_is_removed_ends_with_a_sentence(config, federation, tmp_path):
    """No checkpoint makes the folder anew, which would hold a part of the run."""
    folder = tmp_path / "run"
    removed = Afterwards(folder, lambda: shutil.rmtree(folder))
    with pytest.raises(UserError, match="the folder of the run was removed, so run again"):
        run(config, federation, [removed], RunDirectory(folder))
    assert not folder.exists()


def test_a_disk_that_becomes_read_only_ends_the_run_with_a_sentence(
    config, federation, tmp_path, disk
):
    whole = run(config, federation, (), RunDirectory(tmp_path / "whole"))

    def remounted(how):
        command = ["mount", "-o", f"remount,{how}", str(disk)]
        subprocess.run(command, check=True, capture_output=True)

    cut_off(config, federation, disk / "run", 2)
    remounted("ro")
    for directory in (RunDirectory(disk / "run", True, str), RunDirectory(disk / "new")):
        with pytest.raises(
            UserError, match=r"cannot be written \(Read-only|nothing can be written"
        ):
            run(config, federation, (), directory)
    remounted("rw")
    result, _ = resumed(config, federation, disk / "run")
    assert_equal(result, whole, disk / "run", tmp_path / "whole")


def test_lost_data_are_named_and_the_run_is_kept(config, tmp_path):
    path = tmp_path / "ratings.csv"
    soak.ratings(path, np.random.default_rng(0))
    config = dataclasses.replace(config, dataset=str(path), num_candidates=9, min_interactions=5)
    cut_off(config, small_federation(), tmp_path / "cut", 2)
    files = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    path.unlink()
    with pytest.raises(UserError, match=r"ratings\.csv"):
        resumed(config, None, tmp_path / "cut")
    assert files == {path: path.read_bytes() for path in files}
    resumed(config, small_federation(), tmp_path / "cut")


# --- processes ------------------------------------------------------------------------------------

STAGES = {
    "its folder is there": "fedem_jax.storage.checkpoint.np.savez",
    "the arrays are written": "fedem_jax.storage.checkpoint._json",
    "they are summed up": "fedem_jax.storage.checkpoint.sha256",
    "it gets its name": "pathlib.Path.rename",
    "old ones go": "fedem_jax.storage.checkpoint.found",
    "one is half removed": "fedem_jax.storage.checkpoint.shutil.rmtree",
}
DIE = """
import os, signal, sys
from pathlib import Path
from unittest.mock import patch
sys.path.insert(0, sys.argv[3])
from made_up_checkpoint import saved
from fedem_jax.storage.checkpoint import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]))
for number in (1, 2):
    checkpoints.save(saved(number, number))
    checkpoints.wait()
with patch(sys.argv[2], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)):
    checkpoints.save(saved(3, 3))
    checkpoints.wait()
"""


@pytest.mark.parametrize(
    "stage",
    [name if name == "it gets its name" else pytest.param(name, marks=pytest.mark.slow)
     for name in STAGES],
)  # fmt: skip
def test_killed_while_a_checkpoint_is_written(tmp_path, stage):
    folder = tmp_path / CHECKPOINT
    helpers = os.path.dirname(made_up_checkpoint.__file__)
    command = [sys.executable, "-c", DIE, str(folder), STAGES[stage], helpers]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    checkpoints = Checkpoints(folder)
    number = checkpoints.latest(lambda sentence: pytest.fail(sentence)).about["round"]
    assert number == (3 if stage in ("old ones go", "one is half removed") else 2)
    assert all(path.name.startswith("round-") for path in folder.iterdir())
    checkpoints.close()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Arguments of a small run in earnest, the programs it compiles to, and the run in peace."""
    folder = tmp_path_factory.mktemp("program")
    soak.ratings(folder / "ratings.csv", np.random.default_rng(1))
    arguments = (
        f"--dataset {folder / 'ratings.csv'} --method fedmf --rounds 300 --dim 4 --size-classes 1 "
        "--local-epochs 1 --num-candidates 9 --top-k 5 --min-interactions 5 --per-client "
        "--checkpoint-every 1"
    ).split()
    soak.to_its_end(soak.train([*arguments, "--out", str(folder / "whole")], folder / "cache"))
    return arguments, folder


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost(program, tmp_path):
    """25 times, in as many runs as that takes; nearly each kill falls into or beside a write."""
    arguments, folder = program
    tally, moments, number = soak.Tally(), np.random.default_rng(0), 0
    while tally.kills["SIGKILL"] < 25:
        number += 1
        cut = tmp_path / str(number)
        soak.survive(arguments, cut, folder / "cache", moments, 15.0, 12, tally, terminate=0)
        assert soak.apart(folder / "whole", cut) == []
    assert tally.resumed_rounds > 0


@pytest.mark.slow
def test_two_processes_do_not_share_a_directory(program, tmp_path):
    arguments, folder = program
    first = soak.train([*arguments, "--out", str(tmp_path / "run")], folder / "cache")
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # else it may have ended before the others come
    for how in (["--resume", str(tmp_path / "run")], [*arguments, "--out", str(tmp_path / "run")]):
        second = soak.train(how, folder / "cache")
        _, said = second.communicate()
        assert second.returncode == 2
        assert f"process {first.pid} on" in said.decode()
        assert "is at work there" in said.decode()
        assert said.count(b"\n") == 1
    first.send_signal(signal.SIGCONT)
    soak.to_its_end(first)
    assert soak.apart(folder / "whole", tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_while_it_compiles(program, tmp_path, number):
    """It ends once the compiler returns, before any round, and can be gone on with."""
    arguments, folder = program
    process = soak.train([*arguments, "--out", str(tmp_path / "run")], tmp_path / "no cache")
    while not (tmp_path / "run" / "candidates.npz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 128 + number
    assert said.decode() == f"interrupted: go on with `fedem train --resume {tmp_path / 'run'}`.\n"
    assert not (tmp_path / "run" / LOCK).exists()
    soak.to_its_end(soak.train(["--resume", str(tmp_path / "run")], folder / "cache"))
    assert soak.apart(folder / "whole", tmp_path / "run") == []

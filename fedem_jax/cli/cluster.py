"""Several processes that run one experiment: how a command joins them, and how it leaves."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fedem_jax.cli.process import write_any_character
from fedem_jax.errors import UserError, in_short

HEARTBEAT_SECONDS = 20
"""Time after which a process that has stopped answering counts as lost."""
WATCHER = (
    "import sys; text = sys.stdin.read()\n"
    "text.endswith('\\0') or sys.stderr.write(text.rpartition('\\1')[2])"
)
"""Program that prints the last sentence it was given, unless a zero byte follows before the end."""
LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)
"""Variables by which srun and mpirun give the number of processes and that of this one."""


class Peers(NamedTuple):
    """The processes of a run."""

    coordinator: str
    """HOST:PORT of the first one; empty: the launcher knows."""
    number: int
    """Number of this one, from 0."""
    count: int
    """How many there are."""

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def is_first(self) -> bool:
        return self.number == 0


def peers_of(
    coordinator: str, number: int, count: int, environ: Mapping[str, str] = os.environ
) -> Peers:
    """The processes that flags or a launcher name; this one alone if neither does.

    Args:
        coordinator: HOST:PORT of the first process; "": not given.
        number: number of this process; -1: not given.
        count: number of processes; 0: not given.
        environ: variables of the environment.

    Raises:
        UserError: some flags are missing, or a number is out of range.
    """
    if number < 0 and count == 0:
        for size, rank in LAUNCHERS:
            if int(environ.get(size, 1)) > 1 and rank in environ:
                return Peers(coordinator, int(environ[rank]), int(environ[size]))
    if not coordinator and number < 0 and count == 0:
        return Peers("", 0, 1)
    if not coordinator or number < 0 or count < 1:
        raise UserError(
            "processes: give --coordinator, --process-id and --num-processes together, or start "
            "the command by srun or mpirun."
        )
    if number >= count:
        raise UserError(
            f"process_id: {number} is none of {count} processes; count from 0 to {count - 1}."
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"coordinator: '{coordinator}' is no HOST:PORT, such as 10.0.0.1:8476.")
    return Peers(coordinator, number, count)


@contextmanager
def joined(peers: Peers, out: Path) -> Iterator[None]:
    """Run a block together with the other processes.

    Libraries below JAX write into a log meanwhile, not on the terminal. They end a process that
    loses the others. A process of its own then says so.

    Args:
        peers: all of them.
        out: the run directory, for the sentence.

    Raises:
        UserError: the others cannot be found or reached.
    """
    if not peers.several:
        yield
        return
    import jax

    watcher = Watcher(f"fedem-process-{peers.number}-")
    _watchers.append(watcher)
    at = peers.coordinator or "the address that its launcher gave"
    watcher.expect(
        f"processes: process {peers.number} of {peers.count} did not reach the others by way of "
        f"{at}; start all of them, with one --coordinator HOST:PORT, on the host of process 0."
    )
    _divert(watcher.log)
    try:
        jax.distributed.initialize(
            peers.coordinator or None,
            peers.count,
            peers.number,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"processes: the first one cannot be found ({in_short(error)}); give --coordinator "
            "HOST:PORT of the host where it runs."
        ) from None
    watcher.expect(
        f"lost: process {peers.number} of {peers.count} was killed, or it lost the others; go on "
        f"with `fedem train --resume {out}`."
    )
    yield
    jax.distributed.shutdown()
    _end_watch()


class Watcher:
    """A process of its own that says why this one has ended, if this one cannot."""

    def __init__(self, prefix: str):
        """Start it, and open a log whose name begins with `prefix`."""
        self.log, name = tempfile.mkstemp(prefix=prefix, suffix=".log")
        self._path = Path(name)
        command = [sys.executable, "-S", "-c", WATCHER]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, start_new_session=True, text=True
        )

    def expect(self, sentence: str) -> None:
        """What it says if this process ends now."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"\1{sentence} Its log is {self._path}.\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Let it end and say nothing; nobody needs the log then."""
        self._process.communicate("\0")
        self._path.unlink(missing_ok=True)


_watchers: list[Watcher] = []
"""The one that watches this process, if there is one."""


def _end_watch() -> None:
    while _watchers:
        _watchers.pop().end()


def _divert(log: int) -> None:
    """Send what is not written by Python into a log."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        stream.flush()
        copy = os.fdopen(os.dup(number), "wb", buffering=0)
        text = io.TextIOWrapper(
            io.BufferedWriter(copy), encoding=stream.encoding, line_buffering=True
        )
        setattr(sys, name, text)
        os.dup2(log, number)
    write_any_character()


@contextmanager
def leaving() -> Iterator[None]:
    """End one of several processes at once when its command exits. Otherwise it would wait for the
    others, which may wait for it."""
    try:
        yield
    except SystemExit as end:
        if not _watchers:
            raise
        _end_watch()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))

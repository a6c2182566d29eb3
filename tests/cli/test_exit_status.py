"""Exit statuses, and surroundings in which commands must work: no home, plain terminals, a process
in which JAX already runs."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from fedem_jax.cli import process
from fedem_jax.errors import UserError
from fedem_jax.runs import host

ROOT = Path(__file__).resolve().parents[2]


def ended(work, capsys) -> tuple[int, str]:
    """Exit status of a command, and what it wrote to stderr."""
    with pytest.raises(SystemExit) as end:
        process.run_command(work)
    return end.value.code, capsys.readouterr().err


def python(code: str, *, stdout=subprocess.PIPE, **variables: str) -> subprocess.CompletedProcess:
    """Run Python in a process of its own; an empty variable is left out of its environment."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | variables
    environment = {name: value for name, value in environment.items() if value}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=stdout, stderr=subprocess.PIPE,
        timeout=100, check=False,
    )  # fmt: skip


def fedem(*args: str, **options) -> subprocess.CompletedProcess:
    return python(f"from fedem_jax.cli.main import main; main({list(args)!r})", **options)


# --- statuses -------------------------------------------------------------------------------------


def test_a_mistake_of_the_user_is_2(capsys):
    def work():
        raise UserError("rounds: give more.")

    assert ended(work, capsys) == (2, "error: rounds: give more.\n")


def test_an_unforeseen_error_is_3_and_says_how_to_see_more(capsys, monkeypatch):
    monkeypatch.delenv("FEDEM_TRACEBACK", raising=False)

    def work():
        raise KeyError("a [b] $c")

    status, said = ended(work, capsys)
    assert status == 3
    assert said.startswith("unforeseen: KeyError: 'a [b] $c'; ")
    assert said.count("\n") == 1
    assert "FEDEM_TRACEBACK=1" in said
    monkeypatch.setenv("FEDEM_TRACEBACK", "1")
    status, said = ended(work, capsys)
    assert status == 3
    assert "Traceback" in said
    assert "in work" in said


def test_an_audit_that_found_a_leak_keeps_its_status(capsys):
    def work():
        raise SystemExit(1)

    assert ended(work, capsys) == (1, "")


@pytest.mark.parametrize("args", [["data"], ["--help"], ["train", "--help"]])
def test_a_closed_pipe_is_141_and_says_nothing(args):
    reader, writer = os.pipe()
    os.close(reader)
    end = fedem(*args, stdout=writer)
    os.close(writer)
    assert (end.returncode, end.stderr) == (141, b"")


# --- surroundings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["", "/dev/null", "/proc"])
def test_without_a_home_nothing_is_cached(home, monkeypatch):
    """Neither of these holds a folder that can be made."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    if not home:
        monkeypatch.delenv("HOME")

        def homeless():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    assert host.cache_folder() is None


def test_a_home_that_is_read_only_is_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert host.cache_folder() == tmp_path / "fedem_jax"
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert host.cache_folder() is None


def test_a_command_may_be_called_where_jax_already_runs():
    program = (
        "import jax; devices = jax.devices(); "
        "from fedem_jax.runs import host; host.usable_cores = lambda: len(devices) + 1; "
        "host.use_all_cores(); assert jax.devices() == devices"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_what_the_caller_has_set_stays(monkeypatch):
    set_here = jax.config.jax_num_cpu_devices, jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(host, "usable_cores", lambda: set_here[0] + 1)
    host.prepare_jax()
    assert (jax.config.jax_num_cpu_devices, jax.config.jax_compilation_cache_dir) == set_here


PLAIN = (
    "from fedem_jax.cli.process import run_command\n"
    "from fedem_jax.report.tables import Row, Table, in_terminal\n"
    "from fedem_jax.report.terminal import Terminal\n"
    "row = Row(['0.1000 \\u00b1 0.0100 \\u00b7 \\u03c3', 'r\\u00e9sum\\u00e9-\\udcff.csv'])\n"
    "run_command(lambda: Terminal().print(in_terminal(Table('t', ['a', 'b'], [row]))))\n"
)


@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
)
def test_a_terminal_that_lacks_characters_gets_others(locale, terminal):
    end = python(PLAIN, TERM=terminal, **locale)
    assert (end.returncode, end.stderr) == (0, b"")
    (line,) = [line for line in end.stdout.splitlines() if b"0.1000" in line]
    assert b"-\xff.csv" in line
    try:
        end.stdout.decode("ascii")
    except UnicodeDecodeError:
        pass
    else:
        assert b"0.1000 +- 0.0100 - sigma" in line


@pytest.mark.parametrize("args", [["data"], ["train", "--help"], ["train", "--rounds", "-1"]])
def test_commands_speak_ascii(args):
    end = fedem(*args, PYTHONIOENCODING="ascii", TERM="dumb", COLUMNS="40")
    assert end.returncode == (2 if "-1" in args else 0)
    assert b"Traceback" not in end.stderr

"""Two devices, of which most runs take one; quick compilation, checked annotations, and data that
are not in the repository.

Tests that need such data are skipped without.
"""

import gc
import os
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

# Hundreds of programs that run for moments: what counts is how long they take to compile. The newer
# emitters of fused loops take twice as long as the older ones, which later releases may lack; XLA
# ends a process that names an option it does not know. Who sets XLA_FLAGS, also to nothing, has the
# programs compiled in that way instead.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10."),
)
# Programs do not say from which lines they come. That saves a twentieth of the time.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# A program that several tests compile is compiled once. The workers of pytest-xdist find the
# variable set by the process that starts them, which removes the folder at its end.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="fedem_jax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import matplotlib as mpl
import numpy as np
import pytest
from jaxtyping import install_import_hook
from matplotlib.figure import Figure

# before JAX first computes and before anything imports the package
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
CHECKED = ("client", "core", "data", "evaluation", "methods", "models", "runs", "server", "sweeps")
install_import_hook(
    [f"fedem_jax.{name}" for name in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# Tests look at what a picture says. Fewer dots say the same.
mpl.rcParams["savefig.dpi"] = 50

# Tracing makes many objects that live on. Looking through them as often as usual takes a tenth of
# the time.
gc.set_threshold(100_000)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def first_device():
    """Runs that are not told their devices take the first one: a program for two takes a quarter
    longer to compile."""
    from fedem_jax.runs import simulation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "all_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(autouse=True)
def nothing_remembered():
    """A test that replaces a function has its programs compiled with it."""
    compiling = sys.modules.get("fedem_jax.runs.compiling")
    if compiling:
        compiling.forget_programs()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items) -> None:
    """Mark as slow what is marked `slow_but(*ids)` and has other parameters than these."""
    for item in items:
        everyday = [mark.args for mark in item.iter_markers("slow_but")]
        if everyday and item.callspec.id not in everyday[0]:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the ten slowest test files: the seconds of their tests, over all workers."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("slowest test files")
    for file, spent in seconds.most_common(10):
        terminalreporter.write_line(f"{spent:8.2f} s  {file}")
    terminalreporter.write_line(f"{seconds.total():8.2f} s  all files")


def _found(variable: str, beside: str) -> Path:
    """The folder that the environment names, else the one beside the repository."""
    folder = Path(os.environ.get(variable) or SHARED / beside)
    if not folder.is_dir():
        pytest.skip(f"no real data: neither ${variable} nor {folder} is a folder")
    return folder


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch) -> None:
    """Figures are made in every test, but drawn only in those that look at them (`pictures`): the
    drawing takes longer than most tests. Others get an empty file."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).touch())


@pytest.fixture
def pictures(undrawn, monkeypatch) -> dict[str, Figure]:
    """Figures that are saved in a test, by the names of their files."""
    saved, save = {}, Figure.savefig

    def keep(figure: Figure, path, **settings) -> None:
        save(figure, path, **settings)
        saved[Path(path).name] = figure

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets."""
    return _found("FEDEM_DATA", "data")


@pytest.fixture(scope="session")
def golden_trace() -> dict[str, np.ndarray]:
    """The recorded run of the authors' program, every array by name."""
    path = _found("FEDEM_GOLDEN", "golden") / "fedem_tiny.npz"
    if not path.is_file():
        pytest.skip(f"no golden trace: {path} is missing")
    with np.load(path) as trace:
        return dict(trace)

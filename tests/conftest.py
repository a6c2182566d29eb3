"""Fixtures of data that are not in the repository; tests that need them are skipped without."""

import os
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _found(variable: str, beside: str) -> Path:
    """The folder that the environment names, else the one beside the repository."""
    folder = Path(os.environ.get(variable) or SHARED / beside)
    if not folder.is_dir():
        pytest.skip(f"no real data: neither ${variable} nor {folder} is a folder")
    return folder


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

"""What all tests of trackers need."""

import pytest
from tracked import Tracked


@pytest.fixture
def tracked(monkeypatch, tmp_path):
    return Tracked(monkeypatch, tmp_path / "run")

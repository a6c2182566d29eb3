"""The programs of docs/howto/thirty-lines.md, each in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from skeleton import REGISTERED

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "howto" / "thirty-lines.md").read_text()
FIRST, LATER = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_they_have_thirty_lines():
    assert len((FIRST + LATER).splitlines()) <= 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with the skeleton in a file."""
    folder = tmp_path_factory.mktemp("thirty")
    (folder / "mine.py").write_text(REGISTERED)
    return folder


def printed(program, folder):
    """What a program prints in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_second_reads_back_what_the_first_left(folder):
    first = printed(FIRST, folder)
    kinds = re.findall(r"^<(\w+): ", first, re.MULTILINE)
    assert kinds == ["ComparisonResult", "SweepResult", "Result"]
    assert "8 trials of 2 settings" in first
    lists, sales = (pd.read_parquet(folder / f"{name}.parquet") for name in ("lists", "sales"))
    assert (lists["user"].value_counts() == 10).all()
    assert set(lists["user"]) == set(sales["user"])
    again = lists.merge(sales, on=["user", "item"])
    assert (again["day"] == 29).all()  # the test item; all others of the user are left out
    written = times_of_writing(folder)
    assert len(written) == 3
    assert printed(LATER, folder) == first  # it fails by itself if its lists are others
    assert times_of_writing(folder) == written  # nothing was trained again


def times_of_writing(folder):
    """When the records of each run were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}

"""The programs of docs/library.md, each in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow  # the programs of thirty-lines.md do the same every day
def test_a_table_becomes_lists_that_another_process_reads_back_from_disk(tmp_path):
    """In at most 30 lines; the second program fails if its lists are others."""
    text = (ROOT / "docs" / "library.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert sum(len(program.splitlines()) for program in programs) <= 30
    said = []
    for program in programs:
        path = tmp_path / "program.py"
        path.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}")
        ended = subprocess.run(
            [sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr
        said.append(ended.stdout)
    assert said[0].startswith("<Result: fedem on shop, leak-free, seed 0: test HR@10 0.")
    assert said[1] == ""

"""The program of docs/howto/watching.md ends early, and says why."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "watching.md"


def test_the_program_ends_early(capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    scope: dict = {}
    exec(compile(code, "watching.md", "exec"), scope)
    summary = scope["result"].summary
    said = f"validation HR@10 is above 0.4 {summary['rounds']}\n"
    assert capsys.readouterr().out == said
    assert summary["last"]["val"]["hr@10"] > 0.4
    assert summary["rounds"] < summary["planned_rounds"] == 50

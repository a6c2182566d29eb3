"""The results of `experiments/`, ordered by question."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

QUESTIONS = {
    "when": ("When should clients merge, and with whom?", ["When should clients merge?"]),
    "leak": ("Does a protocol leak?", ["One method, two protocols"]),
    "authors": ("Does this program compute what the released one does?", ["The authors' curve"]),
    "methods": (
        "Which method is best?",
        ["Closed forms, and a server with Adam", "All methods in one place"],
    ),
    "merging": (
        "Does elastic merging help?",
        [
            "FedEM that learns without the leak",
            "The aggregation bottleneck",
            "FedEM, part by part",
            "The search for settings without the leak",
            "The leak inside the method, and steps that learn",
        ],
    ),
    "quadratic": ("Why does a learned rho fall to zero?", ["Quadratic clients"]),
    "speed": ("What makes it fast?", ["Speed: what was tried"]),
}
"""Pages by name: the question, and the sections of `experiments/README.md` that answer it."""

OTHER = "More results"
COPIED = (
    "*.md", "*.png", "bench/*.md", "bench/*.png", "compare/*.md", "compare/*.png", "pictures/*.png",
    "regimes/*.md", "regimes/*.png", "regimes/*.py", "theory/*.png", "theory/*.py",
)  # fmt: skip
"""Files of `experiments/` that its pages link to."""


def pages(text: str) -> Iterator[tuple[str, str]]:
    """Path and text of every page.

    Args:
        text: of `experiments/README.md`. A section that answers no question of `QUESTIONS` goes to
            a page of its own kind.
    """
    preface, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    preface = preface.partition("\n")[2].strip()
    by_name = {section[3:].partition("\n")[0].strip(): section for section in sections}
    for page, (question, names) in QUESTIONS.items():
        found = [by_name.pop(name) for name in names if name in by_name]
        if found:
            yield f"results/{page}.md", _page(question, preface, found)
    if by_name:
        yield "results/more.md", _page(OTHER, preface, list(by_name.values()))


def _page(question: str, preface: str, sections: list[str]) -> str:
    return f"# {question}\n\n{preface}\n\n" + "".join(sections)


def copied(folder: Path) -> Iterator[tuple[str, Path]]:
    """Path in the documentation, and file, of what the pages link to."""
    for pattern in COPIED:
        for file in sorted(folder.glob(pattern)):
            if file.name != "README.md":
                yield f"results/{file.relative_to(folder)}", file

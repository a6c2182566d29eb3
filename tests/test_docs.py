"""The pages in docs/ use flags that exist, and name files of the repository that exist."""

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fedem_jax.cli.options import Train
from fedem_jax.cli.sweep import SweepCommand
from fedem_jax.config.registry import METHODS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DRAWINGS = sorted((ROOT / "docs" / "assets").glob("*.svg"))
LETTER = 0.6
"""Width of a letter in font sizes, on average, with a wide font."""
OF_COMMANDS = {
    "--backend-store-uri", "--config", "--format", "--help", "--html", "--k", "--logdir",
    "--methods", "--plugin", "--preset", "--resume", "--seeds", "--users",
}  # fmt: skip


def test_the_pages_are_found():
    assert {"index.md", "privacy.md", "own-data.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_flags_of_the_commands_are_settings(page):
    kinds = [*(method.settings for method in METHODS.values()), SweepCommand, Train]
    fields = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    known = {f"--{name.replace('_', '-')}" for name in fields} | OF_COMMANDS
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"--[a-z][a-z-]*", "\n".join(blocks))) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_exist(page):
    for path in re.findall(r"`((?:fedem_jax|tests|docs|experiments)/[\w/.-]*)`", page.read_text()):
        assert (ROOT / path).exists(), path


def test_the_overview_of_methods_has_a_row_for_each():
    text = (ROOT / "docs" / "methods" / "index.md").read_text()
    assert re.findall(r"^\| \[`([\w-]+)`\]", text, re.MULTILINE) == list(METHODS)


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.stem)
def test_the_words_of_a_drawing_lie_within_it(drawing):
    root = ElementTree.parse(drawing).getroot()
    _, _, width, _ = map(float, root.attrib["viewBox"].split())
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert texts
    for text in texts:
        long = len(text.text or "") * float(text.attrib["font-size"]) * LETTER
        before = {"start": 0, "middle": long / 2, "end": long}[text.attrib["text-anchor"]]
        left = float(text.attrib["x"]) - before
        assert left >= 0, text.text
        assert left + long <= width, text.text


def test_pages_load_nothing_from_the_network():
    """`make docs` checks the pages themselves."""
    assert "font: false" in (ROOT / "mkdocs.yml").read_text()
    style = (ROOT / "docs" / "assets" / "extra.css").read_text()
    assert not re.findall(r"@import|url\(", style)
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", *(ROOT / "experiments").rglob("*.md")]:
        assert not re.findall(r"!\[[^\]]*\]\((?:https?:)?//|<(?:img|script)", page.read_text()), (
            page
        )

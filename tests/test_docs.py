"""The pages in docs/ use flags that exist, and name files of the repository that exist."""

import dataclasses
import re
from pathlib import Path

import pytest

from fedem_jax.cli.options import Train
from fedem_jax.cli.sweep import SweepCommand
from fedem_jax.config.registry import METHODS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OF_COMMANDS = {
    "--config", "--help", "--html", "--methods", "--plugin", "--preset", "--resume", "--seeds",
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

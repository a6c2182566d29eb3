"""The tutorials are clean and name what exists. `make docs` runs them."""

import json
import re
from pathlib import Path

import pytest

import fedem_jax as fj

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def notebook(request):
    return request.param


def cells(file):
    return json.loads(file.read_text())["cells"]


def test_there_are_five():
    names = {file.stem for file in NOTEBOOKS}
    assert names == {
        "own-ratings",
        "protocol-leak",
        "compare-and-sweep",
        "bottleneck",
        "own-method",
    }


def test_it_holds_no_outputs(notebook):
    code = [cell for cell in cells(notebook) if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_words_stand_before_every_step(notebook):
    kinds = [cell["cell_type"] for cell in cells(notebook)]
    assert "code code" not in " ".join(kinds)
    assert "".join(cells(notebook)[0]["source"]).startswith("# ")


def test_the_names_of_the_package_are_public(notebook):
    code = "\n".join("".join(c["source"]) for c in cells(notebook) if c["cell_type"] == "code")
    assert set(re.findall(r"\bfj\.(\w+)", code)) <= set(fj.__all__)


def test_its_links_lead_to_files(notebook):
    pages = [link for cell in cells(notebook) for link in re.findall(r"\]\((\S+?)\)", str(cell))]
    assert pages
    assert all((notebook.parent / page).exists() for page in pages), pages


def test_the_site_has_a_page_for_it(notebook):
    assert f"tutorials/{notebook.stem}.md" in (ROOT / "mkdocs.yml").read_text()

"""The tutorials: notebooks without outputs, which are run while MkDocs builds."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

AT_ONCE = 2
"""Notebooks that run side by side."""
QUIET = ["--log-level=ERROR"]
"""Arguments of a kernel: without warnings, such as that it listens on a port of this machine."""
LONGEST = 600
"""Seconds that a cell may take on a busy machine."""
STYLE = re.compile(r"<div>\s*<style scoped>.*?</style>\s*(<table.*?</table>).*?</div>", re.DOTALL)
"""A table of pandas with a style of its own, which the theme replaces."""


def pages(folder: Path) -> Iterator[tuple[str, str | bytes]]:
    """Path and content of every page, and of every picture on it.

    Args:
        folder: of the notebooks. Each runs from clean, in an empty folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails; its traceback is the message.
    """
    notebooks = sorted(folder.glob("*.ipynb"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for page in pool.map(_page, notebooks):
            yield from page


def _page(file: Path) -> list[tuple[str, str | bytes]]:
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as empty:
        where = {"metadata": {"path": empty}}
        client = NotebookClient(notebook, timeout=LONGEST, resources=where, extra_arguments=QUIET)
        client.execute()
    names = {"output_files_dir": file.stem, "unique_key": "output"}
    text, resources = MarkdownExporter().from_notebook_node(notebook, names)
    page = [(f"tutorials/{file.stem}.md", _as_page(text, file.name))]
    return page + [(f"tutorials/{path}", picture) for path, picture in resources["outputs"].items()]


def _as_page(text: str, notebook: str) -> str:
    """The text of a notebook as a page of the documentation."""
    text = re.sub(r"\]\(([\w-]+)\.ipynb\)", r"](\1.md)", text)
    text = STYLE.sub(lambda found: found[1].replace(' border="1" class="dataframe"', ""), text)
    text = text.replace("![png](", "![The picture that this step draws](")
    title, _, rest = text.strip().partition("\n")
    about = f"This page is a notebook, [{notebook}]({notebook}), run while these pages were built."
    return f"{title}\n\n*{about}*\n{rest}\n"

"""Pages that MkDocs makes from the repository: methods, results, tutorials, API, changelog.

MkDocs calls the functions whose names start with `on_`.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import method_pages
import result_pages
import tutorial_pages
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import fedem_jax as fj
from fedem_jax.config.registry import METHODS

ROOT = Path(__file__).parent.parent.parent
FROM_ROOT = {
    "CONTRIBUTING.md": "howto/adding-a-method.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository that are pages, and where."""
MOVED = {
    "../experiments/README.md": "results/index.md",
    "../docs/privacy.md": "../privacy.md",
    "../docs/howto/own-data.md": "../howto/own-data.md",
    "../../CONTRIBUTING.md": "../howto/adding-a-method.md",
}
"""Links as they are right in the repository, and as they are right in the pages."""
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
"""Formulas, as the extension arithmatex marks them."""
OUTER = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
)
"""What a browser would load from another host."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the methods and of the results in the navigation."""
    added: dict[str, list[Any]] = {
        "Methods": [{method_pages.title(METHODS[name]): f"methods/{name}.md"} for name in METHODS],
        "Results": [path for path, _ in result_pages.pages(_experiments())],
    }
    for entry in config.nav or []:
        for section, pages in entry.items():
            if section in added:
                pages[1:1] = added[section]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and the files that they link to."""
    overview = (ROOT / "docs" / "methods" / "index.md").read_text()
    texts: dict[str, str | bytes] = dict(method_pages.pages(overview))
    texts |= dict(tutorial_pages.pages(ROOT / "docs" / "tutorials"))
    texts |= dict(result_pages.pages(_experiments()))
    texts |= {path: (ROOT / name).read_text() for name, path in FROM_ROOT.items()}
    texts["api.md"] = _api()
    for path, text in texts.items():
        files.append(File.generated(config, path, content=text))
    for path, file in result_pages.copied(ROOT / "experiments"):
        files.append(File.generated(config, path, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links between files of the repository become links between pages."""
    for link, page in MOVED.items():
        markdown = markdown.replace(f"]({link})", f"]({page})")
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Formulas become MathML, which browsers show without a script."""
    return BLOCK.sub(_block, INLINE.sub(_inline, html))


def on_post_page(output: str, page: Page, **_: Any) -> None:
    """Refuse a page that needs the network.

    Raises:
        PluginError: it loads a script, a style, a picture or a frame from another host.
    """
    if found := OUTER.search(output):
        raise PluginError(f"{page.file.src_uri} loads from the network: {found[0]}")


def _inline(formula: re.Match[str]) -> str:
    return convert(unescape(formula[1]))


def _block(formula: re.Match[str]) -> str:
    text = unescape(formula[1])
    tags = re.findall(r"\\tag\{(\w+)\}", text)
    number = "".join(f'<span class="number">({tag})</span>' for tag in tags)
    math = convert(re.sub(r"\\tag\{\w+\}", "", text), display="block")
    return f'<div class="formula">{math}{number}</div>'


def _experiments() -> str:
    return (ROOT / "experiments" / "README.md").read_text()


def _api() -> str:
    """The reference of all public names."""
    names = [name for name in fj.__all__ if name in fj._HOME]
    entries = "\n\n".join(f"::: fedem_jax.{fj._HOME[name]}.{name}" for name in names)
    intro = "`import fedem_jax as fj` gives these names. `fj.__version__` is the version."
    return f"# Python\n\n{intro}\n\n{entries}\n"

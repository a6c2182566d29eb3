"""What a release holds: one version, package data, one ruff, bounds that the lock meets."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

import fedem_jax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]


def pinned(name: str, python: str) -> Version:
    """The version of a package in the lock of a Python."""
    (found,) = [
        entry
        for entry in LOCK
        if entry.name.lower().replace("_", "-") == name.lower().replace("_", "-")
        and entry.marker.evaluate({"python_version": python})
    ]
    (specifier,) = found.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def test_citation_and_changelog_name_the_version():
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    named = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited == named[0] == fedem_jax.__version__
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "comparisons/published.csv",
        "config/tuned.toml",
        "pages/page.css",
        "pages/page.js",
    ],
)
def test_what_the_package_reads_is_package_data(name):
    assert name in PROJECT["tool"]["setuptools"]["package-data"]["fedem_jax"]
    assert files("fedem_jax").joinpath(name).is_file()


def test_every_file_of_the_package_that_is_no_code_is_package_data():
    package = ROOT / "fedem_jax"
    other = {
        str(file.relative_to(package))
        for file in package.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    assert other == set(PROJECT["tool"]["setuptools"]["package-data"]["fedem_jax"])


def test_pre_commit_runs_the_ruff_of_the_lock():
    (revision,) = re.findall(r"rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert {pinned("ruff", python) for python in ("3.11", "3.13")} == {Version(revision)}


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_lock_names_every_dependency_and_meets_its_bound(python):
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["search"], *extras["privacy"]]
    wanted += [*extras["dev"], *extras["docs"]]
    for requirement in map(Requirement, wanted):
        if requirement.name != "fedem_jax":
            assert pinned(requirement.name, python) in requirement.specifier, requirement.name


def test_the_lock_binds_only_the_pythons_that_it_was_made_on():
    assert LOCK
    for entry in LOCK:
        assert isinstance(entry.marker, Marker), entry.name
        assert not entry.marker.evaluate({"python_version": "3.99"}), entry.name


def test_continuous_integration_runs_on_the_pythons_of_the_lock():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (pythons,) = re.findall(r'python: \["(.*)"\]', workflow)
    locked = set(re.findall(r"'(3\.\d+)'", (ROOT / "constraints.txt").read_text()))
    assert set(pythons.split('", "')) == locked

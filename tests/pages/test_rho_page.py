"""Figures of rho in HTML: their lines are the medians of the histograms."""

import json
import re

import numpy as np
import pytest
from made_up import federation, made_up

from fedem_jax.cli import main as cli
from fedem_jax.config.fedem import FedEM
from fedem_jax.evaluation.rho import BINS
from fedem_jax.pages.rho import rho_charts
from fedem_jax.pages.run_page import ShownRun, run_page
from fedem_jax.report.rho_chart import RhoCounts
from fedem_jax.runs.directory import RunDirectory

WIDTH = 1 / BINS


def in_bins(*bins: int) -> RhoCounts:
    """All rows of a round in one bin, but for own training items: theirs is the next lower."""
    counts = np.zeros((len(bins), 4, 5, 2, BINS), int)
    for number, place in enumerate(bins):
        counts[number, :, :, 0, place] = counts[number, :, :, 1, place - 1] = 3
    return RhoCounts(5 * np.arange(1, len(bins) + 1), counts)


def traces(figure: str) -> list[dict]:
    start = re.search(r"Plotly\.newPlot\(\s*\"figure-\w+\",\s*", figure)
    assert start
    return json.JSONDecoder().raw_decode(figure[start.end() :])[0]


def test_medians_over_rounds_and_groups():
    found = in_bins(4, 6, 8, 10, 12, 13, 14)
    found.counts[0] = 0  # nobody waits to merge
    found.counts[-2:, :, 4] = 0
    found.counts[-2:, :, 4, 1, 2] = 1  # the most popular items, all of them own ones
    rounds, popularity, activity = map(traces, rho_charts({"mine": found}))
    assert [trace["name"] for trace in rounds] == ["other items", "own training items"]
    other, own = rounds
    assert other["x"] == own["x"] == [10, 15, 20, 25, 30, 35]
    medians = [(place + 0.5) * WIDTH for place in (6, 8, 10, 12, 13, 14)]
    assert other["y"] == pytest.approx(medians)
    assert other["text"][0] == "(middle half 0.31 to 0.34)"
    other, own = popularity
    assert (other["x"], own["x"]) == ([1, 2, 3, 4], [1, 2, 3, 4, 5])
    assert other["y"] == pytest.approx([14 * WIDTH] * 4)
    assert own["y"][4] == pytest.approx(2.5 * WIDTH)
    assert [len(trace["x"]) for trace in activity] == [4, 4]


def test_runs_are_told_apart_and_keep_the_colour_of_their_place():
    (figure,) = rho_charts({"fedmf": None, "a<b": in_bins(4), "c": in_bins(9)})
    found = traces(figure)
    assert [trace["name"] for trace in found] == [
        f"{run}, {rows}"
        for run in ("a&lt;b", "c")
        for rows in ("own training items", "other items")
    ]
    colours = [trace["line"]["color"] for trace in found]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert [trace["line"]["dash"] for trace in found] == ["solid", "dash"] * 2
    (alone,) = rho_charts({"c": in_bins(9), "fedmf": None})
    assert traces(alone)[0]["line"]["color"] not in colours


def test_without_counts_there_is_no_figure():
    nobody = RhoCounts(np.arange(2), np.zeros((2, 4, 5, 2, BINS), int))
    assert rho_charts({"a": None}) == rho_charts({"a": nobody}) == []


def test_the_section_is_there_for_runs_that_learn_rho(tmp_path):
    run, _ = made_up(FedEM(rounds=2, dim=4))
    for name, rho in (("with", in_bins(4, 9)), ("without", None)):
        run_page([ShownRun("mine", run, rho=rho)], tmp_path / name)
    assert ">Merging</h2>" in (tmp_path / "with").read_text()
    assert ">Merging</h2>" not in (tmp_path / "without").read_text()


def test_the_command_shows_the_rho_of_the_run(tmp_path):
    config = FedEM(rounds=2, dim=4)
    run, clients = made_up(config)
    directory = RunDirectory(tmp_path / "run")
    directory.on_start({"config": config, "federation": federation(config)})
    for record, counts in zip(run.records, in_bins(4, 9).counts, strict=True):
        directory.on_round(record | {"rho": counts.tolist()})
    directory.on_end(run.summary, clients)
    cli.main(["report", str(tmp_path / "run"), "--html", str(tmp_path / "page.html")])
    text = (tmp_path / "page.html").read_text()
    assert rho_charts({"run": in_bins(4, 9)._replace(rounds=np.array([1, 2]))})[0] in text

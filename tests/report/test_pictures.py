"""Pictures show the numbers of the runs, say what they mean, and leave Matplotlib's global state
alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up import made_up
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.text import Text
from pictures import (
    axes_of,
    band,
    bars,
    colour_of,
    curve,
    curves,
    key,
    level,
    notes,
    said,
    ticks,
    upright_at,
)

from fedem_jax.comparisons.charts import standings_chart
from fedem_jax.comparisons.standings import Difference, MethodSummary
from fedem_jax.config.fedem import FedEM
from fedem_jax.report.curves import learning_curves
from fedem_jax.report.rho_chart import RhoCounts, rho_chart
from fedem_jax.report.style import GREY
from fedem_jax.runs.reading import Run


def run(rounds: int, **settings) -> Run:
    return made_up(FedEM(rounds=rounds, **settings))[0]


@pytest.mark.parametrize(("runs", "rounds"), [(1, 1), (1, 60), (3, 5)])
def test_the_curves_are_those_of_the_records(tmp_path, pictures, runs, rounds):
    named = [(f"run {seed}", run(rounds, seed=seed)) for seed in range(runs)]
    learning_curves(named, tmp_path / "curves.png", title="a title")
    figure = pictures["curves.png"]
    assert said(figure)[0] == "a title"
    panels = dict(zip(("hr", "ndcg", "hr_full", "loss"), figure.axes, strict=True))
    across = "communication round"
    assert {name: axes_of(panel) for name, panel in panels.items()} == {
        "hr": ("HR@10, 99 candidates", across, "share of clients"),
        "ndcg": ("NDCG@10, 99 candidates", across, "mean over clients"),
        "hr_full": ("HR@10, all items", across, "share of clients"),
        "loss": ("Train loss", across, "mean over the clients"),
    }
    shown = {
        "hr": ("val", "test", "hr@10"),
        "ndcg": ("val", "test", "ndcg@10"),
        "hr_full": ("val_full", "test_full", "hr@10"),
    }
    colours = colours_of(panels["loss"], [name for name, _ in named])
    assert len(set(colours.values())) == runs
    for name, each in named:
        highest = max(record["val"]["hr@10"] for record in each.records)
        best = max(r["round"] for r in each.records if r["val"]["hr@10"] == highest)
        numbers = [record["round"] for record in each.records]
        for panel, (val, test, metric) in shown.items():
            for part, dashed in ((val, True), (test, False)):
                (line,) = curves(panels[panel], colours[name], dashed=dashed)
                assert curve(line) == (numbers, [record[part][metric] for record in each.records])
            value = each.records[best - 1][test][metric]
            low, high = each.summary["headline"]["interval"][test][metric]
            (bar,) = (bar for bar in bars(panels[panel]) if bar.colour == colours[name])
            assert (bar.x, bar.y) == ([best], [value])
            assert (bar.low, bar.high) == (pytest.approx([low]), pytest.approx([high]))
            assert low <= value <= high
            right = f"{value:.4f} at round {best}" if runs == 1 else ""
            assert panels[panel].get_title(loc="right") == right
        (line,) = curves(panels["loss"], colours[name])
        assert curve(line) == (numbers, [1 / number for number in numbers])
    assert panels["loss"].get_yscale() == ("log" if rounds == 60 else "linear")
    # a random order of 100 candidates, or of the items that a client has not trained on
    seen = np.array([1, 1, 2, 2, 3, 4, 5, 6])
    ideal = float((1 / np.log2(np.arange(2, 12))).sum())
    guess = {"hr": 0.1, "ndcg": ideal / 100, "hr_full": np.mean(10 / (119 - seen))}
    for panel, value in guess.items():
        (line,) = curves(panels[panel], GREY)
        assert level(line) == pytest.approx(value)
        assert notes(panels[panel]) == [f"chance\n{value:.4f}"]
        bottom, top = panels[panel].get_ylim()
        assert bottom == 0
        assert top >= max(max(curve(line)[1]) for line in panels[panel].lines)


def colours_of(loss: Axes, names: list[str]) -> dict[str, str]:
    """Colours of the runs: a legend has them, but for a single run, which has all lines."""
    if len(names) > 1:
        colours = {name: colour_of(line) for name, line in key(loss.get_legend()).items()}
        assert list(colours) == names
        return colours
    assert loss.get_legend() is None
    return {names[0]: colour_of(loss.lines[0])}


def test_the_legend_tells_validation_from_test(tmp_path, pictures):
    learning_curves([("x", run(3))], tmp_path / "curves.png", title="a title")
    (legend,) = pictures["curves.png"].legends
    shown = key(legend)
    assert list(shown) == ["test", "validation", "best validation round, 95 %"]
    assert [line.is_dashed() for line in shown.values()] == [False, True, False]
    assert [line.get_marker() for line in shown.values()] == ["None", "None", "o"]


def words(tmp_path: Path, *runs: tuple[str, Run]) -> str:
    """The text of a picture; an SVG keeps each in a comment."""
    learning_curves(runs, tmp_path / "curves.svg", title="a title")
    return (tmp_path / "curves.svg").read_text()


def test_the_picture_says_what_its_numbers_mean(tmp_path, pictures):
    shown = words(tmp_path, ("fedem", run(3, ties="average")))
    for text in (
        "protocol leak-free* (ties average) · fingerprint 0123456789abcdef · 8 clients · "
        "120 items · seed 0",
        "HR@10, 99 candidates",
        "NDCG@10, 99 candidates",
        "HR@10, all items",
        "Train loss",
        "best validation round, 95 %",
        "0.1000",
    ):
        assert f"<!-- {text} -->" in shown


def test_runs_that_differ_have_a_caption_each(tmp_path, pictures):
    shown = words(tmp_path, ("x", run(3)), ("y", run(3, seed=1, num_candidates=49, top_k=7)))
    assert "<!-- x: protocol leak-free ·" in shown
    assert "<!-- y: protocol leak-free* (num candidates 49) ·" in shown
    assert "<!-- HR@10, sampled candidates -->" in shown


def test_a_metric_of_zero_throughout_is_drawn(tmp_path, pictures):
    flat = run(2)
    for record in (*flat.records, flat.summary["headline"]):
        record["loss"] = 0.0
        for part in ("val", "test", "val_full", "test_full"):
            record[part] = dict.fromkeys(record[part], 0.0)
    flat.summary["headline"]["interval"] = {part: {} for part in ("test", "test_full")}
    learning_curves([("flat", flat)], tmp_path / "flat.png", title="flat")
    for panel in pictures["flat.png"].axes[:3]:
        assert panel.get_ylim()[1] > 0  # of the levels of chance
        whole, dashed = (curves(panel, colour_of(panel.lines[0]), dashed=d) for d in (False, True))
        assert curve(*whole) == curve(*dashed) == ([1, 2], [0, 0])
        (bar,) = bars(panel)
        assert bar.low == bar.y == bar.high == [0]  # without an interval


def test_global_state_of_matplotlib_is_left_alone(tmp_path):
    _, records, summary = run(3)
    script = (
        "import sys; from fedem_jax.config.fedem import FedEM\n"
        "from fedem_jax.runs.reading import Run\n"
        "from fedem_jax.report.curves import learning_curves\n"
        f"run = Run(FedEM(), {records!r}, {summary!r})\n"
        f"learning_curves([('x', run)], {str(tmp_path / 'x.png')!r}, title='x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# --- standings ------------------------------------------------------------------------------------

HR, NDCG = ("test", "hr@10"), ("test_full", "ndcg@10")


def standing(name: str, hr: list[float], ndcg: list[float], p: tuple[float, float] | None):
    """A line of the table; `p`: corrected, of HR and of NDCG."""
    against = {} if p is None else {HR: Difference(0, 0, p[0]), NDCG: Difference(0, 0, p[1])}
    scores = {HR: hr, NDCG: ndcg} if hr else {}
    return MethodSummary(
        name, name, "" if hr else "failed", scores, {}, against, (1, 1), 1, 0, 0, 0
    )


@pytest.mark.parametrize("reference", ["ours", ""])
def test_standings_are_those_of_the_lines(tmp_path, pictures, reference):
    tested = [(0.04, 0.05), (0.051, 0.001)] if reference else [None, None]
    lines = [
        standing("ours", [0.30, 0.34], [0.11, 0.15], None),
        standing("lost", [], [], None),
        standing("best", [0.50, 0.40], [0.20, 0.26], tested[0]),
        standing("last", [0.10, 0.16], [0.30, 0.32], tested[1]),
    ]
    chance = {"test": {"hr@10": 0.07}, "test_full": {"ndcg@10": 0.02}}
    standings_chart(
        lines, tmp_path / "s.png", title="a title", caption="a caption", reference=reference,
        chance=chance,
    )  # fmt: skip
    figure = pictures["s.png"]
    assert said(figure) == ("a title", "a caption")
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "HR@10, sampled", "NDCG@10, all items",
    ]  # fmt: skip
    assert ticks(figure.axes[0].yaxis) == {0: "last", 1: "ours", 2: "best"}  # best HR on top
    shown = key(figure.legends[0])
    if reference:
        assert list(shown) == [
            "single seed", "differs from ours", "difference in doubt", "ours", "chance",
        ]  # fmt: skip
        blue, hollow, orange = (shown[name] for name in list(shown)[1:4])
        assert colour_of(hollow) == colour_of(blue) != colour_of(orange)
        faces = [to_hex(line.get_markerfacecolor()) for line in (blue, hollow, orange)]
        assert faces == [colour_of(blue), "#ffffff", colour_of(orange)]
        colours = [colour_of(blue), colour_of(orange), colour_of(blue)]
        doubts = [[True, False, False], [False, False, True]]
    else:
        assert list(shown) == ["single seed", "mean ± sd over seeds", "chance"]
        colours = [colour_of(shown["mean ± sd over seeds"])] * 3
        doubts = [[False] * 3] * 2
    expected = [  # by row: values, mean, standard deviation
        [([0.10, 0.16], 0.13, 0.03), ([0.30, 0.34], 0.32, 0.02), ([0.50, 0.40], 0.45, 0.05)],
        [([0.30, 0.32], 0.31, 0.01), ([0.11, 0.15], 0.13, 0.02), ([0.20, 0.26], 0.23, 0.03)],
    ]
    for panel, rows, doubt, guess in zip(figure.axes, expected, doubts, (0.07, 0.02), strict=True):
        line, *seeds = curves(panel, GREY)
        assert upright_at(line) == guess
        for row, (mean, (values, middle, half)) in enumerate(
            zip(bars(panel, sideways=True), rows, strict=True)
        ):
            x, y = curve(seeds[row])
            assert x == values
            assert all(abs(place - row) < 0.5 for place in y)
            assert (mean.x, mean.y) == (pytest.approx([middle]), [row])
            sd = half * 2**0.5  # of two values
            assert mean.low == pytest.approx([middle - sd])
            assert mean.high == pytest.approx([middle + sd])
            assert (mean.colour, mean.hollow) == (colours[row], doubt[row])
        assert panel.get_xlim()[0] == 0


LONG = "fedem:merging=once:adapter=table:adapter_sharing=average:adapter_samples=held-out"


def test_a_long_name_stands_beside_the_panels_in_lines(tmp_path, pictures):
    lines = [standing(name, [0.4, 0.5], [0.2, 0.3], None) for name in (LONG, "fedmf")]
    standings_chart(
        lines, tmp_path / "s.png", title="a title", caption="", reference="",
        chance={"test": {"hr@10": 0.07}, "test_full": {"ndcg@10": 0.02}},
    )  # fmt: skip
    figure = pictures["s.png"]
    figure.draw_without_rendering()
    for tick in figure.axes[0].get_yticklabels():
        assert tick.get_window_extent().x0 >= 0
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert {name.replace("\n", "") for name in shown} == {LONG, "fedmf"}


def test_a_single_seed_has_no_spread(tmp_path, pictures):
    chance = {"test": {"hr@10": 0.07}, "test_full": {"ndcg@10": 0.02}}
    standings_chart(
        [standing("one", [0.2], [0.3], None)], tmp_path / "s.png", title="", caption="",
        reference="", chance=chance,
    )  # fmt: skip
    for panel, value in zip(pictures["s.png"].axes, (0.2, 0.3), strict=True):
        (mean,) = bars(panel, sideways=True)
        assert mean.low == mean.x == mean.high == [value]


# --- rho ------------------------------------------------------------------------------------------


def quantile(counts: np.ndarray, level: float) -> float:
    """Of values that lie evenly in each of 20 bins."""
    values = (np.arange(20 * 500) + 0.5) / (20 * 500)
    weights = np.repeat(counts, 500).astype(float)
    return float(np.quantile(values, level, weights=weights, method="inverted_cdf"))


def test_the_picture_of_rho_is_that_of_its_histograms(tmp_path, pictures):
    rng = np.random.default_rng(0)
    rounds = np.arange(1, 9) * 5
    counts = rng.integers(1, 40, (8, 4, 5, 2, 20))
    counts[..., 1, :8] = 0  # own items take up more
    counts[0] = 0  # nobody waits to merge
    summary = run(3, dataset="synthetic").summary
    rho_chart(RhoCounts(rounds, counts), tmp_path / "rho.png", summary)
    figure = pictures["rho.png"]
    title, caption = said(figure)
    assert title == "What fedem takes up on synthetic"
    assert "lines: medians, bands: middle half; lower panels: the last 2 rounds" in caption
    assert "protocol leak-free · fingerprint 0123456789abcdef · seed 0" in caption
    heat, kinds, popularity, activity, bar = figure.axes
    assert bar.get_ylabel() == "share of the rows"
    assert [axes_of(panel) for panel in (heat, kinds, popularity, activity)] == [
        ("distribution of rho", "communication round", "rho"),
        ("rho by kind of row", "communication round", "rho"),
        ("rho by popularity of the item", "fifth of the items, most popular last", "rho"),
        ("rho by activity of the client", "quarter of the clients, most active last", "rho"),
    ]
    kept, late = counts[1:], counts[-2:].sum(axis=0)
    (mesh,) = heat.collections
    shares = np.array([each.sum(axis=(0, 1, 2)) / each.sum() for each in kept])
    np.testing.assert_allclose(mesh.get_array().reshape(20, 7), shares.T)
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], np.arange(7.5, 43, 5))
    np.testing.assert_allclose(corners[:, 0, 1], np.arange(21) / 20)
    colours = {name: colour_of(line) for name, line in key(kinds.get_legend()).items()}
    assert list(colours) == ["other items", "own training items"]
    expected = {
        kinds: (rounds[1:], [each.sum(axis=(0, 1)) for each in kept]),
        popularity: (range(1, 6), [late[:, group].sum(axis=0) for group in range(5)]),
        activity: (range(1, 5), [late[group].sum(axis=0) for group in range(4)]),
    }
    for panel, (at, histograms) in expected.items():
        for kind, name in enumerate(colours):
            low, median, high = (
                [quantile(each[kind], level) for each in histograms] for level in (0.25, 0.5, 0.75)
            )
            (line,) = curves(panel, colours[name])
            x, y = curve(line)
            assert x == list(at)
            np.testing.assert_allclose(y, median, atol=2e-4)
            places, below, above = band(panel, kind)
            np.testing.assert_array_equal(places, at)
            np.testing.assert_allclose([below, above], [low, high], atol=2e-4)
            assert to_hex(panel.collections[kind].get_facecolor()[0]) == colours[name]
        assert panel.get_ylim() == (0, 1)


def test_without_anything_counted_no_picture_of_rho_is_made(tmp_path, pictures):
    rho_chart(
        RhoCounts(np.arange(3), np.zeros((3, 4, 5, 2, 20))), tmp_path / "rho.png", run(3).summary
    )
    assert not pictures
    assert not (tmp_path / "rho.png").exists()


# --- words of the user ----------------------------------------------------------------------------

ODD = "_$x_1^$ [red]a[/red]"
"""A formula that Matplotlib would fail to draw."""


def test_words_of_the_user_are_no_formulas(tmp_path, pictures):
    chance = {"test": {"hr@10": 0.07}, "test_full": {"ndcg@10": 0.02}}
    odd = run(60, dataset=ODD)
    learning_curves([(ODD, odd), ("y", run(60))], tmp_path / "curves.png", title=ODD)
    standings_chart(
        [standing(ODD, [0.2, 0.3], [0.3, 0.4], None)], tmp_path / "standings.png", title=ODD,
        caption=ODD, reference=ODD, chance=chance,
    )  # fmt: skip
    counts = np.random.default_rng(0).integers(1, 40, (8, 4, 5, 2, 20))
    rho_chart(RhoCounts(np.arange(8), counts), tmp_path / "rho.png", odd.summary)
    assert ODD in key(pictures["curves.png"].axes[3].get_legend())
    assert said(pictures["standings.png"]) == (ODD, ODD)
    assert f"differs from {ODD}" in key(pictures["standings.png"].legends[0])
    assert said(pictures["rho.png"])[0] == f"What fedem takes up on {ODD}"
    for figure in pictures.values():
        odd_texts = [text for text in figure.findobj(Text) if ODD in text.get_text()]
        assert odd_texts
        assert not any(text.get_parse_math() for text in odd_texts)


def test_powers_of_ten_stay_formulas(tmp_path, pictures):
    learning_curves([("x", run(60))], tmp_path / "curves.png", title="")
    loss = pictures["curves.png"].axes[3]
    powers = [label for label in loss.yaxis.get_majorticklabels() if "10^" in label.get_text()]
    assert powers
    assert all(label.get_parse_math() for label in powers)

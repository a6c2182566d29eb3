"""Every variant of the ablation is sound, and departs from FedEM in what it names."""

import dataclasses

import ablation
import pytest
from pictures import bars, curve, curves, said, ticks, upright_at

from fedem_jax.comparisons.plan import plan_comparison
from fedem_jax.comparisons.standings import MethodSummary
from fedem_jax.config.fedem import FedEM
from fedem_jax.errors import UserError
from fedem_jax.evaluation.statistics import over_seeds
from fedem_jax.report.style import COLOURS, GREY


@pytest.mark.parametrize("part", ablation.PARTS)
def test_a_variant_changes_what_it_names(part):
    changes = ablation.PARTS[part]
    names = [f"fedem:{change}" for change in changes]
    found = plan_comparison(names, dataset="ml-100k", start="released")
    usual = dataclasses.asdict(FedEM(dataset="ml-100k", per_client=True))
    for change, contender in zip(changes, found.contenders, strict=True):
        assert contender.config is not None
        settings = dataclasses.asdict(contender.config)
        named = {setting.split("=")[0] for setting in change.split(":")}
        assert {name for name in usual if settings[name] != usual[name]} == named


def test_an_unknown_part_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"'merge' is unknown.*merging"):
        ablation.ablate(["--parts", "merge"])


class PlannedError(Exception):
    """Ends an ablation before its first run."""


def test_a_variant_that_does_not_go_with_the_base_is_left_out(monkeypatch, capsys):
    planned = []

    def end(comparison, console):
        planned.extend(contender.name for contender in comparison.contenders)
        raise PlannedError

    monkeypatch.setattr(ablation, "run_missing", end)
    parts = ["--parts", "merging", "aggregation"]
    settings = ["local_optimiser=closed-form", "merging=once"]
    with pytest.raises(PlannedError):
        ablation.ablate([*parts, "--preset", "released", "--settings", *settings])
    base = ":".join(["fedem", *settings])
    assert planned[0] == base
    kept = {name.removeprefix(f"{base}:") for name in planned[1:]}
    assert set(ablation.PARTS["aggregation"]) < kept
    every = {*ablation.PARTS["merging"], *ablation.PARTS["aggregation"]}
    assert every - kept == {"merging=shrinkage"}
    printed = " ".join(capsys.readouterr().out.split())
    assert f"left out: {base}:merging=shrinkage: local_optimiser: closed-form" in printed


def test_settings_of_the_base_are_refused_at_once():
    with pytest.raises(UserError, match="setting 'dimm' is unknown"):
        ablation.ablate(["--settings", "dimm=3"])


METRIC, CHANCE = ("test", "hr@10"), {"test": {"hr@10": 0.1}}


def summary(name: str, values: list[float]) -> MethodSummary:
    scores = {METRIC: values} if values else {}
    failed = "" if values else "out of memory"
    return MethodSummary(name, "fedem", failed, scores, {}, {}, (1, 1), 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("base", "variants", "sd"),
    [
        ([0.1, 0.2], [[0.3, 0.5], [0.2, 0.6]], [0.05, 0.1, 0.2]),  # half the gap of two seeds
        ([0.2], [[0.5], [0.1]], [0.04, 0.05, 0.03]),  # standard errors over 100 clients
    ],
)
def test_a_panel_for_each_part(tmp_path, pictures, base, variants, sd):
    summaries = [
        summary("fedem", base), summary("fedem:alpha=0.1", variants[0]),
        summary("fedem:alpha=0.3", []), summary("fedem:adapter_widths=8", variants[1]),
    ]  # fmt: skip
    seeds = len(base)
    sd = [value * 2**0.5 if seeds == 2 else value for value in sd]
    parts = ["alpha", "widths"]
    ablation.draw(summaries, "fedem", parts, tmp_path / "a.png", "a title", CHANCE, 100)
    figure = pictures["a.png"]
    title, caption = said(figure)
    assert title == "a title"
    marks = "dots are seeds, large ones means ± sd" if seeds == 2 else "one seed ± se over clients"
    assert caption == (
        f"test HR@10 at the best validation round, sampled candidates; {marks};\n"
        "line and band: the base, fedem; dotted: chance"
    )
    rows = [
        ["alpha=1.0", "alpha=0.7", "alpha=0.5", "alpha=0.3", "alpha=0.1"],
        ["adapter widths=64,32", "adapter widths=32,16", "adapter widths=8"],
    ]
    for panel, names, values, spread, row in zip(
        figure.axes, rows, variants, sd[1:], (4, 2), strict=True
    ):
        assert ticks(panel.yaxis) == dict(enumerate(names))
        (usual,) = curves(panel, COLOURS[1])
        assert upright_at(usual) == pytest.approx(sum(base) / seeds)
        (band,) = panel.patches
        middle = sum(base) / seeds
        assert band.get_x() == pytest.approx(middle - sd[0])
        assert band.get_x() + band.get_width() == pytest.approx(middle + sd[0])
        guess, dots = curves(panel, GREY)
        assert upright_at(guess) == 0.1
        assert curve(dots) == (values, [row - 0.25] * seeds)  # below the mean
        (mean,) = bars(panel, sideways=True)  # what failed or was not run has none
        middle = sum(values) / seeds
        assert (mean.x, mean.y) == (pytest.approx([middle]), [row])
        assert (mean.low, mean.high) == (
            pytest.approx([middle - spread]), pytest.approx([middle + spread])
        )  # fmt: skip


def test_without_its_base_there_is_no_picture(tmp_path):
    summaries = [summary("fedem", []), summary("fedem:alpha=0.1", [0.1])]
    with pytest.raises(UserError, match="nothing to hold the variants against"):
        ablation.draw(summaries, "fedem", ["alpha"], tmp_path / "b.png", "title", CHANCE, 50)


def test_the_spread_of_one_seed_is_that_over_clients():
    assert ablation.spread(over_seeds([0.1, 0.3]), 100) == pytest.approx(0.02**0.5)
    assert ablation.spread(over_seeds([0.2]), 100) == pytest.approx(0.04)

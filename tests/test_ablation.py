"""Every variant of the ablation is sound, and departs from FedEM in what it names."""

import dataclasses

import ablation
import pytest

from fedem_jax.comparison import plan_comparison
from fedem_jax.errors import UserError
from fedem_jax.settings import FedEM
from fedem_jax.standings import Standing
from fedem_jax.uncertainty import over_seeds


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


def test_a_panel_for_each_part(tmp_path):
    metric = ("test", "hr@10")

    def line(name, failed=""):
        scores = {} if failed else {metric: [0.1, 0.2]}
        return Standing(name, "fedem", failed, scores, {}, {}, (1, 1), 1, 0, 0, 0)

    lines = [line("fedem"), line("fedem:alpha=0.1"), line("fedem:alpha=0.3", "out of memory")]
    chance = {"test": {"hr@10": 0.1}}
    ablation.draw(lines, "fedem", ["alpha", "widths"], tmp_path / "a.png", "title", chance, 50)
    assert (tmp_path / "a.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="nothing to hold the variants against"):
        ablation.draw(lines[1:], "fedem", ["alpha"], tmp_path / "b.png", "title", chance, 50)


def test_the_spread_of_one_seed_is_that_over_clients():
    assert ablation.spread(over_seeds([0.1, 0.3]), 100) == pytest.approx(0.02**0.5)
    assert ablation.spread(over_seeds([0.2]), 100) == pytest.approx(0.04)

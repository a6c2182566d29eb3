"""A comparison says before it runs which switches of a method change nothing."""

import pytest

from fedem_jax.comparisons.plan import plan_comparison
from fedem_jax.comparisons.progress import idle_switches


@pytest.mark.parametrize(
    ("method", "idle"),
    [
        ("fcf:batch-size=8:lr_server=0.1", ["batch_size"]),
        ("fedem:lr_network=0.5", ["lr_network"]),
        ("fedem:lr_network=0.5:backbone=ncf", []),
        ("fcf", []),
        ("mine=fedem:lr_network=0.5", ["lr_network"]),
    ],
)
def test_switches_without_effect_are_said(method, idle):
    comparison = plan_comparison([method], seeds=1)
    (contender,) = comparison.contenders
    assert contender.idle == idle
    named = contender.name
    said = [f"{name}: without effect on {named} with these settings." for name in idle]
    assert idle_switches(comparison) == said

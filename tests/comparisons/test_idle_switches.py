"""A comparison says before it runs which switches of a method change nothing."""

import pytest
from made_up import federation

from fedem_jax.comparisons.plan import plan_comparison
from fedem_jax.comparisons.progress import opening


@pytest.mark.parametrize(
    ("method", "idle"),
    [
        ("fcf:batch-size=8:lr_server=0.1", ["batch_size"]),
        ("fedem:lr_network=0.5", ["lr_network"]),
        ("fedem:lr_network=0.5:backbone=ncf", []),
        ("fcf", []),
    ],
)
def test_switches_without_effect_are_said(method, idle):
    comparison = plan_comparison([method], seeds=1)
    said = opening(comparison, comparison.runs(), federation()).plain
    assert comparison.contenders[0].idle == idle
    assert ("without effect" in said) == bool(idle)
    if idle:
        assert f"{idle[0]}: without effect on {method} with these settings." in said

"""`fedem plan`."""

from __future__ import annotations

from collections.abc import Sequence

from fedem_jax.cli import process
from fedem_jax.cli.options import Plan, settings


def plan(args: Sequence[str]) -> None:
    """Estimate what a run would cost: padding, balance, memory, traffic; runs nothing."""
    options = settings(Plan, "fedem plan", args)[0]
    process.prepare_jax()

    from fedem_jax.analysis import cost
    from fedem_jax.analysis.cost_tables import shown
    from fedem_jax.report.terminal import Terminal

    planned = cost.plan(
        options.settings, devices=options.devices, device_memory=options.device_memory
    )
    Terminal().print(shown(planned))

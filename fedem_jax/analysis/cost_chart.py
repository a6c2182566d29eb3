"""The picture of a plan: what lies in the memory of a device."""

from __future__ import annotations

from pathlib import Path

from fedem_jax.analysis.cost import Plan
from fedem_jax.report.style import CHANCE, COLOURS, frame, new_figure, save
from fedem_jax.units import in_bytes

MB = 10**6


def memory_chart(plan: Plan, path: str | Path) -> None:
    """Draw the bytes of a device by what they hold, and the limit of the device.

    Args:
        plan: of a run.
        path: PNG or any other format that Matplotlib knows by its ending.
    """
    memory, parts = plan.memory, plan.in_memory
    caption = (
        f"{plan.federation.num_clients:,} clients, {plan.federation.num_items:,} items · state, "
        f"lists and the largest scratch: {in_bytes(memory.total)} · dotted: the device has "
        f"{in_bytes(memory.limit)}"
    )
    title = f"{plan.federation.name}: memory of each of {memory.devices} devices"
    figure = new_figure((8, 1.5 + 0.4 * len(parts)), title, caption)
    panel = figure.subplots()
    frame(panel, across="MB", grid="x")
    panel.set_xscale("log")
    colours = [COLOURS[5] if name.startswith("scratch") else COLOURS[0] for name in parts]
    bars = panel.barh(list(parts), [count / MB for count in parts.values()], color=colours)
    panel.bar_label(bars, [in_bytes(count) for count in parts.values()], padding=3, fontsize=8)
    panel.axvline(memory.limit / MB, **CHANCE)
    panel.invert_yaxis()
    save(figure, path)

"""The cost of a run as tables for a terminal."""

from __future__ import annotations

from fedem_jax.analysis.cost import Plan
from fedem_jax.units import in_bytes


def shown(plan: Plan):
    """The plan as tables of at most 80 columns, for a rich console."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    def table(title: str, *columns: str) -> Table:
        made = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        made.add_column("", no_wrap=True)
        for column in columns:
            made.add_column(column, justify="right", no_wrap=True)
        return made

    memory, federation = plan.memory, plan.federation
    columns = ("clients", "positives", "rows", "steps/epoch", "padded/useful")
    classes = table("Size classes", *columns)
    for phase, members in plan.classes.items():
        for c in members:
            row = (c.members, c.capacity, c.rows, c.steps)
            classes.add_row(phase, *(f"{number:,}" for number in row), f"{c.padding:.2f}")

    kept = {
        "clients' state": memory.clients,
        "server's state": memory.server,
        "lists": memory.data,
    }
    scratch = {f"scratch: {phase}": count for phase, count in memory.scratch.items()}
    bytes_ = table(f"Memory of each of {memory.devices} devices", "bytes")
    for name, count in (kept | scratch).items():
        bytes_.add_row(name, in_bytes(count))
    bytes_.add_row("state, lists, largest scratch", in_bytes(memory.total), style="bold")
    bytes_.add_row("there is", in_bytes(memory.limit))

    wire = table("On the wire in a round", "bytes")
    wire.add_row("up, from all clients", in_bytes(plan.traffic.up))
    wire.add_row("down, to all clients", in_bytes(plan.traffic.down))

    fit = f"fits, in blocks of {memory.block}" if memory.fits else f"does not fit: {memory.advice}"
    return Group(
        f"{federation.name}, protocol {federation.protocol.name}: {federation.num_clients:,} "
        f"clients, {federation.num_items:,} items\n",
        classes,
        f"padded over useful work {plan.padding:.3f}; busiest device over mean "
        f"{plan.imbalance:.2f}\n",
        bytes_,
        f"{fit}\n",
        wire,
    )

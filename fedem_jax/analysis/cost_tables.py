"""The cost of a run as tables for a terminal."""

from __future__ import annotations

from fedem_jax.analysis.cost import Plan
from fedem_jax.report.tables import Row, Shown, Table, in_terminal
from fedem_jax.units import in_bytes


def shown(plan: Plan) -> Shown:
    """The plan as tables that fit into 80 columns."""
    federation = plan.federation
    setting = (
        f"{federation.name}, protocol {federation.protocol.name}: {federation.num_clients:,} "
        f"clients, {federation.num_items:,} items"
    )
    return in_terminal(setting, _classes(plan), _memory(plan), _traffic(plan))


def _classes(plan: Plan) -> Table:
    rows = []
    for phase, classes in plan.classes.items():
        for c in classes:
            counts = (f"{count:,}" for count in (c.members, c.capacity, c.rows, c.steps))
            rows.append(Row([phase, *counts, f"{c.padding:.2f}"]))
    header = ["", "clients", "positives", "rows", "steps/epoch", "padded/useful"]
    note = (
        f"padded over useful work {plan.padding:.3f}; busiest device over mean {plan.imbalance:.2f}"
    )
    samples = f"samples of the busiest device over the mean {plan.imbalance_of_samples:.3f}"
    return Table("Size classes", header, rows, [note, samples])


def _memory(plan: Plan) -> Table:
    memory = plan.memory
    rows = [Row([name, in_bytes(count)]) for name, count in plan.in_memory.items()]
    rows.append(Row(["state, lists, largest scratch", in_bytes(memory.total)], "bold"))
    rows.append(Row(["there is", in_bytes(memory.limit)]))
    fit = f"fits, in blocks of {memory.block}" if memory.fits else f"does not fit: {memory.advice}"
    notes = [fit]
    if memory.host:
        there = "" if memory.host_limit is None else f" of {in_bytes(memory.host_limit)}"
        saved = in_bytes(memory.saved) if memory.saved > 0 else "nothing"
        notes.append(f"on the host {in_bytes(memory.host)}{there}; saves {saved} on each device")
    return Table(f"Memory of each of {memory.devices} devices", ["", "bytes"], rows, notes)


def _traffic(plan: Plan) -> Table:
    rows = [
        Row(["up, from all clients", in_bytes(plan.traffic.up)]),
        Row(["down, to all clients", in_bytes(plan.traffic.down)]),
    ]
    return Table("On the wire in a round", ["", "bytes"], rows, [])

"""The cost of a run as tables for a terminal."""

from __future__ import annotations

from fedem_jax.analysis.cost import Plan
from fedem_jax.analysis.work import Work
from fedem_jax.units import in_bytes, in_seconds


def shown(plan: Plan):
    """The plan as tables of at most 80 columns, for a rich console."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    def table(title: str, first: str, *columns: str) -> Table:
        made = Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        made.add_column(first, no_wrap=True)
        for column in columns:
            made.add_column(column, justify="right", no_wrap=True)
        return made

    memory, machine, federation = plan.memory, plan.machine, plan.federation
    columns = ("clients", "positives", "rows", "steps/epoch", "padded/useful")
    classes = table("Size classes", "", *columns)
    for kind, members in (("own rows", plan.classes), ("merging", plan.merging)):
        for c in members:
            row = (c.members, c.capacity, c.rows, c.steps)
            classes.add_row(kind, *(f"{number:,}" for number in row), f"{c.padding:.2f}")

    kept = {
        "clients' state": memory.clients,
        "server's state": memory.server,
        "lists": memory.data,
    }
    scratch = {f"scratch: {phase}": count for phase, count in memory.scratch.items()}
    bytes_ = table(f"Memory of each of {memory.devices} devices", "", "bytes")
    for name, count in (kept | scratch).items():
        bytes_.add_row(name, in_bytes(count))
    bytes_.add_row("state, lists, largest scratch", in_bytes(memory.total), style="bold")
    bytes_.add_row("there is", in_bytes(memory.limit))

    fit = f"fits, in blocks of {memory.block}" if memory.fits else f"does not fit: {memory.advice}"
    blocks = [
        f"{federation.name}, protocol {federation.protocol.name}: {federation.num_clients:,} "
        f"clients, {federation.num_items:,} items\n",
        classes,
        f"padded over useful work {plan.padding:.3f}; busiest device over mean "
        f"{plan.imbalance:.2f}\n",
        bytes_,
        f"{fit}\n",
    ]
    if not plan.work:
        return Group(*blocks)

    columns = ("operations", "moved", "floor", "streamed", "its floor")
    work = table("A round, nobody stopping early", "", *columns)
    for phase, w in plan.work.items():
        floor, streamed = in_seconds(machine.floor(w)), in_seconds(machine.streamed(w))
        cells = (f"{w.operations:.3g}", in_bytes(w.moved), floor, in_bytes(w.streamed), streamed)
        work.add_row(phase, *cells)
    total = Work(*(sum(amounts) for amounts in zip(*plan.work.values(), strict=True)))
    work.add_row(
        "round", f"{total.operations:.3g}", in_bytes(total.moved), in_seconds(plan.floor),
        in_bytes(total.streamed), in_seconds(plan.streamed), style="bold",
    )  # fmt: skip
    return Group(
        *blocks,
        work,
        f"This machine copies {in_bytes(machine.bandwidth)}/s and multiplies matrices at "
        f"{machine.rate / 1e9:,.3g} Gflop/s. The floor holds a client's rows on chip for all its "
        "local steps; streamed takes them through memory in each step (caches may undercut it).",
    )

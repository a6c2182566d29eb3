"""What a run will cost, before it runs: padding, memory, operations, bytes, the floor in time.

Nothing here compiles or trains a round.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedem_jax.clients import Layout, Need
from fedem_jax.config import Config
from fedem_jax.data.federation import Federation
from fedem_jax.memory import MemoryPlan, plan_memory
from fedem_jax.padding import ClassPlan, plan_class
from fedem_jax.settings import FedEM
from fedem_jax.units import in_bytes, in_seconds
from fedem_jax.work import Machine, Work, measure_machine, round_work


class Plan(NamedTuple):
    """A run, before it runs."""

    federation: Federation
    classes: list[ClassPlan]
    """Of clients that train on their own rows."""
    merging: list[ClassPlan]
    """Of clients that merge before they train; empty where nobody does."""
    memory: MemoryPlan
    work: dict[str, Work]
    """By phase of a round; empty where nobody has counted."""
    machine: Machine

    @property
    def usual(self) -> list[ClassPlan]:
        """The classes that most clients are in."""
        return max(self.classes, self.merging, key=len)

    @property
    def padding(self) -> float:
        """Computed over useful work, if all clients did what most of them do."""
        return sum(c.padded.sum() for c in self.usual) / sum(c.useful for c in self.usual)

    @property
    def imbalance(self) -> float:
        """Work of the busiest device over the mean."""
        each = sum((c.padded for c in self.usual), np.zeros(1))
        return each.max() / each.mean()

    @property
    def floor(self) -> float:
        """Seconds of a round that no program can undercut on this machine."""
        return sum(map(self.machine.floor, self.work.values()))

    @property
    def streamed(self) -> float:
        """Seconds of a round whose local steps all go through memory, at best."""
        return sum(map(self.machine.streamed, self.work.values()))


def plan_run(
    config: Config,
    federation: Federation,
    layout: Layout,
    *,
    machine: Machine | None = None,
    epochs: float | None = None,
) -> Plan:
    """All that can be said of a run before it runs.

    Args:
        machine: what it can do; None: measured now, in about a second.
        epochs: mean number of local epochs; None: none stops early.
    """
    memory = plan_memory(config, federation, layout)
    need = Need.of(federation, config.num_negative, config.batch_size)
    layout = layout._replace(block=memory.block)
    served = 0
    if merges := isinstance(config, FedEM) and config.merging != "none":
        _, served = config.round_sizes(layout.number)

    def planned(classes) -> list[ClassPlan]:
        return [plan_class(need, size, layout) for size in classes]

    return Plan(
        federation=federation,
        classes=planned(layout.classes_for(layout.number - served)),
        merging=planned(layout.classes_for(served)) if merges else [],
        memory=memory,
        work=round_work(config, federation, layout, epochs),
        machine=measure_machine(layout) if machine is None else machine,
    )


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

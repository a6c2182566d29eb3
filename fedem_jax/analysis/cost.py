"""What a run will cost, before it runs: padding, memory, operations, bytes, the floor in time.

Nothing here compiles or trains a round.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedem_jax.analysis.padding import ClassPlan, plan_class
from fedem_jax.analysis.work import Machine, Work, measure_machine, round_work
from fedem_jax.config.base import Config
from fedem_jax.config.settings import FedEM
from fedem_jax.core.layout import ClientLoad, Layout
from fedem_jax.data.federation import Federation
from fedem_jax.runs.memory import MemoryPlan, plan_memory


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
    need = ClientLoad.of(federation, config.num_negative, config.batch_size)
    layout = layout._replace(block=memory.block)
    served = 0
    if merges := isinstance(config, FedEM) and config.downloads:
        _, served = config.round_sizes(layout.num_clients)

    def planned(classes) -> list[ClassPlan]:
        return [plan_class(need, size, layout) for size in classes]

    return Plan(
        federation=federation,
        classes=planned(layout.classes_for(layout.num_clients - served)),
        merging=planned(layout.classes_for(served)) if merges else [],
        memory=memory,
        work=round_work(config, federation, layout, epochs),
        machine=measure_machine(layout) if machine is None else machine,
    )

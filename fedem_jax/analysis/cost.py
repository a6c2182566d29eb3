"""The cost of a run, before it runs: padding, balance, memory, bytes on the wire.

It applies to every method. Nothing here compiles or trains a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fedem_jax.config.base import Config
from fedem_jax.config.values import whole
from fedem_jax.core.algorithm import Algorithm, Traffic
from fedem_jax.core.layout import Layout, SizeClass
from fedem_jax.core.size_classes import ClientLoad
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.errors import UserError
from fedem_jax.higher import higher
from fedem_jax.methods import bind
from fedem_jax.runs.memory import MemoryPlan, absent_devices, plan_memory
from fedem_jax.runs.offload import simulation_of
from fedem_jax.runs.simulation import Simulation, check_pool, layout_of
from fedem_jax.units import bytes_in, in_bytes


class ClassPlan(NamedTuple):
    """The work of one size class, if all its members train."""

    capacity: int
    """Places for training positives."""
    members: int
    """Number of clients."""
    rows: int
    """Rows of the compact table, M."""
    steps: int
    """Local steps of an epoch, of the largest member."""
    useful: float
    """Steps times rows that they touch, summed over the members."""
    padded: np.ndarray
    """[devices] steps times rows that are computed, with padding."""

    @property
    def padding(self) -> float:
        """Computed over useful work. Useful rows are means, so it may lie a little below 1."""
        return self.padded.sum() / self.useful


class Plan(NamedTuple):
    """The cost of a run."""

    federation: Federation
    classes: dict[str, list[ClassPlan]]
    """Size classes by phase of local training; each phase sorts all clients into its own."""
    samples: np.ndarray
    """[devices] samples of a round, positives and negatives, if all clients train."""
    memory: MemoryPlan
    traffic: Traffic

    def __repr__(self) -> str:
        memory = self.memory
        fits = "fits" if memory.fits else "does not fit"
        return (
            f"<Plan: {self.federation.name}, {in_bytes(memory.total)} on each of {memory.devices} "
            f"devices, {fits}; padded over useful work {self.padding:.2f}; "
            f"{in_bytes(self.traffic.up)} up and {in_bytes(self.traffic.down)} down in a round>"
        )

    @property
    def in_memory(self) -> dict[str, int]:
        """Bytes of a device by what they hold. The phases use their scratch one after the other."""
        memory = self.memory
        return {
            "clients' state": memory.clients,
            "server's state": memory.server,
            "lists": memory.data,
            **{f"scratch: {phase}": count for phase, count in memory.scratch.items()},
        }

    @property
    def table(self) -> pd.DataFrame:
        """A row for each size class of each phase of local training."""
        rows = [
            {
                "phase": phase, "clients": each.members, "positives": each.capacity,
                "rows": each.rows, "steps": each.steps, "padding": each.padding,
            }
            for phase, classes in self.classes.items()
            for each in classes
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, path: str | Path) -> Path:
        """Draw what lies in the memory of a device into a file, PNG or any format that Matplotlib
        knows."""
        higher("analysis.cost_chart").memory_chart(self, path)
        return Path(path)

    @property
    def finest(self) -> list[ClassPlan]:
        """The classes of the phase that has most classes, which most clients are in."""
        return max(self.classes.values(), key=len)

    @property
    def padding(self) -> float:
        """Computed over useful work, if all clients were in the phase of most clients."""
        return sum(c.padded.sum() for c in self.finest) / sum(c.useful for c in self.finest)

    @property
    def imbalance(self) -> float:
        """Work of the busiest device over the mean."""
        each = sum((c.padded for c in self.finest), np.zeros(1))
        return each.max() / each.mean()

    @property
    def imbalance_of_samples(self) -> float:
        """Samples of the busiest device over the mean."""
        return float(self.samples.max() / self.samples.mean())


def plan(
    config: Config,
    federation: Federation | None = None,
    *,
    devices: int = 0,
    device_memory: str | float = 0,
) -> Plan:
    """Plan the cost of a run: padding, balance, memory and bytes on the wire. Nothing is trained.

    Args:
        config: all settings.
        federation: the data; None: what `config` names.
        devices: number of devices, which need not be at hand; 0: all that are, or one with
            `device_memory`.
        device_memory: what each offers, in bytes or as text such as `80GB`. They are then taken to
            be GPUs. 0: as the devices of this machine.

    Raises:
        UserError: unusable data or settings, or no number of devices or bytes.

    Examples:
        >>> plan = fj.plan(fj.preset("released", method="fedmf", dim=4))
        >>> plan.memory.fits, plan.traffic.up > 0
        (True, True)
        >>> plan = fj.plan(fj.preset(), devices=8, device_memory="80GB")
        >>> plan.memory.devices, plan.memory.limit
        (8, 80000000000)
    """
    number, memory = whole("devices", devices), memory_of(device_memory)
    federation = federation_of(config) if federation is None else federation
    if not number and not memory:
        return plan_run(simulation_of(config, federation))
    check_pool(config, federation)
    absent = absent_devices(min(number or 1, federation.num_clients), memory)
    layout = layout_of(config, federation, absent)
    planned = plan_memory(config, federation, layout)
    layout = layout._replace(block=planned.block)
    return plan_of(config, federation, layout, bind(config, layout), planned)


def memory_of(given: str | float) -> int:
    """The bytes that `device_memory` means; 0: it is left open.

    Raises:
        UserError: it names no bytes.
    """
    text = str(given).strip()
    if text in ("", "0"):
        return 0
    count = bytes_in(text)
    if not count:
        raise UserError(
            f"device_memory: {given} is no number of bytes; give one such as 80GB or 24GiB."
        )
    return count


def plan_run(simulation: Simulation) -> Plan:
    """Plan the cost of a run."""
    return plan_of(
        simulation.config, simulation.federation, simulation.layout, simulation.algorithm,
        simulation.memory,
    )  # fmt: skip


def plan_of(
    config: Config, federation: Federation, layout: Layout, algorithm: Algorithm, memory: MemoryPlan
) -> Plan:
    """Put a plan together.

    Args:
        config: all settings.
        federation: the data.
        layout: where the clients are; its block is that of `memory`.
        algorithm: the method on this layout.
        memory: what it takes.
    """
    load = ClientLoad.of(federation, config.num_negative, config.batch_size)
    return Plan(
        federation=federation,
        classes={
            phase: [plan_class(load, size, layout) for size in classes]
            for phase, classes in classes_of(algorithm, layout).items()
        },
        samples=layout.samples.reshape(layout.mesh.size, -1).sum(axis=1),
        memory=memory,
        traffic=algorithm.traffic,
    )


def classes_of(algorithm: Algorithm, layout: Layout) -> dict[str, Sequence[SizeClass]]:
    """Size classes of each phase of local training, as the method declares them.

    A method that declares none has one phase, in which every client trains on its own rows.
    """
    declared = algorithm.classes or {"own rows": layout.classes}
    return {phase: classes for phase, classes in declared.items() if classes}


def plan_class(load: ClientLoad, size: SizeClass, layout: Layout) -> ClassPlan:
    """The plan of one size class.

    A block takes as many steps as its largest client. Its empty places are computed as well.
    """
    places = size.members.shape[1]
    block = layout.width(places)
    room = [(0, 0), (0, -places % block)]
    members = np.pad(size.members, room, constant_values=layout.shard)
    device, place = np.nonzero(members < layout.shard)
    clients = layout.client[device * layout.shard + members[device, place]]
    steps = np.zeros(members.shape, int)
    steps[device, place] = load.steps[clients]
    longest = steps.reshape(len(members), -1, block).max(axis=2)
    return ClassPlan(
        capacity=size.positives,
        members=len(clients),
        rows=size.rows,
        steps=int(steps.max()),
        useful=float(load.steps[clients] @ load.touched[clients]),
        padded=longest.sum(axis=1) * block * size.rows,
    )

"""The aggregation bottleneck, measured: the same clients with three item tables in every round.

    local       Q_u, right after local training
    replaced    G_u, the aggregated table
    merged      Q_u + rho_u (G_u - Q_u), the table that FedEM trains next

Private parameters are the same in all three. A client is measured in the rounds in which it is
aggregated, since only then the server has a table for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from jaxtyping import Array, Bool, Float

from fedem_jax.client.merging import merged
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import Algorithm, Elastic, State
from fedem_jax.core.lists import Lists
from fedem_jax.core.table_storage import from_storage
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.errors import UserError
from fedem_jax.evaluation.ranking import rank_all
from fedem_jax.evaluation.records import Setting
from fedem_jax.higher import higher
from fedem_jax.methods import bind
from fedem_jax.models.losses import BCE
from fedem_jax.runs.observers import Observer, Observers
from fedem_jax.runs.simulation import Simulation, check_list, device_name, versions
from fedem_jax.server.serving import NOT_SERVED

STAGES = ("local", "replaced", "merged")
"""The item tables that are compared."""


class Reading(NamedTuple):
    """Quality of every client after a round, with each of the three tables."""

    served: Bool[Array, " C"]
    """Whether the client was aggregated; the other fields are meaningless if not."""
    rank: Float[Array, "3 C"]
    """Rank of its test item among the sampled candidates."""
    loss: Float[Array, "3 C"]
    """Its loss in the next round, before it trains; mean over its samples, or over all items."""


class Distances(NamedTuple):
    """Distance of every client's tables to its own optimum.

    It is the root mean square, over the items that the client trains on, of the distance of rows.
    """

    served: Bool[Array, " C"]
    table: Float[Array, "3 C"]
    """Distance of each of the three tables."""


class Measured(FedEM):
    """The settings of a study: clients keep their tables also where no round reads them again."""

    @classmethod
    def of(cls, config: FedEM) -> Measured:
        """The same settings."""
        return cls(**{each.name: getattr(config, each.name) for each in dataclasses.fields(config)})

    @property
    def keeps_tables(self) -> bool:
        return True

    @property
    def can_wait_on_host(self) -> bool:
        return False


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """The measurements of a bottleneck study."""

    config: FedEM
    federation: Federation
    rounds: pd.DataFrame
    """A row for each round and client aggregated in it: `round`, `client`, and for each stage
    `rank <stage>` and `loss <stage>`."""
    clients: pd.DataFrame
    """A row for each client: `user`, `history` (training items), `heterogeneity`, and for those
    aggregated in the last round `distance <stage>`; see `heterogeneity_of` and `Distances`."""
    settled: float
    """Relative change of the mean loss in the last round of training alone; 0: all clients have
    reached their optima."""

    def __repr__(self) -> str:
        hr = self.table["hr"]
        values = ", ".join(f"{stage} {hr[stage]:.4f}" for stage in STAGES)
        return (
            f"<Bottleneck: {self.federation.name}, {self.federation.protocol.name}, "
            f"{self.config.rounds} rounds: test HR@{self.config.top_k} {values}>"
        )

    @property
    def table(self) -> pd.DataFrame:
        """A row for each item table: means over clients of `hr`, `ndcg`, `loss` and `distance`."""
        stages = higher("analysis.bottleneck_figures").summarised(self)["stages"]
        return pd.DataFrame(
            {
                stage: {name: figures.mean for name, figures in stages[stage].items()}
                for stage in STAGES
            }
        ).T

    def plot(self, path: str | Path) -> Path:
        """Draw the three stages over the rounds into a file, PNG or any format that Matplotlib
        knows."""
        higher("analysis.bottleneck_charts").draw_stages(self, Path(path))
        return Path(path)


def bottleneck(
    config: FedEM,
    federation: Federation | None = None,
    observers: Sequence[Observer] = (),
    alone: int = 20,
) -> Bottleneck:
    """Train FedEM, and measure every aggregated client with its three item tables.

    Then all clients train alone, from the last state. Their final tables serve as their own optima.

    Args:
        config: all settings. Every round is evaluated.
        federation: the data; None: what `config` names.
        observers: called at the start and after every round; none can end the study early.
        alone: rounds of training alone, at least 2.

    Raises:
        UserError: unusable data or settings.

    Examples:
        >>> config = fj.preset("released", method="fedem", rounds=1, dim=4, size_classes=1)
        >>> study = fj.bottleneck(config, alone=2)
        >>> study.rounds["round"].unique().tolist()
        [1]
    """
    if not config.downloads:
        raise UserError("merging: none merges nothing, so there is nothing to compare.")
    if config.loss != "bce":
        raise UserError(
            f"loss: a bottleneck study measures the loss sample by sample, which {config.loss} is "
            "not; give bce."
        )
    if config.clients_on_host:
        raise UserError(
            "client_memory: a bottleneck study keeps its clients on the devices; give device."
        )
    if alone < 2:
        raise UserError(f"alone: {alone} is out of range; give a number of at least 2.")
    federation = federation_of(config) if federation is None else federation
    if not federation.one_each:
        raise UserError(
            "split: a bottleneck study compares tables on one test item of each client; give "
            "split=leave-one-out."
        )
    check_list(config, federation)
    simulation = Simulation(Measured.of(config), federation)
    setting = Setting(
        config=config, federation=federation, device=device_name(), versions=versions()
    )
    with Observers(observers) as everyone:
        everyone.on_start(setting)
        state, look, frames = simulation.init(), reader(simulation), []
        for number in range(config.rounds):
            state, info, ranks = simulation.segment(state, 1)(state, number)
            frames.append(in_rows(simulation, number + 1, look(state, number + 1)))
            everyone.on_round(simulation.record(number + 1, info, ranks))

    optimum, settled = trained_on(simulation, state, alone)
    clients = pd.DataFrame(
        {
            "user": federation.user_ids,
            "history": np.diff(federation.offsets),
            "heterogeneity": heterogeneity_of(federation, optimum[simulation.layout.place]),
        }
    )
    served, tables = distances(simulation, state, optimum)
    served = np.asarray(served)[simulation.layout.place]
    for stage, distance in zip(STAGES, np.asarray(tables), strict=True):
        clients[f"distance {stage}"] = np.where(served, distance[simulation.layout.place], np.nan)
    return Bottleneck(config, federation, pd.concat(frames, ignore_index=True), clients, settled)


def stages(simulation: Simulation) -> tuple[tuple[Algorithm, Callable[[State], State]], ...]:
    """For each stage, the method whose `score` uses its table, and a view of the state for it."""
    replacing = bind(settings_of(simulation).merging_by("replace"), simulation.layout)

    def unchanged(state: State) -> State:
        return state

    own = simulation.algorithm
    return (own, unserved), (replacing, unchanged), (own, unchanged)


def unserved(state: State) -> State:
    """The same state as if no table waited for anybody."""
    slot = jnp.full_like(state.clients.slot, NOT_SERVED)
    return state._replace(clients=state.clients._replace(slot=slot))


def settings_of(simulation: Simulation) -> FedEM:
    """The settings of a simulation of FedEM."""
    assert isinstance(simulation.config, FedEM)
    return simulation.config


def elastic_of(simulation: Simulation) -> Elastic:
    """How the clients of a simulation of FedEM merge."""
    assert simulation.algorithm.elastic is not None
    return simulation.algorithm.elastic


def reader(simulation: Simulation) -> Callable[[State, int], Reading]:
    """A compiled function `(state, number) -> reading`, for a state after `number` rounds."""
    layout, ranking, elastic = simulation.layout, simulation.ranking, elastic_of(simulation)

    @jax.jit
    def read(state, number, key, lists, held_out):
        draws = simulation.draws(key, number, lists)
        ranks, losses = [], []
        for algorithm, view in stages(simulation):
            seen, hyper = view(state), algorithm.hyper
            ranked = rank_all(algorithm, layout, seen, lists, held_out, hyper, ranking)
            ranks.append(ranked.test)
            losses.append(losses_of(simulation, algorithm, seen, draws, hyper))
        return Reading(elastic.waits(state), jnp.stack(ranks), jnp.stack(losses))

    def look(state: State, number: int) -> Reading:
        data = (simulation.key_draws, simulation.lists, simulation.held_out)
        with jax.default_matmul_precision("highest"):
            return read(state, jnp.int32(number), *data)

    return look


def losses_of(
    simulation: Simulation, algorithm: Algorithm, state: State, draws: Any, hyper: Any
) -> Float[Array, " C"]:
    """Mean loss of every client over its samples of a round.

    Args:
        simulation: settings, data and layout.
        algorithm: the method that scores the items.
        state: parameters of clients and server.
        draws: the random choices of the round.
        hyper: the method's numbers.
    """
    layout, loss = simulation.layout, BCE[simulation.config.bce]
    positives = max(size.positives for size in layout.classes)
    barred = max(size.barred for size in layout.classes)

    def on_device(clients, server, client_at):
        def one(place):
            (scores,) = algorithm.score(State(clients, server), place[None], hyper)
            items, labels, count, _ = draws.samples(client_at[place], positives, barred)
            present = jnp.arange(len(items)) < count
            lost = jnp.where(present, loss(scores[items], labels), 0.0)
            return lost.sum() / jnp.maximum(count, 1)

        return lax.map(one, jnp.arange(layout.shard, dtype=jnp.int32))

    client_at = jnp.asarray(layout.client)
    return layout.on_each_device(on_device, state.clients, state.server, client_at)


def in_rows(simulation: Simulation, number: int, reading: Reading) -> pd.DataFrame:
    """A row for each client that was aggregated in a round."""
    place = simulation.layout.place
    client = np.flatnonzero(np.asarray(reading.served)[place])
    columns: dict[str, Any] = {"round": number, "client": client}
    for name, values in (("rank", reading.rank), ("loss", reading.loss)):
        for stage, of_all in zip(STAGES, np.asarray(values), strict=True):
            columns[f"{name} {stage}"] = of_all[place][client]
    return pd.DataFrame(columns)


def trained_on(simulation: Simulation, state: State, rounds: int) -> tuple[np.ndarray, float]:
    """Every client's table after `rounds` more rounds alone, in order of place.

    Also the relative change of the mean loss in the last of these rounds. `state` stays valid.
    """
    settings = settings_of(simulation).merging_by("none")
    devices = list(simulation.layout.mesh.devices.flat)
    alone = Simulation(settings, simulation.federation, devices)
    start = jax.tree.map(jnp.copy, unserved(state))
    after, info, _ = alone.segment(start, rounds)(start, simulation.config.rounds)
    before, last = np.nanmean(np.asarray(info.loss), axis=1)[-2:]
    return np.asarray(from_storage(after.clients.items)), float(abs(last - before) / before)


def heterogeneity_of(federation: Federation, optimum: Float[np.ndarray, "C I D"]) -> np.ndarray:
    """[C] distance of each client's optimum to those of the others.

    For each item that the client shares with others, take the distance of its row to the mean of
    their rows. The result is the root mean square of these distances; NaN without such an item.
    """
    total = np.zeros(optimum.shape[1:])
    number = np.zeros(federation.num_items)
    own = [np.unique(items) for items in np.split(federation.items, federation.offsets[1:-1])]
    for client, items in enumerate(own):
        total[items] += optimum[client, items]
        number[items] += 1
    heterogeneity = np.full(len(own), np.nan)
    for client, items in enumerate(own):
        items = items[number[items] > 1]
        if len(items):
            rows = optimum[client, items]
            others = (total[items] - rows) / (number[items] - 1)[:, None]
            heterogeneity[client] = np.sqrt(np.mean(np.sum((rows - others) ** 2, axis=1)))
    return heterogeneity


def distances(
    simulation: Simulation, state: State, optimum: Float[np.ndarray, "C I D"]
) -> Distances:
    """Distance of the three tables to every client's own optimum."""
    layout, elastic = simulation.layout, elastic_of(simulation)
    capacity = max(size.positives for size in layout.classes)
    hyper, num_items = simulation.algorithm.hyper, layout.num_items

    @jax.jit
    def measured(state: State, optimum, lists: Lists):
        def on_device(parts, server, client_at):
            clients, optimum = parts
            state = State(clients, server)

            def one(place):
                items, count = lists.positives(client_at[place], capacity)
                present = jnp.where(jnp.arange(capacity) < count, items, num_items)
                known = jnp.zeros(num_items).at[present].set(1.0, mode="drop")
                own = from_storage(clients.items[place])
                (aggregated,) = elastic.aggregated(state, place[None])
                (rho,) = elastic.rho(state, place[None], hyper)

                def distance(table):
                    squares = jnp.sum((table - optimum[place]) ** 2, axis=1)
                    return jnp.sqrt(squares @ known / known.sum())

                tables = (own, aggregated, merged(own, aggregated, rho))
                return jnp.stack([distance(table) for table in tables])

            return lax.map(one, jnp.arange(layout.shard, dtype=jnp.int32))

        client_at = jnp.asarray(layout.client)
        return layout.on_each_device(on_device, (state.clients, optimum), state.server, client_at)

    with jax.default_matmul_precision("highest"):
        table = measured(state, jnp.asarray(optimum), simulation.lists)
    return Distances(elastic.waits(state), table.T)

"""A simulation whose clients stay on the host: those alone who are at work are on the devices.

    host      write back round r - 1 | read and send the participants of round r + 1
    devices   ------------------------- round r -------------------------- | round r + 1

Who takes part is drawn from the same keys as always, before the rounds. A client that takes part in
two rounds in a row stays on its device. An evaluation brings one group of clients after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from fedem_jax.client.paths import with_path
from fedem_jax.config.base import Config
from fedem_jax.core.algorithm import Info, State
from fedem_jax.core.draws import Draws, KeyedDraws
from fedem_jax.core.finite import finite_state
from fedem_jax.core.host_rows import (
    empty,
    kept_on_device,
    put,
    shapes_of_rows,
    taken,
    without_tables,
)
from fedem_jax.core.processes import copied_to_host, on_all, several
from fedem_jax.core.residents import Residents, Seats, places_needed, residents_of
from fedem_jax.core.sparse_tables import is_sparse
from fedem_jax.data.federation import Federation
from fedem_jax.errors import UserError
from fedem_jax.evaluation import rho
from fedem_jax.evaluation.ranking import HeldOut, Ranks, nothing_ranked, rank_all
from fedem_jax.methods import bind
from fedem_jax.runs.simulation import Segment, Simulation


def simulation_of(
    config: Config, federation: Federation, devices: Sequence[Any] = ()
) -> Simulation:
    """The simulation of a run, whose clients are where `config.client_memory` says.

    Raises:
        UserError: as for `Simulation`, or several processes are to keep clients on the host.
    """
    kind = OffloadedSimulation if config.clients_on_host else Simulation
    return kind(config, federation, devices)


class Party(NamedTuple):
    """The participants of a round."""

    residents: Residents
    places: Int[np.ndarray, " residents"]
    """Their places among all clients; `Layout.padded`: none."""
    before: Int[np.ndarray, " residents"]
    """Their places in the round before, as `Seats.kept` gives them."""


class Trained(NamedTuple):
    """What a round left on the devices."""

    party: Party
    rows: Any
    info: Info


class OffloadedSimulation(Simulation):
    """A simulation whose `State.clients` are NumPy arrays on the host, and item tables `MovedRows`.
    Rounds change them in place.

    Results are those of `Simulation`. On several devices, sums have another order.

    Raises:
        UserError: as for `Simulation`, or there are several processes.
    """

    client_memory: ClassVar[str] = "host"

    def __init__(
        self,
        config: Config,
        federation: Federation,
        devices: Sequence[Any] = (),
        draws: Callable[..., Draws] = KeyedDraws.of_round,
    ):
        if several():
            raise UserError("client_memory: several processes keep their clients on their devices.")
        super().__init__(config, federation, devices, draws)
        layout = self.layout
        participants, _ = config.round_sizes(layout.num_clients)
        trained, self._ranked = places_needed(layout, participants, layout.block)
        self._seats = Seats(layout, trained)
        # decided here, since the self-test of a kernel cannot run while a program is traced
        self._decided = with_path(config, layout.device)
        self._bounds = [(np.asarray(part.start), np.asarray(part.count)) for part in self.held_out]

    # --- the state --------------------------------------------------------------------------------

    def init(self) -> State:
        """The state before the first round: the clients on the host, the server on the devices.

        Raises:
            UserError: the run does not fit into the memory of a device or of the host.
        """
        self.memory.check()
        layout, clients, server = self.layout, None, None

        def fill(places: np.ndarray, leaf: Any, rows: Any) -> None:
            if not is_sparse(leaf):
                put(leaf, places, rows, layout)

        init = jax.jit(self._init, out_shardings=self.shardings)
        with jax.default_matmul_precision("highest"):
            for places in self._groups():
                client = self._sent(self._client_at(places))
                rows, server = init(client, self.key_init, self.algorithm.hyper)
                if clients is None:
                    clients = empty(self.shapes.clients, rows, layout)
                jax.tree.map(partial(fill, places), clients, rows, is_leaf=is_sparse)
        return State(clients, server)

    def _init(self, client: Int[Array, " n"], key: Any, hyper: Any) -> State:
        """The initial state of some clients. They are members of no size class, so that tables of
        moved rows have no entries here; on the host they are empty anyway."""
        nobody = np.zeros((self.layout.mesh.size, 0), np.int32)
        members = [
            tuple(nobody for _ in sizes) for sizes in (self.layout.classes, self.layout.coarse)
        ]
        residents = Residents(client, jnp.zeros_like(client), *members)
        return bind(self._decided, residents_of(self.layout, residents)).init(key, hyper)

    def copy(self, state: State) -> State:
        """A copy on the host."""
        return jax.tree.map(copied_to_host, state)

    def restored(self, copy: State) -> State:
        """A state of what `copy` returned, with the same arrays of the clients."""
        return State(copy.clients, on_all(copy.server, self.shardings.server))

    def brought(self, state: State, places: Int[np.ndarray, " n"]) -> tuple[State, np.ndarray]:
        devices = self.layout.mesh.size
        each = len(places) // devices
        first = np.repeat(np.arange(devices) * self.layout.shard, each)
        rows = self._sent(taken(state.clients, first + places, self.layout))
        return State(rows, state.server), np.tile(np.arange(each, dtype=np.int32), devices)

    def _client_at(self, places: np.ndarray) -> Int[np.ndarray, " n"]:
        """Clients at places among all clients."""
        return self.layout.client[places].astype(np.int32)

    def _sent(self, values: Any) -> Any:
        """Arrays of the host on their way to the devices, which share out the first axis."""
        return on_all(values, self.layout.sharded())

    def _state_of(self, number: int) -> State:
        """Shapes of a state that holds so many clients."""

        def on_devices(sharding: Any, tree: Any) -> Any:
            return jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
            )

        rows = shapes_of_rows(self.shapes.clients, number, self.layout)
        return jax.tree.map(on_devices, self.shardings, State(rows, self.shapes.server))

    # --- rounds -----------------------------------------------------------------------------------

    def segment(self, state: State, length: int) -> Callable[[State, int], Segment]:
        """`length` rounds and an evaluation. The state is donated: its clients are changed."""
        if length not in self._segments:
            key, lists, _, hyper = self.unchanging
            numbers, nobody = jnp.arange(length, dtype=jnp.int32), self._party(np.arange(0))
            here, before = self._state_of(len(nobody.places)), self._sent(nobody.before)
            train = (here, self._sent(nobody.residents), jnp.int32(0), key, lists, hyper)
            programs = (
                self._compiled(("draw", length), self._drawn, (numbers, key, lists)),
                self._compiled("keep", self._kept, (here.clients, here.clients, before), (0,)),
                self._compiled("train", self._round, train, (0,)),
            )
            self._segments[length] = partial(self._segment, programs, self._ranker(), length)
        return self._segments[length]

    def _segment(
        self, programs: tuple, ranker: Callable[..., Ranks], length: int, state: State, start: int
    ) -> Segment:
        """Rounds from number `start` on, and an evaluation, by compiled programs."""
        state, info = self._trained(programs, range(start, start + length), *state)
        return Segment(state, info, self._ranked_in_groups(ranker, state))

    def _trained(
        self, programs: tuple, rounds: range, clients: Any, server: Any
    ) -> tuple[State, Info]:
        """The state after some rounds, and what they report."""
        (draw, keep, train), layout = programs, self.layout
        key, lists, _, hyper = self.unchanging
        participants = np.asarray(draw(jnp.arange(rounds.start, rounds.stop), key, lists))
        infos, last, party = [], None, self._party(participants[0])
        coming = self._sent(taken(clients, party.places, layout))
        for turn, number in enumerate(rounds):
            rows, residents = coming, self._sent(party.residents)
            if last is not None:
                # the host waits for the round before, so that no third group comes beside these two
                rows = jax.block_until_ready(keep(rows, last.rows, self._sent(party.before)))
            (rows, server), info = train(
                State(rows, server), residents, jnp.int32(number), key, lists, hyper
            )
            jax.tree.map(lambda leaf: leaf.copy_to_host_async(), (rows, info))
            # while the devices compute:
            if last is not None:
                infos.append(self._written_back(clients, last))
            last = Trained(party, rows, info)
            for name, value in (self.algorithm.lapses or {}).items():
                getattr(clients, name)[...] = value
            if turn + 1 < len(rounds):
                party = self._party(participants[turn + 1], party.residents)
                coming = self._sent(taken(clients, party.places, layout))
        assert last is not None
        infos.append(self._written_back(clients, last))
        return State(clients, server), self._of_all(infos)

    def _party(self, clients: Int[np.ndarray, " P"], before: Residents | None = None) -> Party:
        """Participants at their places.

        Args:
            clients: the participants.
            before: those of the round before.
        """
        seats, layout = self._seats, self.layout
        residents = seats.of(clients, before)
        places = np.append(layout.place, layout.padded)[residents.client]
        return Party(residents, places, seats.kept(residents, before or residents))

    def _drawn(
        self, numbers: Int[Array, " rounds"], key: Any, lists: Any
    ) -> Int[Array, "rounds P"]:
        """The participants of rounds."""
        return jax.lax.map(lambda number: self.draws(key, number, lists).participants(), numbers)

    def _kept(self, rows: Any, last: Any, before: Any) -> Any:
        """Rows from the host, but for those of clients that took part in the round before."""

        def on_device(sharded: Any, _: Any) -> Any:
            return kept_on_device(*sharded)

        kept = self.layout.on_each_device(on_device, (rows, last, before), ())
        return jax.lax.with_sharding_constraint(kept, self.shardings.clients)

    def _round(
        self, state: State, residents: Residents, number: Array, key: Any, lists: Any, hyper: Any
    ) -> tuple[State, Info]:
        """A round of the participants: the round of the method in a layout of theirs."""
        algorithm = bind(self._decided, residents_of(self.layout, residents))
        state, info = algorithm.round(self.draws(key, number, lists), state, hyper)
        return jax.lax.with_sharding_constraint(state, self.shardings), info

    def _written_back(self, clients: Any, last: Trained) -> tuple[Party, Info]:
        """Write the rows of a round into the arrays of all clients, once it has ended."""
        put(clients, last.party.places, last.rows, self.layout)
        return last.party, jax.tree.map(np.asarray, last.info)

    def _of_all(self, infos: Sequence[tuple[Party, Info]]) -> Info:
        """What rounds report, of all clients: [rounds C]."""

        def of_all(idle: Any, values: Sequence[Any]) -> Any:
            if values[0] is None:
                return None
            every = np.full((len(values), self.layout.padded + 1), idle, values[0].dtype)
            for row, (party, _), new in zip(every, infos, values, strict=True):
                row[party.places] = new
            return every[:, :-1]

        fields = zip(*(info for _, info in infos), strict=True)
        return Info(*map(of_all, (np.nan, 0, False), fields))

    # --- what is asked of all clients -------------------------------------------------------------

    def rank(self, state: State) -> Ranks:
        """Ranks of all held-out items, in the order of the federation."""
        return self.in_order(self._ranked_in_groups(self._ranker(), state))

    def _groups(self) -> list[np.ndarray]:
        """Places of all clients, in groups that are on the devices together. The last group holds
        some of the one before, so that all have the same size."""
        layout, each = self.layout, self._ranked
        firsts = [min(first, layout.shard - each) for first in range(0, layout.shard, each)]
        devices = np.arange(layout.mesh.size)[:, None] * layout.shard
        return [(devices + first + np.arange(each)).ravel() for first in firsts]

    def _ranker(self) -> Callable[..., Ranks]:
        """The compiled program that ranks a group of clients, `_ranks_of`."""
        group, (_, lists, held_out, hyper) = self._groups()[0], self.unchanging
        so_far = self._sent(nothing_ranked(held_out))
        args = (self._state_of(len(group)), *self._asked(group), lists, held_out, hyper, so_far)
        return self._compiled("rank", self._ranks_of, args, donate=(6,))

    def _asked(self, group: np.ndarray) -> Any:
        """Clients of a group, and which rows of each part of the held-out items are theirs."""
        bounds = [tuple(bound[group] for bound in part) for part in self._bounds]
        return self._sent((self._client_at(group), bounds))

    def _ranks_of(
        self, state: State, client: Any, bounds: Any, lists: Any, held_out: HeldOut, hyper: Any,
        so_far: Any,
    ) -> Ranks:  # fmt: skip
        """The ranks so far with those of a group; of the group alone: its lists, and whether its
        scores are finite."""
        layout = self.layout._replace(shard=self._ranked, client=client)
        parts = zip(held_out, bounds, strict=True)
        own = HeldOut(*(part._replace(start=start, count=count) for part, (start, count) in parts))
        ranks = rank_all(self.algorithm, layout, state, lists, own, hyper, self.ranking, so_far)
        sound = ranks.finite & finite_state(state, len(client))
        return jax.lax.with_sharding_constraint(ranks._replace(finite=sound), self.layout.sharded())

    def _ranked_in_groups(self, ranker: Callable[..., Ranks], state: State) -> Ranks:
        """Ranks of all clients, in order of place; the next group is sent while one ranks."""
        (clients, server), (_, lists, held_out, hyper) = state, self.unchanging
        so_far, groups, own = self._sent(nothing_ranked(held_out)), self._groups(), {}
        coming = self._sent(taken(clients, groups[0], self.layout))
        for number, group in enumerate(groups):
            here = State(coming, server)
            ranks = ranker(here, *self._asked(group), lists, held_out, hyper, so_far)
            so_far = [(ranks.val, ranks.val_full), (ranks.test, ranks.test_full)]
            if number + 1 < len(groups):
                coming = self._sent(taken(clients, groups[number + 1], self.layout))
            del here
            for name in ("listed", "finite"):
                found = np.asarray(getattr(ranks, name))  # the host waits for the group
                shape = (self.layout.padded, *found.shape[1:])
                own.setdefault(name, np.zeros(shape, found.dtype))[group] = found
        return ranks._replace(**own)

    def counter_of_rho(self) -> Callable[[State], np.ndarray] | None:
        elastic, layout = self.algorithm.elastic, self.layout
        if elastic is None or not elastic.learned:
            return None
        groups, waits = rho.groups_of(self.federation, layout), jax.jit(elastic.waits)
        activity = np.append(groups.activity, 0)

        @jax.jit
        def count(state: State, residents: Residents, activity: Any, lists: Any) -> Any:
            here = groups._replace(activity=activity)
            return rho.counts(self.algorithm, residents_of(layout, residents), here, state, lists)

        def counted(state: State) -> np.ndarray:
            # all who wait for a table took part in the last round, so they have places together
            small = state._replace(clients=without_tables(state.clients))
            waiting = layout.client[np.asarray(waits(small))]
            party = self._party(waiting)
            rows = self._sent(taken(state.clients, party.places, layout))
            arrays = self._sent((party.residents, activity[party.places]))
            with jax.default_matmul_precision("highest"):
                return np.asarray(count(State(rows, state.server), *arrays, self.lists))

        return counted

"""FedEM where one average replaces every client's table in every round (`merging = replace`,
`aggregation = avg`, and everybody uploads).

    clients, in parallel:  Q_u <- G
                           (p_u, Q_u) <- local epochs
                           upload Q_u and n_u, the number of samples
    server:                G <- sum_u a_u Q_u,  a_u = n_u / sum n or 1 / C,
                                or a step of Adam along the way there

`methods/fedem.py` with rho = 1 computes the same. There a client's table becomes G before anything
reads it again, so here no client keeps one. The simulation sums what was moved, as for FedMF.

With p_u in closed form and one local epoch, every client moves all rows of G, by a small step
Q_u - G = step W_u (y_u - G p_u) p_u'. Two short sums then stand for that of all tables: one over
the clients' own items, and one of the products p_u p_u' (`client.closed_form.pull`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from fedem_jax.client import replacing
from fedem_jax.client.closed_form import pull, side_by_side, solved, solving_scratch
from fedem_jax.client.elastic import ElasticClient, own_scratch
from fedem_jax.client.local import own_optimiser
from fedem_jax.client.newcomer import trained_alone
from fedem_jax.client.replacing import Clients
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import (
    Algorithm,
    Elastic,
    Info,
    Newcomer,
    State,
    Traffic,
    at_place,
    copies,
)
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import (
    Change,
    Contribution,
    Phase,
    RoundContext,
    Trained,
    train_clients,
)
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import (
    everybodys_table,
    from_storage,
    storage_dtype,
    table_bytes,
    to_storage,
)
from fedem_jax.models.scoring import initial
from fedem_jax.server import averaging
from fedem_jax.server.averaging import ShareOf


class Server(NamedTuple):
    """The table that all clients download."""

    items: Num[Array, "I D"]
    """G; before the first round Q_0."""
    served: Bool[Array, ""]
    """Whether clients have moved it."""
    moments: optax.OptState | None
    """Adam's, kept over the rounds, if the server has it."""


class Common(NamedTuple):
    """What all clients solve with."""

    items: Float[Array, "I D"]
    """G."""
    gram: Float[Array, "D D"]
    """G' G."""


def fedem_replaced(config: FedEM, layout: Layout, hyper: Any) -> Algorithm:
    """FedEM whose clients keep no tables.

    Args:
        config: sizes and switches; `keeps_tables` is false.
        layout: where the clients are.
        hyper: the numbers of the configuration, `methods.fedem.Hyper`.
    """
    model, sizes = ElasticClient.of(config, layout.num_items), (layout.num_items, config.dim)
    # in bfloat16 an upload is rounded, number by number, which takes whole tables
    short = config.closed_form and config.local_epochs == 1 and config.table_dtype == "float32"

    def init(key: Key[Array, ""], hyper: Any) -> State:
        """Everybody starts from the same Q_0 and p_0."""
        private, table = initial(model.backbone, key, *sizes, hyper.init_scale)
        moments = averaging.first_moments(config, table)
        server = Server(to_storage(table, storage_dtype(config)), jnp.bool_(False), moments)
        return State(Clients(copies(private, layout), None), server)

    def round(draws: Draws, state: State, hyper: Any) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold)
        share_of = averaging.share_of(config, context)
        train = by_products if short else by_rows
        clients, info, average = train(model, hyper, context, share_of, state)
        server, before = state.server, from_storage(state.server.items)
        moved, moments = averaging.server_step(config, hyper, server.moments, average, before)
        table = to_storage(before + moved, server.items.dtype)
        return State(clients, Server(table, jnp.bool_(True), moments)), info

    def score(state: State, places: Int[Array, " B"], hyper: Any) -> Float[Array, "B I"]:
        return replacing.scores(model.logits, *state, places, layout)

    def newcomer(state: State, new: Newcomer, hyper: Any) -> Float[Array, " I"]:
        """With G: p_u in closed form, or trained alone."""
        table = from_storage(state.server.items)
        if config.closed_form:
            numbers = model.steps(hyper)
            private = {"user": solved(table, table.T @ table, numbers, new.items).user}
        else:
            first, _ = initial(model.backbone, new.key, *sizes, hyper.init_scale)
            alone = own_optimiser(config, hyper)
            private = trained_alone(model.objective, first, table, alone, new)
        return model.logits(private, table)

    def scratch(block: int) -> dict[str, int]:
        """With the sum of what was moved."""
        numbers = own_scratch(config, layout, block)
        if short:
            numbers["train"] = solving_scratch(config, layout, block)
        numbers["train"] += layout.num_items * config.dim
        return numbers

    tables = layout.num_clients * table_bytes(config, layout.num_items)
    counts = 4 * layout.num_clients * (config.weighting == "samples")
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper,
        traffic=Traffic(up=tables + counts, down=tables),
        scratch=scratch,
        elastic=elastic(layout),
        newcomer=newcomer if config.backbone != "ncf" else None,  # its network is a client's own
        item_tables=everybodys_table,
    )


def by_rows(
    model: ElasticClient, hyper: Any, context: RoundContext, share_of: ShareOf, state: State
) -> tuple[Clients, Info, Float[Array, "I D"]]:
    """A round of local epochs from G: the clients, what they report, and sum_u a_u (Q_u - G)."""

    def train(samples: ClientSamples, clients: Clients, server: Server, place) -> Change:
        samples = model.trains_on(samples)
        private, start = at_place(clients.private, place), from_storage(server.items[samples.rows])
        private, table, trained = model.fit(hyper)(private, start, samples)
        sent = from_storage(to_storage(table, server.items.dtype))
        moved = share_of(samples.count) * (sent - start)
        return Change({"private": private}, trained, sent=Contribution(samples.rows, moved, ()))

    nothing = averaging.nothing_sent(state.server.items)
    clients, info, upload = train_clients(context, [Phase(train)], state, nothing)
    return clients, info, upload.items


def by_products(
    model: ElasticClient, hyper: Any, context: RoundContext, share_of: ShareOf, state: State
) -> tuple[Clients, Info, Float[Array, "I D"]]:
    """The same with p_u in closed form and one step of the table, by short sums."""
    layout, table = context.layout, from_storage(state.server.items)
    steps, every = model.steps(hyper), 1 + model.config.num_negative

    def solve(samples: ClientSamples, clients: Clients, common: Common, place) -> Change:
        client, trains = solved(*common, steps, samples.rows), samples.count > 0
        loss = jnp.where(trains, client.loss, jnp.nan)
        user = jnp.where(trains, client.user, clients.private["user"][place])
        scale = share_of(every * samples.count) * steps.step  # n_u has the negatives, too
        trained = Trained(loss[None], loss, trains.astype(jnp.int32))
        sent = Contribution(
            samples.rows,
            scale * pull(client, steps.confidence),
            scale * jnp.outer(client.user, client.user),
        )
        return Change({"private": {"user": user}}, trained, sent=sent)

    context = context._replace(
        layout=layout._replace(block=side_by_side(model.config, layout.block)),
        rule=context.rule._replace(negatives=False),
    )
    state = state._replace(server=Common(table, table.T @ table))
    nothing = averaging.nothing_sent(*state.server)
    clients, info, upload = train_clients(context, [Phase(solve)], state, nothing)
    return clients, info, upload.items - table @ upload.rest


def elastic(layout: Layout) -> Elastic:
    """What others ask of the merging: rho is 1, once there is an average."""

    def waits(state: State) -> Bool[Array, " C"]:
        return jnp.asarray(layout.client < layout.num_clients) & state.server.served

    def rho(state: State, places: Int[Array, " B"], hyper: Any) -> Float[Array, "B I"]:
        return jnp.full((len(places), layout.num_items), jnp.where(state.server.served, 1.0, 0.0))

    aggregated = partial(everybodys_table, hyper=None)
    return Elastic(learned=False, waits=waits, rho=rho, aggregated=aggregated)

"""FedEM (Chen, Zhang, Zhang, Luo, Li, AAAI 2026): personalised model merging against the
aggregation bottleneck.

    clients that a table waits for:  Q_u <- Q_u + rho_u (G_u - Q_u),  G_u of the round before,
                                     rho_u = sigmoid(MLP([Q_u ; G_u - Q_u]; theta_u))
                                     batch by batch, on rows merged anew:
                                       theta_u <- a step of Adam;  (p_u, Q_u) <- a step of Adam
    all other clients:               (p_u, Q_u) <- local epochs of Adam on BCE(p_u . q_i, y_ui)
    A of the participants, drawn:    upload Q_u and n_u, the number of samples
    server:                          x_u  = (Q_u - its mean row) v_1,  v_1 its first principal axis
                                     s_uv = 1 / (1 + |x_u - x_v|), or 1 above 0.9
                                     w_u  = projection of a + alpha s_u onto the simplex,
                                            a_v = n_v / sum n
                                     G_u  = sum_v w_uv Q_v

With the NCF backbone a score is f_u(p_u, q_i) instead. The network f_u is trained together with p_u
and Q_u, and is as private as p_u: it is never uploaded. (The released program has MF alone.)

Where one average replaces every client's table in every round, no client keeps one. Such settings
are in `methods/fedem_replaced.py`.

Beyond the paper, and off by default: other adapters, other samples and losses for them, adapters
that are sent and averaged, rho in closed form, plain gradient steps in place of Adam, p_u in closed
form as in FCF, a step of Adam from G to the average of all, and tables of declared cohorts k, drawn
to the mean M of all: G_k = M_k + s_k (M - M_k).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, Num

from fedem_jax.client.elastic import ElasticClient, merging_scratch
from fedem_jax.client.evidence import counted
from fedem_jax.client.merging import fit_adapter, merged, taken_up
from fedem_jax.client.privacy import noisy_uploads, upload_scratch
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.algorithm import (
    Algorithm,
    Info,
    State,
    Traffic,
    at_place,
    copies,
    hyper_of,
)
from fedem_jax.core.draws import Draws
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import Change, Phase, RoundContext, Sum, train_clients
from fedem_jax.core.samples import ClientSamples
from fedem_jax.core.table_storage import from_storage, storage_dtype, table_bytes, to_storage
from fedem_jax.errors import UserError
from fedem_jax.methods.elastic import elastic
from fedem_jax.methods.fedem_replaced import fedem_replaced
from fedem_jax.models.scoring import initial
from fedem_jax.server import aggregation, averaging
from fedem_jax.server.cohorts import cohort_tables
from fedem_jax.server.serving import (
    NOT_SERVED,
    first_tables,
    not_served,
    rows_of,
    served,
    slots,
    waits,
)
from fedem_jax.server.shares import (
    aggregate_shares,
    aggregation_scratch,
    padded,
    share_size,
    shares_of,
    signatures,
)
from fedem_jax.server.similarity import SIMILARITIES, saturate


class Hyper(NamedTuple):
    """Numbers that a sweep may vary: each may be traced, hence stacked over trials."""

    init_scale: Float[Array, ""]
    """Standard deviation of Q_0 and p_0."""
    lr_embedding: Float[Array, ""]
    """Adam step of p_u and Q_u, or plain step of p_u, or of Q_u beside p_u in closed form."""
    lr_item_factor: Float[Array, ""]
    """Plain step of Q_u, as a multiple of lr_embedding times the number of items."""
    confidence: Float[Array, ""]
    """Extra weight of an interaction over all other items, where p_u has a closed form."""
    regularization: Float[Array, ""]
    """L2 penalty of p_u in that form."""
    lr_adapter: Float[Array, ""]
    """Step of theta_u."""
    adapter_start: Float[Array, ""]
    """Rho that theta_0 gives."""
    alpha: Float[Array, ""]
    """Weight of the similarity against the sample shares, alpha of the paper."""
    threshold: Float[Array, ""]
    """Relative change of the running loss below which a client stops."""
    common: Float[Array, ""]
    """s, how much of M the table of a cohort holds, where that is a constant; else NaN."""
    rho: Float[Array, ""]
    """How much of the aggregated table a client takes up, where that is a constant; else NaN."""
    lr_network: Float[Array, ""]
    """Adam step of f_u, the network of NCF."""
    weight_decay: Float[Array, ""]
    """L2 penalty of f_u."""
    lr_server: Float[Array, ""]
    """Adam step of G, where the server has Adam."""
    beta1: Float[Array, ""]
    beta2: Float[Array, ""]
    """Decay of the first and second moments of that."""
    server_decay: Float[Array, ""]
    """L2 penalty of G in that step."""
    ldp_scale: Float[Array, ""]
    """Scale of the noise on uploads, where the configuration has any."""
    ldp_clip: Float[Array, ""]
    """Most norm of Q_u - Q_0 in an upload, where the configuration has a bound."""


class Clients(NamedTuple):
    """What the clients keep. Memory: 4 C I D bytes (2 in bfloat16) and little more. Where no round
    reads `items` again, there is none of this (`methods/fedem_replaced.py`)."""

    private: Any
    """[C ...] the backbone's own parameters (the user vectors p_u and, with NCF, the networks f_u);
    they never leave a client."""
    items: Num[Array, "C I D"]
    """Q_u, each client's own item table, before merging."""
    adapter: Any
    """[C ...] theta_u, the adapters; they leave a client only if adapters are shared."""
    slot: Int[Array, " C"]
    """Row of the tables on its device that waits for the client in the next round; -1: none."""
    seen: Float[Array, "C 2 I"] | None = None
    """Samples that each row of Q_u was trained on, positives and negatives, if rho depends on them.
    A merge keeps 1 - rho of a row, and of its samples. They never leave a client."""


class Upload(NamedTuple):
    """All that the server sees of the aggregated clients, padded as in `server.shares`."""

    items: Num[Array, "A2 I D"]
    """Divided over the devices."""
    samples: Int[Array, " A2"]
    """n_v; 1 each where all clients count the same; 0 where there is none."""
    adapter: Any = ()
    """[A2 ...] theta_u, if adapters are shared."""


class Download(NamedTuple):
    """What the server hands out: one table for each client it aggregated, or one for all."""

    items: Any
    """[R I D] G; or G_u, of which a device holds those of its own clients (`server.serving`)."""
    start: Sum | None = None
    """Q_0, and theta_0 if adapters are shared, that everybody started from; kept if uploads are
    bounded around it."""
    adapter: Any = ()
    """The mean of theta_v, that a client starts from, if adapters are shared."""
    moments: optax.OptState | None = None
    """Adam's, kept over the rounds, if the server has it; no client downloads them."""


def fedem(config: FedEM, layout: Layout) -> Algorithm:
    """FedEM on one federation.

    Args:
        config: sizes and switches; its numbers reach `init`, `round` and `score` as `Hyper`.
        layout: how the clients are laid out over devices, size classes and blocks.
    """
    if not config.keeps_tables:
        return fedem_replaced(config, layout, hyper_of(Hyper, config))
    model = ElasticClient.of(config, layout.num_items)
    _, num_uploaders = config.round_sizes(layout.num_clients)
    merging = layout.classes_for(num_uploaders) if config.downloads else ()  # none: not compiled
    own_rows = layout.classes_for(layout.num_clients - num_uploaders)

    def init(key: Key[Array, ""], hyper: Hyper) -> State:
        """Everybody starts from the same Q_0, p_0 and theta_0; they drift apart by training."""
        sizes = (layout.num_items, config.dim)
        private, table = initial(model.backbone, key, *sizes, hyper.init_scale)
        _, _, key_adapter = jax.random.split(key, 3)
        theta = model.first_adapter(key_adapter, table, hyper.adapter_start)
        table = to_storage(table, storage_dtype(config))
        seen = jnp.zeros((2, layout.num_items)) if config.counts_samples else None
        clients = Clients(private, table, theta, slot=jnp.int32(NOT_SERVED), seen=seen)
        first, moments = none_made(config, layout, table), None
        if config.moves_by_adam:
            first = table[None]
            moments = averaging.first_moments(config, from_storage(first))
        shared = theta if config.shares_adapter else ()
        start = Sum(table, shared) if config.ldp_clip else None
        return State(copies(clients, layout), Download(first, start, shared, moments))

    def round(draws: Draws, state: State, hyper: Hyper) -> tuple[State, Info]:
        context = RoundContext.of(config, layout, draws, hyper.threshold, hold_out=model.hold_out)
        phases = [
            Phase(partial(train_own, model, hyper), not_served, own_rows),
            Phase(partial(merge_and_train, model, hyper), served, merging, num_uploaders),
        ]
        clients, info, _ = train_clients(context, phases, state)
        uploaders, server = draws.uploaders(context.participants), state.server
        upload = sent_by(config, context, hyper, uploaders, clients, server.start)
        tables, moments = aggregated_tables(config, context, hyper, uploaders, upload, server)
        if config.downloads:
            clients = clients._replace(slot=slots_of(config, layout, uploaders))
        adapter = aggregation.mean_of(upload.adapter, upload.samples)
        return State(clients, Download(tables, server.start, adapter, moments)), info

    def score(state: State, places: Int[Array, " B"], hyper: Hyper) -> Float[Array, "B I"]:
        """Logits of all items, with the model each client would use: merged, if a table waits."""
        clients = at_place(state.clients, places)

        def merge(local):
            weighed = jax.vmap(partial(model.weighs, hyper, state.server))
            return merged(local, *weighed(clients))

        local = taken_up(waits(clients.slot), from_storage(clients.items), merge)
        return jax.vmap(model.logits)(clients.private, local)

    def scratch(block: int) -> dict[str, int]:
        client = merging_scratch(config, layout, num_uploaders, block)
        share = share_size(layout, num_uploaders)
        sent = upload_scratch(config, share, layout.num_items)
        server = aggregation_scratch(layout, num_uploaders, config.dim)
        if config.moves_by_adam:
            server["aggregate"] += share * layout.num_items * config.dim
        return client | sent | server

    tables = num_uploaders * (table_bytes(config, layout.num_items) + model.shared_bytes)
    return Algorithm(
        init,
        round,
        score,
        hyper=hyper_of(Hyper, config),
        classes={"own rows": own_rows, "merging": merging},
        traffic=Traffic(
            up=tables + 4 * num_uploaders * (config.weighting == "samples"),
            down=tables * config.downloads,
        ),
        scratch=scratch,
        elastic=elastic(model),
        lapses={"slot": NOT_SERVED},
        moves_all=config.downloads * num_uploaders / layout.num_clients,
    )


# --- what a client does ---------------------------------------------------------------------------


def train_own(
    model: ElasticClient, hyper: Hyper, samples: ClientSamples, clients: Clients, server: Any, place
) -> Change:
    """A client that no table waits for: (p_u, Q_u) <- local epochs."""
    samples = model.trains_on(samples)
    private, rows = at_place(clients.private, place), samples.rows
    table = from_storage(clients.items[place, rows])
    private, table, trained = model.fit(hyper)(private, table, samples)
    fields = {"private": private}
    if clients.seen is not None:
        fields["seen"] = clients.seen[place] + counted(samples, model.num_items)
    return Change(fields, trained, rows, table)


def merge_and_train(
    model: ElasticClient, hyper: Hyper, samples: ClientSamples, clients: Clients, server, place
) -> Change:
    """A client that a table waits for: Q_u <- Q_u + rho_u (G_u - Q_u), then local epochs."""
    samples = model.trains_on(samples)
    config, own, rows = model.config, at_place(clients, place), samples.rows
    private, local, aggregated, theta, evidence = model.knows(server, own)
    rho_of = partial(model.rho, hyper)
    if config.merging == "once":
        to_adapt = samples if samples.held_out is None else samples.held_out
        theta = fit_adapter(
            model.adapter_objective, rho_of, theta, private, local[rows], aggregated[rows],
            at_place(evidence, rows), to_adapt, model.adapter_optimiser(hyper),
        )  # fmt: skip
    rho = rho_of(theta, local, aggregated, evidence)
    table = merged(local, aggregated, rho)
    if config.merging == "per-batch":
        theta, private, new_rows, trained = model.elastic_fit(hyper)(
            theta, private, table[rows], aggregated[rows], samples
        )
    else:
        private, new_rows, trained = model.fit(hyper)(private, table[rows], samples)
    table = table.at[rows].set(new_rows, mode="drop")
    fields = {"private": private, "adapter": theta}
    if own.seen is not None:
        fields["seen"] = (1 - rho)[None] * own.seen + counted(samples, model.num_items)
    return Change(fields, trained, jnp.arange(table.shape[0]), table)


def sent_by(
    config: FedEM, context: RoundContext, hyper: Hyper, uploaders: Int[Array, " A"],
    clients: Clients, start: Sum | None,
) -> Upload:  # fmt: skip
    """What the drawn clients upload: Q_u and, if adapters are shared, theta_u; bounded around Q_0
    and theta_0, and with noise, if so asked."""
    layout = context.layout
    kept = Sum(clients.items, clients.adapter if config.shares_adapter else ())
    sent = shares_of(layout, kept, uploaders)
    client = padded(layout, uploaders, layout.nobody)

    def on_device(sent, start, client):
        return noisy_uploads(config, context.draws, client, sent, start, hyper)

    sent = layout.on_each_device(on_device, sent, start, client)
    samples = context.samples_of(uploaders)
    if config.weighting == "uniform":
        samples = jnp.ones_like(samples)
    return Upload(sent.items, padded(layout, samples, 0), sent.rest)


# --- what the server does -------------------------------------------------------------------------


def none_made(config: FedEM, layout: Layout, table: Num[Array, "I D"]) -> Any:
    """Zeros in place of the server's tables: one for all, one for each declared cohort, or one for
    each uploader."""
    if config.aggregation in ("avg", "cohort"):
        number = 1 if config.aggregation == "avg" else num_cohorts(layout)
        return jnp.zeros((number, *table.shape), table.dtype)
    _, num_uploaders = config.round_sizes(layout.num_clients)
    return first_tables(config, layout, num_uploaders, table.shape, table.dtype)


def num_cohorts(layout: Layout) -> int:
    """Number of the declared cohorts.

    Raises:
        UserError: none are declared.
    """
    cohorts = int(layout.cohort.max()) + 1
    if cohorts == 1:
        raise UserError(
            "aggregation: cohort needs declared cohorts; give `--cohort COLUMN`, or another value. "
            "Settings made for the embedded data have it: in Python, also give "
            "`fj.preset(dataset=NAME)`."
        )
    return cohorts


def slots_of(config: FedEM, layout: Layout, uploaders: Int[Array, " A"]) -> Int[Array, " padded"]:
    """Row of the table that waits at each place: each uploader's own, that of its cohort, or the
    one for all."""
    if config.aggregation == "cohort":
        rows = jnp.asarray(layout.cohort)[uploaders]
    elif config.aggregation == "avg":
        rows = jnp.zeros_like(uploaders)
    else:
        rows = rows_of(config, layout, uploaders)
    return slots(layout, uploaders, rows)


def aggregated_tables(
    config: FedEM, context: RoundContext, hyper: Hyper, uploaders: Int[Array, " A"], upload: Upload,
    server: Download,
) -> tuple[Any, optax.OptState | None]:  # fmt: skip
    """G_u = sum_v w_uv Q_v, or G_k, from nothing but the uploads and who sent them; they take the
    memory of those before. With Adam also its moments, of one table that a step brings nearer to
    the average."""
    layout, number = context.layout, len(uploaders)
    tables, shares = from_storage(upload.items), aggregation.sample_shares(upload.samples)
    if config.aggregation == "cohort":
        cohort = padded(layout, jnp.asarray(layout.cohort)[uploaders], 0)
        constant = None if config.fits_common_share else hyper.common
        tables = cohort_tables(tables, shares, cohort, num_cohorts(layout), constant)
        return to_storage(tables, upload.items.dtype), None
    similarity = None
    if config.aggregation != "avg":
        axes, scores = signatures(layout, tables, number)
        # the sign of an axis is open; a replayed run takes the recorded one
        scores = scores * context.draws.signs(axes, scores)[:, None]
        similarity = layout.split(saturate(SIMILARITIES[config.similarity](scores)))
    kind = config.aggregation
    weights = aggregation.aggregation_weights(kind, shares[:number], similarity, hyper.alpha)
    if not config.moves_by_adam:
        return aggregate_shares(layout, weights, tables, server.items, uploaders), None
    before = from_storage(server.items)
    # moves are averaged, so that a row that nobody moved has 0; of a rounding Adam makes a step
    moved = aggregate_shares(layout, weights, tables - before, server.items)
    step, moments = averaging.server_step(
        config, hyper, server.moments, from_storage(moved), before
    )
    return to_storage(before + step, moved.dtype), moments

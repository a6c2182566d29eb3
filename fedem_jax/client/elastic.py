"""A client of FedEM: what it trains, by which optimisers, and how it weighs two rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import logit
from jaxtyping import Array, Float, Key

from fedem_jax.client.closed_form import ClosedForm, fit_closed_form
from fedem_jax.client.evidence import NUM_FEATURES, features, shrinkage
from fedem_jax.client.fitting import ElasticFit, Fit, elastic_fit_of, fit_of, visits
from fedem_jax.client.local import Objective, Optimiser, fit_network, optimiser_of
from fedem_jax.config.fedem import FedEM
from fedem_jax.core.draws import HoldOut
from fedem_jax.core.layout import Layout
from fedem_jax.core.round import training_scratch
from fedem_jax.core.samples import ClientSamples, over_all_items
from fedem_jax.core.table_storage import from_storage
from fedem_jax.models import ncf
from fedem_jax.models.adapter import Adapter, Logistic, Single
from fedem_jax.models.scoring import backbone_of, numbers_per_row, scoring, trained_by


class ElasticClient(NamedTuple):
    """What a client of FedEM trains, by which optimisers, and how it weighs two rows."""

    config: FedEM
    num_items: int
    backbone: nn.Module
    """Of the scores: p_u . q_i, f_u(p_u, q_i), or a registered one."""
    logits: Callable[..., Any]
    objective: Objective
    adapter: Adapter | Single | Logistic

    @classmethod
    def of(cls, config: FedEM, num_items: int) -> ElasticClient:
        """The client that the settings describe."""
        if config.backbone == "ncf":
            backbone = ncf.NCF(config.dim, config.network_widths)
        else:
            backbone = backbone_of(config.backbone, config.dim)
        adapters = {"table": Single(), "features": Logistic()}
        adapter = adapters.get(config.adapter, Adapter(config.adapter_widths))
        model = scoring(backbone, config.bce, config.loss)
        return cls(config, num_items, backbone, *model, adapter)

    def first_adapter(
        self, key: Key[Array, ""], table: Float[Array, "I D"], start: Float[Array, ""]
    ) -> Any:
        """theta_0, the parameters that all adapters start from.

        Args:
            key: of the network's first weights.
            table: Q_0.
            start: rho of the adapter with these parameters.
        """
        of_features = self.config.adapter == "features"
        inputs = (jnp.zeros((1, NUM_FEATURES)),) if of_features else (table, table)
        theta = self.adapter.init(key, *inputs)["params"]
        return self.adapter.raised(theta, logit(start))

    def trains_on(self, samples: ClientSamples) -> ClientSamples:
        """Its samples over the rows that local training moves: all, with a closed form."""
        return over_all_items(samples, self.num_items) if self.config.closed_form else samples

    def optimiser(self, hyper: Any) -> Optimiser:
        """Optimiser of the pair `(private, table)`, unless there is a closed form."""
        if self.config.backbone == "ncf":
            return ncf.adam(hyper.lr_embedding, hyper.lr_network, hyper.weight_decay)
        return optimiser_of(self.config, hyper, self.num_items)

    def steps(self, hyper: Any) -> ClosedForm:
        """Numbers of local training, where there is a closed form."""
        return ClosedForm(hyper.lr_embedding, hyper.confidence, hyper.regularization)

    def adapter_optimiser(self, hyper: Any) -> optax.GradientTransformation:
        """Optimiser of theta_u, with one update for its small arrays."""
        kinds = {"adam": optax.adam, "sgd": optax.sgd}
        return optax.flatten(kinds[self.config.adapter_optimiser](hyper.lr_adapter))

    def fit(self, hyper: Any) -> Fit:
        """Trains the backbone's own parameters and rows of Q_u together."""
        if self.config.closed_form:
            return partial(fit_closed_form, self.objective, optimiser=self.steps(hyper))
        optimiser = self.optimiser(hyper)
        if self.config.backbone != "mf":
            return partial(fit_network, self.objective, optimiser=optimiser)
        return fit_of(self.config, self.objective, optimiser, hyper.lr_embedding)

    def elastic_fit(self, hyper: Any) -> ElasticFit:
        """Trains theta_u and the same, merging batch by batch."""
        return elastic_fit_of(
            self.config, self.objective, self.adapter_objective, partial(self.rho, hyper),
            self.adapter_optimiser(hyper), self.optimiser(hyper), hyper,
        )  # fmt: skip

    @property
    def hold_out(self) -> HoldOut | None:
        """Positives that only the adapter is fitted on."""
        if self.config.adapter_samples == "trained":
            return None
        unseen = self.config.adapter_samples == "held-out-unseen"
        return HoldOut(self.config.held_out_share, unseen)

    @property
    def adapter_objective(self) -> Objective:
        """Loss of rows that the adapter is fitted by."""
        loss = {"cross-entropy": "bce", "ranking": "softmax"}[self.config.adapter_loss]
        return trained_by(self.logits, self.config.bce, loss).objective

    def knows(self, server: Any, own: Any) -> tuple[Any, Array, Array, Any, Array | None]:
        """What a client has when a table waits for it: p_u, Q_u, G_u, theta_u, and what rho depends
        on beside these.

        Args:
            server: its tables, and the adapter that clients start from if they share it.
            own: the fields of one client.
        """
        local, aggregated = from_storage(own.items), from_storage(server.items[own.slot])
        theta = server.adapter if self.config.shares_adapter else own.adapter
        if own.seen is None:
            return own.private, local, aggregated, theta, None
        if self.config.merging == "shrinkage":
            return own.private, local, aggregated, theta, own.seen.sum(axis=0)
        score = partial(self.logits, own.private)
        return own.private, local, aggregated, theta, features(score, local, aggregated, own.seen)

    def weighs(
        self, hyper: Any, server: Any, own: Any
    ) -> tuple[Float[Array, "I D"], Float[Array, " I"]]:
        """G_u and rho_u of a client; they mean nothing if no table waits for it."""
        _, local, aggregated, theta, evidence = self.knows(server, own)
        return aggregated, self.rho(hyper, theta, local, aggregated, evidence)

    def rho(
        self,
        hyper: Any,
        theta: Any,
        local: Float[Array, "*M D"],
        aggregated: Float[Array, "*M D"],
        evidence: Float[Array, "..."] | None,
    ) -> Float[Array, "*M"]:
        """How much of each aggregated row the client takes up.

        Args:
            hyper: the number `rho`, where that is a constant.
            theta: parameters of the adapter.
            local, aggregated: rows of both tables; whole tables for shrinkage.
            evidence: samples of each row for shrinkage, its features for an adapter of features.
        """
        if self.config.constant_rho:
            return jnp.full(local.shape[:-1], hyper.rho)
        if evidence is None:
            return jnp.asarray(self.adapter.apply({"params": theta}, local, aggregated))
        if self.config.merging == "shrinkage":
            return shrinkage(local, aggregated, evidence)
        return jnp.asarray(self.adapter.apply({"params": theta}, evidence))

    @property
    def shared_bytes(self) -> int:
        """Bytes of the adapter that goes with each table, up and down, if adapters are shared."""
        if not self.config.shares_adapter:
            return 0
        table = jnp.zeros((1, self.config.dim))
        theta = jax.eval_shape(self.first_adapter, jax.random.key(0), table, jnp.float32(0.5))
        return sum(4 * leaf.size for leaf in jax.tree.leaves(theta))


def own_scratch(config: FedEM, layout: Layout, block: int, tables: int = 1) -> dict[str, int]:
    """Numbers that XLA keeps at once to train and evaluate a block of clients.

    Args:
        config: all settings.
        layout: the size classes.
        block: clients side by side.
        tables: item tables of a client that evaluation holds.

    train: with a closed form all rows, before, after and the own ones, [I D] each.
    evaluate: with NCF also the network's input and widest layer, [I] each; with a registered
    backbone all that it computes.
    """
    dim, num_items = config.dim, layout.num_items
    numbers = training_scratch(layout, dim, block, tables, visits(config), config.pairs)
    if config.closed_form:
        numbers["train"] = block * num_items * (3 * dim + 8)
    if config.backbone == "ncf":
        numbers["evaluate"] += block * num_items * ncf.inside(dim, config.network_widths)
    elif config.backbone != "mf":
        own = backbone_of(config.backbone, dim)
        numbers["evaluate"] += block * num_items * numbers_per_row(own, dim)
    return numbers


def merging_scratch(config: FedEM, layout: Layout, uploads: int, block: int) -> dict[str, int]:
    """Numbers that XLA keeps at once to train, evaluate and merge a block of clients.

    Args:
        config: all settings.
        layout: the size classes.
        uploads: A, most clients that merge.
        block: clients side by side.

    merge: those to train; own and aggregated table and their merger, [I D], less its rows, [M D];
    the adapter's hidden layers, [I] each; features and samples of the rows, [I] each.
    """
    if not config.downloads:
        return own_scratch(config, layout, block)
    dim, num_items, tables = config.dim, layout.num_items, 3
    rows = num_items if config.closed_form else max(size.rows for size in layout.classes)
    inside = 3 + sum(config.adapter_widths) * config.learns_rho
    beside = NUM_FEATURES + 2 if config.counts_samples else 0
    merging = num_items * (3 * dim + inside + beside) - rows * dim
    width = min(block, uploads)
    sorted_so = layout._replace(classes=layout.classes_for(uploads))
    merge = own_scratch(config, sorted_so, width)["train"] + width * merging
    return own_scratch(config, layout, block, tables) | {"merge": merge}

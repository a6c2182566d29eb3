"""Replay traces recorded from the FedEM authors' program and print how far we are from them.

    python tests/golden_check.py TRACE.npz [MORE.npz ...]

Initial parameters, samples, visiting orders, participants, server draws and the signs of the
principal axes are taken from the trace; everything else runs through the same compiled rounds as
any experiment. First each round from the recorded state before it, then all rounds on end. Exit
status 1 when a deviation exceeds its tolerance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from fedem_jax.client.merging import merged
from fedem_jax.config.fedem import FedEM
from fedem_jax.config.protocol import PROTOCOLS
from fedem_jax.core.algorithm import State
from fedem_jax.core.draws import Samples
from fedem_jax.data.federation import Federation
from fedem_jax.data.interactions import Interactions
from fedem_jax.data.split import split
from fedem_jax.evaluation.metrics import HeldOutRanks, summarise
from fedem_jax.evaluation.ranking import rank
from fedem_jax.methods.fedem import Clients, Download
from fedem_jax.models.adapter import Adapter
from fedem_jax.models.losses import probability_bce
from fedem_jax.runs.placement import Places, by_name, on_devices
from fedem_jax.runs.simulation import Simulation
from fedem_jax.server.aggregation import aggregate, aggregation_weights, sample_shares
from fedem_jax.server.similarity import SIMILARITIES, principal_axes, principal_scores, saturate

Trace = dict[str, np.ndarray]


class Row(NamedTuple):
    """One comparison."""

    quantity: str
    round: int
    deviation: float
    tolerance: float

    @property
    def passes(self) -> bool:
        """NaN never passes."""
        return self.deviation <= self.tolerance


class Recorded(NamedTuple):
    """The random choices of round `number` of a trace, as `fedem_jax.core.draws.Draws`."""

    number: Any
    chosen: Any
    count: Any
    items: Any
    labels: Any
    visits: Any
    served: Any
    projection: Any
    per_positive: int

    def participants(self):
        return self.chosen[self.number]

    def samples(self, client, capacity, barred_capacity):
        size = min(capacity * self.per_positive, self.items.shape[2])
        known = client < self.count.shape[1]
        return Samples(
            self.items[self.number, client, :size],
            self.labels[self.number, client, :size].astype(jnp.float32),
            jnp.where(known, self.count[self.number, client], 0),
        )

    def order(self, client, epoch, count):
        return lambda position: self.visits[self.number, client, epoch, position]

    def epochs(self, client, most, stragglers):
        raise NotImplementedError

    def uploaders(self, participants):
        return self.served[self.number]

    def server(self):
        raise NotImplementedError

    def signs(self, axes, scores):
        if self.projection is None:
            return jnp.ones(len(axes))
        return jnp.sign(jnp.sum(scores * self.projection[self.number], axis=1))


class Replay(Simulation):
    """A simulation that draws nothing: all its choices are those of a trace."""

    def __init__(self, config: FedEM, federation: Federation, trace: Trace):
        super().__init__(config, federation)
        self.trace = trace

    def draws(self, key, number, lists) -> Recorded:
        def recorded(name: str):
            return jnp.asarray(self.trace[name].astype(np.int32))

        return Recorded(
            number=number,
            chosen=recorded("participants"),
            count=recorded("sample_count"),
            items=recorded("sample_items"),
            labels=recorded("sample_labels"),
            visits=recorded("visit_order"),
            served=recorded("agg_participants"),
            projection=jax.tree.map(jnp.asarray, self.trace.get("pca_projection")),
            per_positive=1 + self.config.num_negative,
        )


def configuration(trace: Trace) -> FedEM:
    """The settings of the recorded run under our names."""
    recorded = json.loads(str(trace["config_json"]))
    return FedEM(
        protocol="paper",
        rounds=recorded["global_round"],
        seed=recorded["seed"],
        dim=recorded["latent_dim"],
        local_epochs=recorded["local_epoch"],
        batch_size=recorded["batch_size"],
        num_negative=recorded["num_negative"],
        lr_embedding=recorded["lr_embedding"],
        lr_adapter=recorded["lr_adapter"],
        threshold=recorded["threshold"],
        aggregation=recorded["agg_mode"],
        similarity=recorded["sim_mode"],
        alpha=recorded["alpha"],
        adapter_widths=tuple(recorded["adapter"][1:-1]),
        client_fraction=recorded["clients_sample_ratio"],
        aggregation_fraction=recorded["agg_clients_ratio"],
        top_k=recorded["top_k"],
    )


def federation(trace: Trace) -> Federation:
    """Our own filter and split of the recorded file, with the recorded candidates."""
    frame = pd.DataFrame(trace["raw_ratings"], columns=["user", "item", "rating", "time"])
    made = split(Interactions(frame), PROTOCOLS["paper"], seed=0, name="golden")
    candidates = trace["eval_negatives"].astype(np.int32)
    return Federation(
        **{
            **vars(made),
            "val_candidates": candidates,
            "test_candidates": candidates,
        }
    )


def adapters(trace: Trace, suffix: str, *index) -> dict[str, Any]:
    """Recorded adapter parameters as a flax tree; their matrices are stored transposed."""
    layers = len(json.loads(str(trace["config_json"]))["adapter"]) - 1
    return {
        f"Dense_{layer}": {
            "kernel": jnp.asarray(np.swapaxes(trace[f"adapter_w{layer}_{suffix}"][index], -1, -2)),
            "bias": jnp.asarray(trace[f"adapter_b{layer}_{suffix}"][index]),
        }
        for layer in range(layers)
    }


def state_before(trace: Trace, number: int, simulation: Simulation) -> State:
    """The recorded state that round `number` starts from, before merging."""
    layout, clients = simulation.layout, simulation.layout.num_clients
    served = trace["had_server_model"][number]
    one_for_all = configuration(trace).aggregation == "avg"
    held = slice(1 if one_for_all else None)
    if number == 0:

        def everybody(x):
            return jnp.broadcast_to(x, (clients, *x.shape))

        user = everybody(jnp.asarray(trace["user_embedding_init"][0]))
        items = everybody(jnp.asarray(trace["item_table_init"]))
        theta = jax.tree.map(everybody, adapters(trace, "init"))
        tables = np.zeros_like(trace["server_item_table"][0][held])
        slot = np.full(clients, -1, np.int32)
    else:
        user = jnp.asarray(trace["user_embedding_start"][number])
        items = trace["item_table_start"][number].copy()
        for client in np.flatnonzero(served):
            last = max(r for r in range(number) if client in trace["participants"][r])
            items[client] = trace["item_table_end"][last, client]
        theta = adapters(trace, "start", number)
        tables = trace["server_item_table"][number - 1][held]
        slot = np.full(clients, -1, np.int32)
        slot[trace["agg_participants"][number - 1]] = np.arange(len(tables))
    own = Clients({"user": user}, jnp.asarray(items), theta, jnp.asarray(slot))
    recorded = by_name(State(own, Download(jnp.asarray(tables))))
    in_order = Places(np.arange(clients), clients)
    return on_devices(recorded, in_order, simulation.init(), layout, simulation.algorithm)


def compare(trace: Trace, local_training: str = "auto") -> Iterator[Row]:
    """All comparisons of one trace, with the tolerances that its recorder measured and advises."""
    config = dataclasses.replace(configuration(trace), local_training=local_training)
    clients = federation(trace)
    yield from compare_data(trace, clients)
    with jax.default_matmul_precision("highest"):
        yield from compare_units(trace)
        simulation = Replay(config, clients, trace)
        for number in range(config.rounds):
            yield from compare_server(trace, config, number)
            yield from compare_round(trace, simulation, number)
        yield from compare_free_run(trace, simulation)


def compare_data(trace: Trace, ours: Federation) -> Iterator[Row]:
    """Filter, numbering and split of the recorded file: equal."""
    counts = trace["train_count"]
    lists = [trace["train_items"][u, :n] for u, n in enumerate(counts)]
    yield exact("train items", 0, ours.items, np.concatenate(lists))
    yield exact("train counts", 0, np.diff(ours.offsets), counts)
    yield exact("validation items", 0, ours.val_item, trace["val_item"])
    yield exact("test items", 0, ours.test_item, trace["test_item"])


def compare_units(trace: Trace) -> Iterator[Row]:
    """Loss and gradient at saturation, where the trace holds such vectors."""
    if "bce_logit" not in trace:
        return
    logit, label = jnp.asarray(trace["bce_logit"]), jnp.asarray(trace["bce_label"])
    # XLA's sigmoid is 0 from -87.34 down, torch's from -88.72
    normal = trace["bce_logit"] > -87.3
    loss = np.asarray(probability_bce(logit, label))[normal]
    # losses up to 87; the exponential of a GPU is some units in the last place off (4e-5, H100)
    tolerance = 1e-5 if jax.default_backend() == "cpu" else 1e-4
    yield within("loss", 0, loss, trace["bce_loss"][normal], tolerance)
    slope = jax.vmap(jax.grad(probability_bce))(logit, label)
    yield within("loss gradient", 0, slope, trace["bce_grad"], 1e-6)


def compare_server(trace: Trace, config: FedEM, number: int) -> Iterator[Row]:
    """Each step of the server from the recorded result of the one before it."""
    chosen = trace["agg_participants"][number]
    tables = jnp.asarray(trace["item_table_end"][number, chosen])
    shares = sample_shares(jnp.asarray(trace["sample_count"][number, chosen]))
    if "agg_p" in trace:
        yield within("sample shares", number, shares, trace["agg_p"][number], 2e-6)
    alike = None
    if config.aggregation != "avg":
        recorded = jnp.asarray(trace["pca_projection"][number])
        scores = principal_scores(tables, principal_axes(tables))
        scores *= jnp.sign(jnp.sum(scores * recorded, axis=1, keepdims=True))
        yield within("principal scores", number, scores, recorded, projection_tolerance(tables))
        alike = saturate(SIMILARITIES[config.similarity](recorded))
        yield within("similarity", number, alike, trace["similarity"][number], 2e-6)
        alike = jnp.asarray(trace["similarity"][number])
    weights = aggregation_weights(config.aggregation, shares, alike, config.alpha)
    recorded = trace["agg_matrix"][number]
    yield within("weights", number, jnp.broadcast_to(weights, recorded.shape), recorded, 2e-6)
    served = aggregate(jnp.asarray(recorded), tables)
    yield within("aggregated tables", number, served, trace["server_item_table"][number], 1e-5)


def projection_tolerance(tables: jax.Array) -> float:
    """The error of a principal axis grows as the two leading eigenvalues approach each other."""
    centred = np.asarray(tables, np.float64)
    centred = centred - centred.mean(axis=1, keepdims=True)
    values = np.linalg.eigvalsh(centred.transpose(0, 2, 1) @ centred)
    return 5e-4 if (values[:, -1] / values[:, -2]).min() > 1.05 else 5e-3


def compare_round(trace: Trace, simulation: Replay, number: int) -> Iterator[Row]:
    """One compiled round, merging to evaluation, from the recorded state before it."""
    config = simulation.config
    before = state_before(trace, number, simulation)
    merging = np.flatnonzero(trace["had_server_model"][number])
    if len(merging):
        theta, place = adapters(trace, "start", number, merging), simulation.layout.place[merging]
        local = before.clients.items[place]
        target = before.server.items[before.clients.slot[place]]
        adapter = Adapter(configuration(trace).adapter_widths)
        weigh = jax.vmap(lambda theta, q, g: adapter.apply({"params": theta}, q, g))
        rho = jnp.asarray(weigh(theta, local, target))
        yield within("merge weights", number, rho, trace["merge_rho"][number, merging], 2e-6)
        start = trace["item_table_start"][number, merging]
        yield within("merged tables", number, merged(local, target, rho), start, 2e-6)

    after, info, ranks = simulation.segment(before, 1)(before, number)
    trained = np.sort(trace["participants"][number])
    place = simulation.layout.place[trained]
    ours = jax.tree.map(lambda leaf: np.asarray(leaf)[place], after.clients)
    user = trace["user_embedding_end"][number, trained]
    yield within("user vectors", number, ours.private["user"], user, 3e-4)

    touched = [
        np.unique(trace["sample_items"][number, u, : trace["sample_count"][number, u]])
        for u in trained
    ]
    end = trace["item_table_end"][number, trained]
    pairs = list(zip(ours.items, end, touched, strict=True))
    gap = np.concatenate([(a[rows] - b[rows]).ravel() for a, b, rows in pairs])
    yield from spread("item tables", number, gap, mean=2e-5, share=0.995, most=2e-2)
    still = [np.setdiff1d(np.arange(a.shape[0]), rows) for a, _, rows in pairs]
    gap = [
        np.abs(a[s] - b[s]).max(initial=0) for a, b, s in zip(ours.items, end, still, strict=True)
    ]
    yield Row("untouched rows", number, float(max(gap)), 2e-6)
    if len(merging):
        where = np.isin(trained, merging)
        theta = jax.tree.leaves(jax.tree.map(lambda leaf: leaf[where], ours.adapter))
        recorded = jax.tree.leaves(adapters(trace, "end", number, merging))
        gap = [np.ravel(a - np.asarray(b)) for a, b in zip(theta, recorded, strict=True)]
        gap = np.concatenate(gap)
        yield from spread("adapters", number, gap, mean=5e-5, share=0.99, most=3e-2)

    loss, epochs = np.asarray(info.loss[0])[place], np.asarray(info.epochs[0])[place]
    yield within("client loss", number, loss, trace["client_loss"][number, trained], 5e-5)
    yield within("round loss", number, loss.mean(), trace["round_train_loss"][number], 5e-5)
    yield exact("epochs run", number, epochs, trace["epochs_run"][number, trained])

    yield from compare_scores(trace, simulation, number)
    # ranks of our own parameters: one held-out item may change places by rounding
    for part, rank_of in (("val", ranks.val), ("test", ranks.test)):
        yield from metrics(trace, number, part, simulation.by_client(rank_of), config.top_k, part)


def compare_scores(trace: Trace, simulation: Replay, number: int) -> Iterator[Row]:
    """Scores with the recorded parameters after the round, and metrics of the recorded scores."""
    config = simulation.config
    if number + 1 < config.rounds:
        state = state_before(trace, number + 1, simulation)
        everybody = jnp.asarray(simulation.layout.place)
        logits = np.asarray(
            jax.jit(simulation.algorithm.score)(state, everybody, simulation.algorithm.hyper)
        )
        asked = {"val": trace["val_item"][:, None], "test": trace["test_item"][:, None]}
        for part, items in (asked | {"neg": trace["eval_negatives"]}).items():
            ours = np.take_along_axis(logits, items.astype(int), axis=1)
            theirs = trace[f"{part}_logit"][number].reshape(ours.shape)
            yield within(f"{part} logits", number, ours, theirs, 3e-5)
            theirs = trace[f"{part}_score"][number].reshape(ours.shape)
            yield within(f"{part} scores", number, jax.nn.sigmoid(ours), theirs, 1e-5)
    for part in ("val", "test"):
        scores = jnp.asarray(trace[f"{part}_score"][number])
        ours = rank(scores, jnp.asarray(trace["neg_score"][number]), "pessimistic")
        yield exact(f"{part} ranks of recorded scores", number, ours, trace[f"{part}_rank"][number])
        name = f"{part} of recorded scores"
        yield from metrics(trace, number, part, np.asarray(ours), config.top_k, name, 1e-9, 1e-9)


def compare_free_run(trace: Trace, simulation: Replay) -> Iterator[Row]:
    """All rounds on end from the recorded start."""
    last = simulation.config.rounds - 1
    state = state_before(trace, 0, simulation)
    for number in range(simulation.config.rounds):
        state, info, ranks = simulation.segment(state, 1)(state, number)
        trained = np.sort(trace["participants"][number])
        place = simulation.layout.place[trained]
        if number in (0, last):
            ours = np.asarray(state.clients.items)[place]
            gap = np.abs(ours - trace["item_table_end"][number, trained]).mean()
            yield Row("free run: item tables, mean", number, float(gap), 1e-3 if number else 2e-5)
        loss = np.asarray(info.loss[0])[place]
        recorded = trace["client_loss"][number, trained]
        yield within("free run: client loss", number, loss, recorded, 2e-4)
        for part, rank_of in (("val", ranks.val), ("test", ranks.test)):
            ours, name = simulation.by_client(rank_of), f"free run: {part}"
            yield from metrics(trace, number, part, ours, simulation.config.top_k, name)


def metrics(
    trace: Trace, number: int, part: str, ranks: np.ndarray, k: int, name: str,
    hr: float | None = None, ndcg: float = 0.02,
) -> Iterator[Row]:  # fmt: skip
    """HR and NDCG of ranks against the recorded ones; by default one user may differ."""
    ours = summarise(HeldOutRanks.of_one(ranks), k)
    tolerance = 1.0001 / len(ranks) if hr is None else hr
    yield within(f"{name} HR", number, ours[f"hr@{k}"], trace[f"{part}_hr"][number], tolerance)
    yield within(f"{name} NDCG", number, ours[f"ndcg@{k}"], trace[f"{part}_ndcg"][number], ndcg)


def exact(quantity: str, number: int, ours, theirs) -> Row:
    """Equal, entry by entry."""
    return within(quantity, number, ours, theirs, 0.0)


def within(quantity: str, number: int, ours, theirs, tolerance: float) -> Row:
    """Largest absolute difference; infinite where the shapes differ."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    gap = np.abs(ours - theirs).max(initial=0) if ours.shape == theirs.shape else np.inf
    return Row(quantity, number, float(gap), tolerance)


def spread(
    quantity: str, number: int, gap: np.ndarray, *, mean: float, share: float, most: float
) -> Iterator[Row]:
    """Mean and maximum, and the share beyond 1e-4: single entries near Adam's eps are chaotic."""
    gap = np.abs(gap)
    yield Row(f"{quantity}, mean", number, float(gap.mean()), mean)
    yield Row(f"{quantity}, share beyond 1e-4", number, float((gap > 1e-4).mean()), 1 - share)
    yield Row(f"{quantity}, max", number, float(gap.max()), most)


def report(path: Path, local_training: str = "auto") -> bool:
    """Print all comparisons of a trace; whether each is within its tolerance."""
    with np.load(path) as file:
        trace = dict(file)
    print(f"{path.name} on {jax.devices()[0].device_kind}")
    print(f"{'quantity':42} {'round':>5} {'deviation':>11} {'tolerance':>11}")
    rows = []
    for row in compare(trace, local_training):
        rows.append(row)
        verdict = "" if row.passes else "  EXCEEDED"
        line = f"{row.quantity:42} {row.round + 1:5} {row.deviation:11.2e} {row.tolerance:11.2e}"
        print(line + verdict, flush=True)
    failed = sum(not row.passes for row in rows)
    print(f"{len(rows)} comparisons, {failed} beyond tolerance\n")
    return failed == 0


def main() -> None:
    """Check every trace named on the command line."""
    parser = argparse.ArgumentParser(description="Compare this program with recorded traces.")
    parser.add_argument("traces", nargs="+", type=Path, metavar="TRACE.npz")
    parser.add_argument("--local-training", choices=("auto", "xla", "fused"), default="auto")
    options = parser.parse_args()
    sound = [report(path, options.local_training) for path in options.traces]
    sys.exit(0 if all(sound) else 1)


if __name__ == "__main__":
    main()

"""Does a protocol leak held-out items? Runs Local-only and popularity, and looks at the negatives.

A client that trains alone knows nothing of unseen items, so Local-only should be at chance level.
It exceeds chance if the protocol treats the held-out item unlike the candidates. The usual cause:
candidates are drawn as training negatives, which lowers their scores, but the held-out item is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from fedem_jax.analysis.verdict import Audit, Figures, Share
from fedem_jax.config.base import Config
from fedem_jax.config.protocol import as_settings
from fedem_jax.config.settings import LocalOnly
from fedem_jax.core.layout import SizeClass
from fedem_jax.core.lists import Lists
from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of
from fedem_jax.evaluation.popularity import by_popularity
from fedem_jax.evaluation.ranking import HeldOut
from fedem_jax.evaluation.records import Part
from fedem_jax.runs.observers import Observer
from fedem_jax.runs.simulation import Simulation, versions
from fedem_jax.runs.train import run


def audit(
    config: Config | Federation,
    federation: Federation | None = None,
    observers: Sequence[Observer] = (),
) -> Audit:
    """Train Local-only and rank by popularity under a protocol, and say whether it leaks.

    All clients start from one item table, so they would agree on unseen items. One popular held-out
    item would then change many hits at once. To make clients independent, each numbers the items in
    its own random order; a client that trains alone does not need common numbers. The hits of a
    protocol without leak are then Binomial(clients, chance), exactly if no scores tie.

    If clients have several held-out items, the audit looks at the latest of each part. The others
    stay what they are: out of the training sets, and barred from negatives as the protocol says.

    Args:
        config: settings of protocol, data and local training; the method is always Local-only. A
            federation alone is trained on for 50 rounds with the settings of the released program.
        federation: the data; None: what `config` names.
        observers: follow the training, as in `run`.

    Raises:
        UserError: unusable data or settings.

    Examples:
        >>> config = fj.preset("released", method="local-only", rounds=2, dim=4, size_classes=1)
        >>> fj.audit(config).leaks
        False
    """
    if isinstance(config, Federation):
        federation = config
        config = LocalOnly(**as_settings(federation.protocol), rounds=50, eval_every=10)
    left_out = {"method", *LocalOnly().refusals()}
    shared = {field.name for field in dataclasses.fields(config)} - left_out
    names = [field.name for field in dataclasses.fields(LocalOnly) if field.name in shared]
    config = LocalOnly(**{name: getattr(config, name) for name in names})
    if federation is None:
        federation = federation_of(config)
    federation = latest_of_each(federation)
    own = renumbered(federation, np.random.default_rng((config.seed, 1)))
    record = run(config, own, observers).records[-1]
    popularity = by_popularity(federation, config.top_k)
    drawn = drawn_as_negative(config, own)
    clients, number, k = federation.num_clients, federation.num_items, config.top_k

    def figures(part: Literal["val", "test"], full: Part) -> Figures:
        owner, item = latest(federation, part)
        candidates, looked_at = f"{part}_candidates", len(item)
        known = _contains(federation, federation.offsets, federation.items, owner, item)
        barred = _contains(federation, federation.barred_offsets, federation.barred, owner, item)
        ranked = getattr(federation, candidates).shape[1] + 1
        among = (number - _others_known(federation, part))[owner]
        return Figures(
            local=Share(round(record[part][f"hr@{k}"] * looked_at), looked_at),
            chance=min(k, ranked) / ranked,
            local_full=record[full][f"hr@{k}"],
            chance_full=float(np.mean(np.minimum(k, among) / among)),
            popularity=popularity[part][f"hr@{k}"],
            popularity_full=popularity[full][f"hr@{k}"],
            recurring=Share(int(known.sum()), looked_at),
            spared=Share(int((barred & ~known).sum()), int((~known).sum())),
            drawn=Share(int(drawn[f"{part}_item"][~known].sum()), int((~known).sum())),
            candidates_drawn=Share(int(drawn[candidates].sum()), drawn[candidates].size),
        )

    return Audit(
        dataset=federation.name,
        protocol=federation.protocol,
        fingerprint=federation.fingerprint,
        seed=config.seed,
        rounds=config.rounds,
        top_k=k,
        clients=clients,
        items=number,
        val=figures("val", "val_full"),
        test=figures("test", "test_full"),
        coinciding=_coinciding(federation),
        tied_users=federation.cleaning["tied_users"],
        versions=versions(),
    )


def latest_of_each(federation: Federation) -> Federation:
    """The federation with at most one held-out item of each client in each part: the latest."""
    if federation.one_each:
        return federation
    changes = {}
    for part in ("val", "test"):
        offsets = getattr(federation, f"{part}_offsets")
        has = np.diff(offsets) > 0
        rows = offsets[1:][has] - 1
        changes[f"{part}_offsets"] = np.concatenate([[0], np.cumsum(has)]).astype(np.int32)
        for name in (f"{part}_item", f"{part}_candidates"):
            changes[name] = getattr(federation, name)[rows]
    return dataclasses.replace(federation, **changes)


def latest(federation: Federation, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The held-out items of a part of `latest_of_each`, and the client of each."""
    owner = np.flatnonzero(np.diff(getattr(federation, f"{part}_offsets")))
    return owner, getattr(federation, f"{part}_item")


def renumbered(federation: Federation, rng: np.random.Generator) -> Federation:
    """The federation with every client's items numbered in a random order of its own."""
    lists = {
        "items": federation.offsets,
        "barred": federation.barred_offsets,
        "val_item": federation.val_offsets,
        "test_item": federation.test_offsets,
        "val_candidates": federation.val_offsets,
        "test_candidates": federation.test_offsets,
    }
    new = {name: getattr(federation, name).copy() for name in lists}
    for client in range(federation.num_clients):
        number = rng.permutation(federation.num_items).astype(np.int32)
        for name, offsets in lists.items():
            own = slice(offsets[client], offsets[client + 1])
            new[name][own] = number[new[name][own]]
        own = slice(*federation.barred_offsets[client : client + 2])
        new["barred"][own] = np.sort(new["barred"][own])
    return dataclasses.replace(federation, **new)


def drawn_as_negative(config: Config, federation: Federation) -> dict[str, np.ndarray]:
    """Which held-out items and candidates a run draws as negatives of their client, in any round.

    Nothing is trained. The draws equal those of `run` with the same arguments, since they depend
    only on seed, round and client.

    Returns:
        for each of `val_item`, `test_item` (bool [n]), `val_candidates`, `test_candidates`
        (bool [n K]): True where drawn. n clients have such an item.
    """
    simulation = Simulation(config, federation, jax.devices()[:1])
    masks = jax.jit(partial(_drawn, simulation))(
        simulation.key_draws, simulation.lists, simulation.held_out
    )
    owners = {part: latest(federation, part)[0] for part in ("val", "test")}
    return {name: np.asarray(mask)[owners[name.partition("_")[0]]] for name, mask in masks.items()}


def _drawn(simulation: Simulation, key: Array, lists: Lists, held_out: HeldOut) -> dict[str, Array]:
    """The masks of `drawn_as_negative` for all clients, on device."""
    rounds = jnp.arange(simulation.config.rounds, dtype=jnp.int32)
    num_items = simulation.federation.num_items

    def participants(number):
        chosen = simulation.draws(key, number, lists).participants()
        return jnp.zeros(simulation.layout.num_clients, bool).at[chosen].set(True)

    takes_part = lax.map(participants, rounds)

    def of_client(size: SizeClass, client: Int[Array, ""]):
        def add(number, met):
            draws = simulation.draws(key, number, lists)
            items, labels, count, _ = draws.samples(client, size.positives, size.barred)
            negative = (jnp.arange(len(items)) < count) & (labels == 0) & takes_part[number, client]
            return met.at[jnp.where(negative, items, num_items)].set(True, mode="drop")

        met = lax.fori_loop(0, simulation.config.rounds, add, jnp.zeros(num_items, bool))
        rows = {name: items[start[client]] for name, (start, items) in looked_at.items()}
        return {name: met[items] for name, items in rows.items()}

    looked_at = {
        f"{name}_{kind}": (part.start, getattr(part, kind))
        for name, part in held_out._asdict().items()
        for kind in ("item", "candidates")
    }
    clients = simulation.layout.num_clients
    drawn = {
        name: jnp.zeros((clients, *items.shape[1:]), bool) for name, (_, items) in looked_at.items()
    }
    for size in simulation.layout.classes:
        # whole batches, so that they compile once; the last client fills the last batch
        room = -len(size.members[0]) % CLIENTS_AT_ONCE
        clients = jnp.asarray(np.pad(size.members[0], (0, room), mode="edge"))
        masks = lax.map(partial(of_client, size), clients, batch_size=CLIENTS_AT_ONCE)
        drawn = {name: mask.at[clients].set(masks[name]) for name, mask in drawn.items()}
    return drawn


CLIENTS_AT_ONCE = 16
"""Clients whose draws are repeated side by side; each takes a byte for every item."""


def _contains(
    federation: Federation, offsets: np.ndarray, values: np.ndarray, owner: np.ndarray,
    item: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """[n] whether each `item` is in the part of a ragged list that its `owner` has."""
    clients, number = np.arange(federation.num_clients), federation.num_items
    keys = np.repeat(clients, np.diff(offsets)) * number + values
    return np.isin(owner * number + item, keys)


def _coinciding(federation: Federation) -> int:
    """Clients whose validation item is their test item."""
    (val_owner, val), (test_owner, test) = (latest(federation, part) for part in ("val", "test"))
    number = federation.num_items
    return len(np.intersect1d(val_owner * number + val, test_owner * number + test))


def _others_known(federation: Federation, part: str) -> np.ndarray:
    """[C] number of items that the full ranking of `part` leaves out.

    These are the training items and, for test, the validation item, without the held-out item.
    """
    clients, number = np.arange(federation.num_clients), federation.num_items
    known = np.repeat(clients, np.diff(federation.offsets)) * number + federation.items
    if part == "test":
        owner, item = latest(federation, "val")
        known = np.concatenate([known, owner * number + item])
    owner, item = latest(federation, part)
    others = np.setdiff1d(known, owner * number + item)
    return np.bincount(others // number, minlength=federation.num_clients)

"""The protocol of an experiment: rules for the split, the negatives and the evaluation.

The released programs never draw a held-out item as a training negative. So even a client that
trains alone ranks it first. `leak-free` draws from all items outside the training set of the
client, as a real client would.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from fedem_jax.errors import UserError, nearest


@dataclass(frozen=True)
class Protocol:
    """The rules that decide what a reported number means."""

    name: str
    """Name under which results are reported."""
    negative_pool: Literal["unseen", "untrained"]
    """Items that training negatives are drawn from. `unseen` = items the client never interacted
    with; held-out items are excluded, which leaks. `untrained` = all outside its training set."""
    candidates: Literal["shared", "split"]
    """Sampled negatives of validation and test: `shared` = the same; `split` = disjoint."""
    selection: Literal["validation", "test", "last"]
    """The round whose test value the source of this protocol reports. The headline of a summary is
    always the best validation round. The best test value has its own entry."""
    ties: Literal["pessimistic", "average"]
    """Rank of a held-out item among equal scores: `pessimistic` = last; `average` = middle."""
    scale: Literal["logit", "probability"]
    """Scores for ranking: logits, or float32 probabilities, which tie at 1 once they saturate."""
    repeats: Literal["keep", "collapse"]
    """Repeated (user, item) rows: `keep` = all; `collapse` = only the first in time."""
    num_candidates: int = 99
    """Sampled negatives that a held-out item is ranked against."""
    min_interactions: int = 10
    """Least interactions of a user, counted after the rule for repeats; others are dropped."""

    # later than the first fingerprints: a rule at its default does not enter them
    split: Literal["leave-one-out", "ratio", "time", "given"] = "leave-one-out"
    """What is held out. `leave-one-out` = the two latest items of each client. `ratio` = the latest
    shares of each client. `time` = all rows from one moment on, for all clients. `given` = the rows
    of files of their own."""
    val_share: float = 0.1
    """Share of the interactions for validation, of a client (`ratio`) or of all (`time`)."""
    test_share: float = 0.1
    """Share of the interactions for test."""
    min_rating: float = 0.0
    """Least rating of an interaction; rows below are dropped. 0 = all ratings above 0 count."""
    min_item_interactions: int = 1
    """Least interactions of an item; rows of others are dropped before users are counted."""
    k_core: int = 0
    """If above 0, users and items with fewer than k interactions are dropped again and again, until
    none is left. `min_interactions` and `min_item_interactions` then hold at the end as well."""


SELECTED = {"validation": "headline", "test": "best_test", "last": "last"}
"""Entry of the summary of a run, by way of selecting the round."""

PROTOCOLS = {
    "leak-free": Protocol(
        name="leak-free",
        negative_pool="untrained",
        candidates="split",
        selection="validation",
        ties="pessimistic",
        scale="logit",
        repeats="collapse",
    ),
    # the released programs of the FedEM line (FedRAP, FedCA, FedEA, FedEM)
    "paper": Protocol(
        name="paper",
        negative_pool="unseen",
        candidates="shared",
        selection="test",
        ties="pessimistic",
        scale="probability",
        repeats="keep",
    ),
    # the released programs of the PFedRec line (PFedRec, GPFedRec, CoFedRec)
    "paper-p": Protocol(
        name="paper-p",
        negative_pool="unseen",
        candidates="split",
        selection="validation",
        ties="pessimistic",
        scale="probability",
        repeats="keep",
        min_interactions=3,
    ),
}


SWITCHES = tuple(field.name for field in dataclasses.fields(Protocol) if field.name != "name")
"""Names of the rules of a protocol."""

LATER = ("split", "val_share", "test_share", "min_rating", "min_item_interactions", "k_core")
"""Rules that fingerprints ignore at their defaults, so that those of earlier splits stay."""


def preset(name: str, **switches) -> Protocol:
    """A named protocol. If `switches` change a rule, it is called `<name>*`.

    Files of their own (`split="given"`) are used as they are: users are then not filtered by their
    number of interactions, unless `switches` says so.

    Raises:
        UserError: the name is unknown, or the shares leave nothing to train on.
    """
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol '{name}': {nearest(name, list(PROTOCOLS))}.")
    preset = PROTOCOLS[name]
    if switches.get("split") == "given":
        switches = {"min_interactions": 1} | switches
    changed = {key: value for key, value in switches.items() if getattr(preset, key) != value}
    rules = dataclasses.replace(preset, name=f"{name}*", **changed) if changed else preset
    if rules.val_share + rules.test_share >= 1:
        raise UserError(
            f"val_share, test_share: {rules.val_share:g} and {rules.test_share:g} leave nothing to "
            "train on; give shares whose sum is below 1."
        )
    return rules


def rules_of(protocol: str | Protocol, given: bool = False) -> Protocol:
    """A protocol by its name, or the one that is given.

    Args:
        protocol: a name, or what `preset` made.
        given: whether validation and test rows come apart (`split="given"`, if it is a name).

    Raises:
        UserError: the name is unknown.
    """
    if isinstance(protocol, Protocol):
        return protocol
    return preset(protocol, split="given") if given else preset(protocol)


def as_settings(rules: Protocol) -> dict[str, Any]:
    """The settings that describe a protocol: its name, and the rules in which it differs."""
    name = rules.name.rstrip("*")
    name = name if name in PROTOCOLS else "leak-free"
    changed = {key: getattr(rules, key) for key in SWITCHES}
    changed = {key: new for key, new in changed.items() if getattr(PROTOCOLS[name], key) != new}
    return {"protocol": name, **changed}


def switches_of(rules: Protocol) -> dict[str, Any]:
    """The rules by name, without later ones at their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(Protocol)}
    return {
        name: getattr(rules, name)
        for name in SWITCHES
        if name not in LATER or getattr(rules, name) != defaults[name]
    }

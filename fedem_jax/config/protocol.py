"""The protocol of an experiment: rules for the split, the negatives and the evaluation.

The released programs never draw a held-out item as a training negative. So even a client that
trains alone ranks it first. `leak-free` draws from all items outside the training set of the
client, as a real client would.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

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


def preset(name: str, **switches) -> Protocol:
    """A named protocol. If `switches` change a rule, it is called `<name>*`.

    Raises:
        UserError: the name is unknown.
    """
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol '{name}': {nearest(name, list(PROTOCOLS))}.")
    preset = PROTOCOLS[name]
    changed = {key: value for key, value in switches.items() if getattr(preset, key) != value}
    return dataclasses.replace(preset, name=f"{name}*", **changed) if changed else preset

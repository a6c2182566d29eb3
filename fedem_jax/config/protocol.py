"""How a federation is split, drawn from and judged: the protocol of an experiment, as a value.

The programs released with this line of papers never draw a held-out item as a training negative,
so a client that trains alone ranks it first; `leak-free` draws from everything outside the
client's training set, as a real client would.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fedem_jax.errors import UserError, nearest


@dataclass(frozen=True)
class Protocol:
    """Every choice that decides what a reported number means."""

    name: str
    """Name under which results are reported."""
    negative_pool: Literal["unseen", "untrained"]
    """Items that training negatives are drawn from: `unseen` = those the client never interacted
    with (held-out items are spared, which leaks); `untrained` = all outside its training set."""
    candidates: Literal["shared", "split"]
    """Whether validation and test rank against the same sampled negatives or disjoint ones."""
    selection: Literal["validation", "test", "last"]
    """The round whose test value the source of this protocol reports. The headline of a summary is
    always taken at the best validation round; the best test value has a name of its own."""
    ties: Literal["pessimistic", "average"]
    """Rank of a held-out item among equal scores: below all of them, or in their middle."""
    scale: Literal["logit", "probability"]
    """What is ranked: logits, or float32 probabilities, which tie at 1 once they saturate."""
    repeats: Literal["keep", "collapse"]
    """Repeated (user, item) rows: kept as they are, or only the first in time before the split."""
    num_candidates: int = 99
    """Sampled negatives that a held-out item is ranked against."""
    min_interactions: int = 10
    """Users with fewer interactions are dropped (counted after the rule for repeats)."""


SELECTED = {"validation": "headline", "test": "best_test", "last": "last"}
"""Entry of a run's summary that each way of selecting a round reports."""

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
"""The choices that make up a protocol."""


def preset(name: str, **switches) -> Protocol:
    """The preset `name`, with single switches replaced; it is then named `<name>*`.

    Raises:
        UserError: the preset is unknown.
    """
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol '{name}': {nearest(name, list(PROTOCOLS))}.")
    preset = PROTOCOLS[name]
    changed = {key: value for key, value in switches.items() if getattr(preset, key) != value}
    return dataclasses.replace(preset, name=f"{name}*", **changed) if changed else preset

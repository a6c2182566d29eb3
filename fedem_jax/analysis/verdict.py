"""What an audit found, and what it concludes from that: figures and reasons."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from fedem_jax.config.protocol import Protocol
from fedem_jax.errors import UserError

AUDIT = "audit.json"
"""All figures of an audit."""

LEVEL = 0.95
"""Confidence of the intervals that are shown."""
DECISIVE = 0.001
"""Local-only alone convicts a protocol if chance would reach its hits less often than this, for
validation or test. A 95 % interval lies above chance in one fair run of 40, too often for that."""
TOLERATED = 2.0
"""Local-only at this multiple of chance must lie outside the interval, or the run is too small."""


@dataclass(frozen=True)
class Share:
    """`count` of `total`."""

    count: int
    total: int

    def __add__(self, other: Share) -> Share:
        return Share(self.count + other.count, self.total + other.total)

    def __str__(self) -> str:
        return f"{self.count:,} of {self.total:,}"


@dataclass(frozen=True)
class Figures:
    """What was found out about one held-out item per client, validation or test. HR is HR@K."""

    local: Share
    """Clients whose Local-only model has the item among its first K, of sampled candidates."""
    chance: float
    """HR of a random order of the sampled candidates, K / (candidates + 1)."""
    local_full: float
    """HR of Local-only among all items outside the client's training set."""
    chance_full: float
    """HR of a random order of those, the mean over clients of K / number of items."""
    popularity: float
    """HR, among sampled candidates, of ranking by the number of clients that trained on an item."""
    popularity_full: float
    """HR of the same among all items."""
    recurring: Share
    """Held-out items that stand among the client's training rows as well."""
    spared: Share
    """Of the other held-out items, those that can never be drawn as the client's negatives."""
    drawn: Share
    """Of the same held-out items, those that were drawn in some round."""
    candidates_drawn: Share
    """Sampled candidates that were drawn in some round, over all clients."""

    @property
    def hit_rate(self) -> float:
        """HR of Local-only among sampled candidates."""
        return self.local.count / self.local.total

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson interval of `hit_rate`; exact, since the clients are independent."""
        low, high = binomtest(*dataclasses.astuple(self.local)).proportion_ci(LEVEL, "exact")
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """Probability that a random order has as many hits or more."""
        test = binomtest(*dataclasses.astuple(self.local), self.chance, alternative="greater")
        return float(test.pvalue)


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    dataset: str
    protocol: Protocol
    fingerprint: str
    seed: int
    rounds: int
    top_k: int
    """K."""
    clients: int
    items: int
    val: Figures
    test: Figures
    coinciding: int
    """Clients whose validation item is their test item."""
    tied_users: int
    """Clients whose split hangs on equal timestamps."""
    versions: dict[str, str]

    @property
    def evidence(self) -> list[str]:
        """Sentences, each of which shows a leak; empty if nothing does."""
        found, name = [], f"HR@{self.top_k}"
        spared, drawn = self.val.spared + self.test.spared, self.val.drawn + self.test.drawn
        if spared.count:
            found.append(
                f"{spared} held-out items can never be drawn as a negative of their client: "
                f"{drawn.count:,} were in {self.rounds} rounds, but "
                f"{self.test.candidates_drawn} test candidates were. Training pushes the "
                "candidates down and spares the held-out item."
            )
        for part, figures in self._parts():
            if figures.p_value < DECISIVE:
                found.append(
                    f"Local-only, which knows nothing of unseen items, ranks {part} items above "
                    f"chance: {name} {_estimate(figures)}, chance {figures.chance:.4f}."
                )
        recurring = self.val.recurring + self.test.recurring
        if recurring.count:
            found.append(f"{recurring} held-out items recur in their client's training rows.")
        if self.coinciding:
            found.append(
                f"{self.coinciding:,} of {self.clients:,} clients have the same validation and "
                "test item, so that a choice on validation is one on test."
            )
        return found

    @property
    def doubts(self) -> list[str]:
        """Sentences that say why an absence of evidence means little; empty if it does mean
        something."""
        found = []
        for part, figures in self._parts():
            low, high = figures.interval
            told = f"Local-only's HR@{self.top_k} on {part} items is {_estimate(figures)}, "
            if low > figures.chance:
                found.append(
                    f"{told}above chance ({figures.chance:.4f}), but chance does as much in one of "
                    f"{1 / figures.p_value:.0f} fair runs; repeat with another --seed."
                )
            elif high >= min(1.0, TOLERATED * figures.chance):
                found.append(
                    f"{told}an interval that holds twice the chance level ({figures.chance:.4f}): "
                    f"{self.clients:,} clients are too few to tell."
                )
        return found

    @property
    def leaks(self) -> bool:
        """Whether there is evidence of a leak."""
        return bool(self.evidence)

    @property
    def verdict(self) -> str:
        """`leaks`, `does not leak`, or `cannot tell`."""
        return "leaks" if self.leaks else "cannot tell" if self.doubts else "does not leak"

    @property
    def reasons(self) -> list[str]:
        """Sentences that carry the verdict."""
        drawn = self.val.drawn + self.test.drawn
        fair = [
            f"Held-out items are drawn as negatives like all others: {drawn} were in {self.rounds} "
            f"rounds, and {self.test.candidates_drawn} test candidates.",
            f"Local-only stays at chance level: HR@{self.top_k} {_estimate(self.test)} on test, "
            f"{_estimate(self.val)} on validation, chance {self.test.chance:.4f}.",
            "No held-out item recurs in its client's training rows.",
        ]
        return self.evidence or self.doubts or fair

    def as_dict(self) -> dict[str, Any]:
        """All figures and the verdict, for JSON."""
        values = dataclasses.asdict(self)
        for part, figures in (("val", self.val), ("test", self.test)):
            values[part] |= {
                "hit_rate": figures.hit_rate,
                "interval": figures.interval,
                "p_value": figures.p_value,
            }
        return {"verdict": self.verdict, "leaks": self.leaks, "reasons": self.reasons} | values

    def save(self, directory: str | Path) -> None:
        """Write `audit.json` into a folder, which is made if need be.

        Raises:
            UserError: nothing can be written there.
        """
        path = Path(directory) / AUDIT
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.as_dict(), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); give another --out."
            ) from None

    def _parts(self) -> tuple[tuple[str, Figures], ...]:
        return ("validation", self.val), ("test", self.test)


def _estimate(figures: Figures) -> str:
    low, high = figures.interval
    return f"{figures.hit_rate:.4f} [{low:.4f}, {high:.4f}]"

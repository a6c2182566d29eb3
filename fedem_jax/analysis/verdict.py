"""The figures of an audit, and its verdict with reasons."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from fedem_jax.config.protocol import Protocol
from fedem_jax.higher import higher
from fedem_jax.storage.files import disk_errors

AUDIT = "audit.json"
"""File with all figures of an audit."""

LEVEL = 0.95
"""Confidence of the intervals that are shown."""
DECISIVE = 0.001
"""Level of the test on the hits of Local-only, for validation and for test. The intervals would not
do: without a leak, one in 40 lies above chance."""
TOLERATED = 2.0
"""The intervals must exclude this multiple of chance, or the run is too small to tell."""


RATES = ("chance", "popularity", "local_full", "chance_full", "popularity_full")
COUNTS = ("recurring", "spared", "drawn", "candidates_drawn")
"""Columns of the table: fields of `Figures`."""


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
    """The figures for the validation items, or for the test items. HR is HR@K."""

    local: Share
    """Clients whose Local-only model ranks the item in the first K among sampled candidates."""
    chance: float
    """HR of a random order of the sampled candidates, K / (candidates + 1)."""
    local_full: float
    """HR of Local-only among all items outside the client's training set."""
    chance_full: float
    """HR of a random order of these items: the mean over clients of K / number of items."""
    popularity: float
    """HR, among sampled candidates, of ranking by the number of clients that trained on an item."""
    popularity_full: float
    """HR of the same ranking among all items."""
    recurring: Share
    """Held-out items that are also among the client's training rows."""
    spared: Share
    """Non-recurring held-out items that can never be drawn as the client's negatives."""
    drawn: Share
    """Non-recurring held-out items that were drawn as negatives in at least one round."""
    candidates_drawn: Share
    """Sampled candidates that were drawn as negatives in at least one round, over all clients."""

    @property
    def hit_rate(self) -> float:
        """HR of Local-only among sampled candidates."""
        return self.local.count / self.local.total

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson interval of `hit_rate`, exact for independent clients."""
        low, high = binomtest(*dataclasses.astuple(self.local)).proportion_ci(LEVEL, "exact")
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """Probability that a random order has at least as many hits."""
        test = binomtest(*dataclasses.astuple(self.local), self.chance, alternative="greater")
        return float(test.pvalue)


@dataclass(frozen=True)
class Audit:
    """The result of an audit."""

    dataset: str
    protocol: Protocol
    fingerprint: str
    seed: int
    rounds: int
    top_k: int
    clients: int
    items: int
    val: Figures
    test: Figures
    coinciding: int
    """Clients whose validation item is their test item."""
    tied_users: int
    """Clients whose split depends on the order of equal timestamps."""
    versions: dict[str, str]

    def __repr__(self) -> str:
        return (
            f"<Audit: protocol {self.protocol.name} on {self.dataset} {self.verdict}; Local-only "
            f"has test HR@{self.top_k} {self.test.hit_rate:.4f}, chance {self.test.chance:.4f}>"
        )

    @property
    def table(self) -> pd.DataFrame:
        """A row for validation and one for test.

        It has HR@K of Local-only with its 95 % interval, of a random order and of popularity. It
        also counts the held-out items that training met.
        """
        rows = {}
        for part, figures in self._parts():
            low, high = figures.interval
            rows[part] = {"local-only": figures.hit_rate, "low": low, "high": high}
            rows[part] |= {name: getattr(figures, name) for name in RATES}
            rows[part] |= {name: getattr(figures, name).count for name in COUNTS}
        return pd.DataFrame.from_dict(rows, orient="index")

    def plot(self, path: str | Path) -> Path:
        """Draw the levels of Local-only, chance and popularity into a file, PNG or any format that
        Matplotlib knows."""
        higher("analysis.audit_chart").levels_chart(self, path)
        return Path(path)

    @property
    def evidence(self) -> list[str]:
        """Sentences, each of which shows a leak; empty without a leak."""
        evidence, name = [], f"HR@{self.top_k}"
        spared, drawn = self.val.spared + self.test.spared, self.val.drawn + self.test.drawn
        if spared.count:
            evidence.append(
                f"{spared} held-out items can never be drawn as a negative of their client: "
                f"{drawn.count:,} were in {self.rounds} rounds, but "
                f"{self.test.candidates_drawn} test candidates were. Training pushes the "
                "candidates down and spares the held-out item."
            )
        for part, figures in self._parts():
            if figures.p_value < DECISIVE:
                evidence.append(
                    f"Local-only, which knows nothing of unseen items, ranks {part} items above "
                    f"chance: {name} {_estimate(figures)}, chance {figures.chance:.4f}."
                )
        recurring = self.val.recurring + self.test.recurring
        if recurring.count:
            evidence.append(f"{recurring} held-out items recur in their client's training rows.")
        if self.coinciding:
            evidence.append(
                f"{self.coinciding:,} of {self.clients:,} clients have the same validation and "
                "test item, so that a choice on validation is one on test."
            )
        return evidence

    @property
    def doubts(self) -> list[str]:
        """Sentences why missing evidence does not clear the protocol; empty if it does."""
        doubts = []
        for part, figures in self._parts():
            low, high = figures.interval
            hr = f"Local-only's HR@{self.top_k} on {part} items is {_estimate(figures)}, "
            if low > figures.chance:
                doubts.append(
                    f"{hr}above chance ({figures.chance:.4f}), but chance does as much in one of "
                    f"{1 / figures.p_value:.0f} fair runs; repeat with another --seed."
                )
            elif high >= min(1.0, TOLERATED * figures.chance):
                doubts.append(
                    f"{hr}an interval that holds twice the chance level ({figures.chance:.4f}): "
                    f"{self.clients:,} clients are too few to tell."
                )
        return doubts

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
        """The sentences behind the verdict."""
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
        derived = ("hit_rate", "interval", "p_value")
        for part, figures in (("val", self.val), ("test", self.test)):
            values[part] |= {name: getattr(figures, name) for name in derived}
        return {"verdict": self.verdict, "leaks": self.leaks, "reasons": self.reasons} | values

    def save(self, directory: str | Path) -> None:
        """Write `audit.json` into a folder, which is made if missing.

        Raises:
            UserError: it cannot be written.
        """
        path = Path(directory) / AUDIT
        with disk_errors(path, "give another --out"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def _parts(self) -> tuple[tuple[str, Figures], ...]:
        return ("validation", self.val), ("test", self.test)


def _estimate(figures: Figures) -> str:
    low, high = figures.interval
    return f"{figures.hit_rate:.4f} [{low:.4f}, {high:.4f}]"

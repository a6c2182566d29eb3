"""What a run tells and writes, as types: its setting, its records and its summary."""

from typing import Any, Literal, NotRequired, TypedDict

from fedem_jax.config.base import Config
from fedem_jax.data.federation import Federation

Part = Literal["val", "test", "val_full", "test_full"]
"""Validation or test item, among the sampled candidates or among all items (`full`)."""

PARTS: tuple[Part, ...] = ("val", "test", "val_full", "test_full")

Metrics = dict[str, float]
"""Means over the clients by name, such as `hr@10`, `ndcg@10`, `mrr`."""


class Setting(TypedDict):
    """What is fixed before a run starts."""

    config: Config
    """All settings."""
    federation: Federation
    """The data."""
    device: str
    """Number and kind of the devices."""
    versions: dict[str, str]
    """Versions of the packages that a result may depend on."""


class Record(TypedDict):
    """One evaluated round: a line of `metrics.jsonl`."""

    round: int
    """Rounds done, from 1."""
    loss: float
    """Mean loss of the clients that trained in this round."""
    epochs: float
    """Mean number of their local epochs."""
    val: Metrics
    test: Metrics
    val_full: Metrics
    test_full: Metrics
    coverage: float
    """Share of all items that some client's list holds."""
    bytes_up: int
    """Bytes that all clients upload in a round."""
    bytes_down: int
    """Bytes that all clients download in a round."""
    protocol: str
    """Name of the protocol; a star marks changed switches."""
    fingerprint: str
    """Fingerprint of the split."""
    skipped: NotRequired[int]
    """Clients left out of the aggregation since the last record, where a method may skip some."""
    seconds: NotRequired[float]
    """Time of a round, where it is measured."""
    rho: NotRequired[list[Any]]
    """Counts as in `fedem_jax.evaluation.rho`, where rho is learned. They go to `rho.jsonl`."""


class Evaluation(TypedDict):
    """Metrics of all parts after one round."""

    round: int
    """Rounds done."""
    coverage: float
    """Share of all items that some client's list holds."""
    val: Metrics
    test: Metrics
    val_full: Metrics
    test_full: Metrics


class Headline(Evaluation):
    """The best validation round."""

    interval: dict[str, dict[str, list[float]]]
    """Bootstrap interval of each test metric, by part and metric: low end, high end."""


class BestTest(TypedDict):
    """The round with the best test value, which no honest choice can know."""

    round: int
    """Rounds done."""
    test: Metrics
    test_full: Metrics


class Chance(TypedDict):
    """Expected test metrics of a random order."""

    test: Metrics
    test_full: Metrics


class Activity(TypedDict):
    """Test metrics of a quartile of the clients by length of history."""

    quartile: int
    """From 1, the shortest histories, to 4."""
    history: list[int]
    """Shortest and longest history."""
    clients: int
    """Clients in the quartile."""
    test: Metrics
    test_full: Metrics


class Outcome(TypedDict):
    """What the records of a run say."""

    method: str
    dataset: str
    protocol: str
    """Name of the protocol; a star marks changed switches."""
    protocol_switches: dict[str, Any]
    """Every switch of the protocol and its value."""
    fingerprint: str
    """Fingerprint of the split."""
    seed: int
    rounds: int
    """Rounds of the run."""
    top_k: int
    """K of the metrics that the round is chosen by."""
    headline: Headline
    best_test: BestTest
    last: Evaluation
    """The last round."""
    selected: Literal["headline", "best_test", "last"]
    """The entry that the protocol's own selection reports."""
    chance: Chance
    by_activity: list[Activity]
    """Quartiles from the shortest histories up; an empty one is left out."""
    clients: int
    """Clients of the federation."""
    items: int
    """Items of the federation."""
    interactions: int
    """Interactions, held-out ones included."""
    bytes_up: int
    """Bytes that all clients upload in the run."""
    bytes_down: int
    """Bytes that all clients download in the run."""


class Summary(Outcome):
    """What a run ended with: `summary.json`."""

    compile_seconds: float
    """Time of compiling, over all parts of the run."""
    seconds_per_round: float
    """Mean time of a round with its evaluation, without compiling."""
    resumed: list[int]
    """Rounds after which the run was resumed."""
    device: str
    """Number and kind of the devices."""
    versions: dict[str, str]
    """Versions of the packages that a result may depend on."""

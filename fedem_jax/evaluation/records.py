"""Types of what a run reports and writes: its setting, its records and its summary."""

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
    federation: Federation
    device: str
    """Number and kind of the devices."""
    versions: dict[str, str]
    """Versions of the packages that a result may depend on."""
    kept_bytes: NotRequired[int]
    """Bytes on disk of the states that the run keeps."""


class Evaluation(TypedDict):
    """Metrics of all parts after a round."""

    round: int
    """Rounds done, from 1."""
    coverage: float
    """Share of all items that are in the list of at least one client."""
    gini: NotRequired[float]
    """Gini coefficient of how often the items are listed; older records have none."""
    novelty: NotRequired[float]
    """Mean self-information of the listed items, bits; older records have none."""
    val: Metrics
    test: Metrics
    val_full: Metrics
    test_full: Metrics


class Record(Evaluation):
    """One evaluated round: a line of `metrics.jsonl`."""

    loss: float
    """Mean loss of the clients that trained in this round, as their method has it: nats for the
    loss of a sample, a weighted squared error over all items with a closed form."""
    epochs: float
    """Mean number of their local epochs."""
    bytes_up: int
    """Bytes that all clients upload in a round."""
    bytes_down: int
    """Bytes that all clients download in a round."""
    protocol: str
    """Name of the protocol; a star marks changed switches."""
    fingerprint: str
    """Fingerprint of the split."""
    skipped: NotRequired[int]
    """Clients left out of the aggregation since the last record, if the method may skip some."""
    dropped: NotRequired[int]
    """Uploads of the round that did not arrive, if some are to get lost."""
    seconds: NotRequired[float]
    """Time of a round, if measured."""
    rho: NotRequired[list[Any]]
    """Counts of `fedem_jax.evaluation.rho`, if the method learns rho; stored in `rho.jsonl`."""


class Headline(Evaluation):
    """The best validation round."""

    interval: dict[str, dict[str, list[float]]]
    """Bootstrap interval [low, high] of each test metric, by part and metric."""


class BestTest(TypedDict):
    """The round with the best test value, which cannot be known without looking at test."""

    round: int
    test: Metrics
    test_full: Metrics


class TestMetrics(TypedDict):
    """Test metrics by part."""

    test: Metrics
    test_full: Metrics


class Activity(TypedDict):
    """Test metrics of a quartile of the clients, by the length of their history."""

    quartile: int
    """1 (shortest histories) to 4."""
    history: list[int]
    """Shortest and longest history, training items."""
    clients: int
    test: Metrics
    test_full: Metrics


class Privacy(TypedDict):
    """What normal noise on bounded uploads guarantees; docs/privacy.md says against whom."""

    unit: str
    """What is protected: all data and all uploads of a `client`."""
    delta: float
    epsilon: NotRequired[float]
    """Against the server, if a client uploads in every round; needs `dp-accounting`."""
    epsilon_of_means: NotRequired[float]
    """Against who sees nothing but the means, and not who is in them; where all is plain means."""


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
    cleaning: NotRequired[dict[str, int]]
    """Rows, users and items that each step of the preparation read, dropped or kept."""
    evaluated: NotRequired[dict[str, int]]
    """Clients that have a held-out item, for `val` and `test`."""
    columns_read: NotRequired[str]
    """What became user, item, rating and time, and how that was decided."""
    seed: int
    rounds: int
    """Rounds that were run."""
    planned_rounds: NotRequired[int]
    """Rounds of the settings, if the run ended before them."""
    top_k: int
    """K of the metrics that the round is chosen by."""
    headline: Headline
    best_test: BestTest
    last: Evaluation
    """The last round."""
    selected: Literal["headline", "best_test", "last"]
    """The entry that the protocol reports."""
    chance: TestMetrics
    """Expected metrics of a random order."""
    popularity: NotRequired[TestMetrics]
    """Metrics of a ranking by popularity; runs of earlier versions lack it."""
    worst_decile: NotRequired[TestMetrics]
    """Test metrics of the tenth of the clients with the lowest values, at the headline round."""
    by_activity: list[Activity]
    """Quartiles from the shortest histories up; an empty one is left out."""
    privacy: NotRequired[Privacy]
    """Epsilon and delta, if uploads have a bound and normal noise."""
    clients: int
    items: int
    interactions: int
    """Held-out interactions included."""
    bytes_up: int
    """Bytes that all clients upload in the run."""
    bytes_down: int
    """Bytes that all clients download in the run."""


class StartedFrom(TypedDict):
    """The state that a run started from, if not from the initial parameters."""

    run: str
    """Directory of the run that it comes from."""
    round: int
    """Its best validation round."""
    fingerprint: str
    """Fingerprint of its split."""


class Summary(Outcome):
    """The result of a run: `summary.json`."""

    compile_seconds: float
    """Time of compiling, over all parts of a resumed run."""
    seconds_per_round: float
    """Mean time of a round with its evaluation, without compiling."""
    ended_early: NotRequired[str]
    """Why an observer ended the run before its last round, if one did."""
    start: NotRequired[StartedFrom]
    """Where the parameters come from, if not from the initial ones."""
    resumed: list[int]
    """Rounds after which the run was resumed."""
    device: str
    """Number and kind of the devices."""
    versions: dict[str, str]
    """Versions of the packages that a result may depend on."""


class Alternative(TypedDict):
    """Test metrics of a run or of one of its alternatives, at its best validation round."""

    name: str
    settings: dict[str, Any]
    """The settings that differ from those of the run."""
    round: int
    test: dict[str, float]
    test_full: dict[str, float]
    interval: dict[str, dict[str, list[float]]]
    """Bootstrap interval [low, high] of each metric, by part and metric."""
    lead: dict[str, dict[str, list[float]]]
    """Of the run over it: mean of the paired differences over the clients and its standard error,
    by part and metric."""

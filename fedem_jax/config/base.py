"""`Config`: the settings of every experiment. `fedem.py` and `settings.py` hold its subclasses."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from fedem_jax.config.protocol import PROTOCOLS, SWITCHES, Protocol, preset
from fedem_jax.config.ranges import Count, Natural, Portion, Positive, Range, Share, Weight, check
from fedem_jax.config.values import from_data, with_ranges
from fedem_jax.errors import UserError, nearest
from fedem_jax.storage.files import put


@dataclass(frozen=True)
class Config:
    """Settings that all methods share; each method has a subclass that describes its experiments.

    The defaults are those of the released program of a method. Only the protocol differs: the
    default `leak-free` avoids the leak of the released programs.

    Raises:
        UserError: a value has another type or is out of range. The sentence names the field and
            what it accepts.
    """

    switches: ClassVar[tuple[str, ...]] = ()
    """Numbers for which 0 leaves a part out of the compiled program."""
    central: ClassVar[bool] = False
    """Whether all data are in one place, as for a reference that is not federated."""
    one_round: ClassVar[bool] = False
    """Whether the first round computes all, so that a comparison runs no more of them."""
    block_on_cpu: ClassVar[int] = 1
    """Clients side by side on a CPU, if `block_size` does not say it."""
    if_not_finite: ClassVar[str] = ""
    """Cause and remedy of numbers that are not finite; empty: steps that are too large."""
    variants: ClassVar[tuple[str, ...]] = ()
    """Settings, `FIELD=VALUE`, that a comparison of all methods also runs, beside the defaults."""

    dataset: str = "synthetic"
    """Name of a known data set (`fedem data` lists them) or path of a file of your own."""
    method: str = ""
    """Federated method; `fedem train --help --method NAME` shows the settings of each."""
    protocol: str = "leak-free"
    """Rules for split, negatives and selection: leak-free, paper or paper-p."""
    rounds: Count = 100
    """Communication rounds."""
    seed: Natural = 0
    """Seed of all randomness: candidates, initial parameters, draws of every round."""
    out: str = ""
    """Run directory; empty: results/<dataset>-<method>-<protocol>-seed<seed>."""
    eval_every: Count = 1
    """Rounds between two evaluations, which run as one compiled call."""
    patience: Natural = 0
    """The run ends after so many evaluated rounds in a row without a better HR@K on validation; 0:
    it runs all rounds."""

    # the model and its local training
    dim: Count = 16
    """Width of the embeddings, d."""
    local_epochs: Count = 10
    """Maximum number of passes over the samples of a round."""
    batch_size: Count = 256
    """Samples of a local step; the last batch of an epoch may hold fewer."""
    num_negative: Count = 4
    """Negatives for each training positive, drawn anew in every round."""
    init_scale: Positive = 1.0
    """Standard deviation of the initial item table and user vector."""
    bce: Literal["logit", "probability"] = "probability"
    """Form of the cross-entropy: probability = as released, its gradient vanishes at saturation;
    logit = the stable form."""

    client_fraction: Share = 1.0
    """Share of the clients that train in a round."""
    dropout: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of a round's uploads that never arrive, rounded down; at least one arrives. These
    clients have trained, and keep what never leaves them."""
    stragglers: Portion = 0.0
    """Chance of a training client to run only a part of its local epochs, drawn in each round. It
    runs from 1 to all but one of them, each number as likely."""

    on_nonfinite: Literal["stop", "skip-client"] = "stop"
    """What to do if a loss, parameter or score is not finite. stop = end the run. skip-client =
    leave a client out of a round if its local training is not finite; it sends nothing new, and the
    record counts it as `skipped`. Values that are not finite at the server always end the run."""

    # evaluation
    top_k: Count = 10
    """Length K of the recommended list. HR@K and NDCG@K on validation choose the round."""
    per_client: bool = False
    """Write the ranks of every client at the best validation round to per_client.parquet."""

    # checkpoints, for `fedem train --resume`
    checkpoint_every: Natural = 0
    """Rounds between two checkpoints, saved at evaluated rounds; 0: by time alone."""
    checkpoint_minutes: Weight = 5.0
    """Minutes between two checkpoints; 0: by rounds alone. If both are 0, none is written before
    the end. Else there is also one on Ctrl-C or SIGTERM. Each saves the latest state and the best
    on validation."""
    keep: Literal["best-and-last", "none"] = "best-and-last"
    """States of all parameters that stay when the run ends, for `fedem recommend`, `fedem export`
    and --start. best-and-last = those of the best validation round and of the last round; none =
    none, in memory or on disk."""
    start: str = ""
    """Directory of a finished run whose best state this run starts from; empty: from the initial
    parameters. Method, sizes and labels must be the same."""

    # single rules; empty or 0: as in the protocol
    negative_pool: Literal["", "unseen", "untrained"] = ""
    """Items for training negatives: unseen = those the client never touched (leaks); untrained =
    all outside its training set."""
    candidates: Literal["", "shared", "split"] = ""
    """Candidates of validation and test: shared = the same items; split = disjoint samples."""
    selection: Literal["", "validation", "test", "last"] = ""
    """Round whose test value the protocol reports."""
    ties: Literal["", "pessimistic", "average"] = ""
    """Rank among equal scores: pessimistic = all others come first; average = half of them do."""
    scale: Literal["", "logit", "probability"] = ""
    """Scores for ranking: logits, or float32 probabilities, which tie once they saturate."""
    repeats: Literal["", "keep", "collapse"] = ""
    """Repeated (user, item) rows: keep = all; collapse = only the first in time."""
    num_candidates: Natural = 0
    """Sampled items that a held-out item is ranked against."""
    min_interactions: Natural = 0
    """Least interactions of a user; users with fewer are dropped."""
    split: Literal["", "leave-one-out", "ratio", "time", "given"] = ""
    """What is held out: leave-one-out = the two latest items of each client; ratio = the latest
    shares of each client; time = all rows from one moment on; given = --val-file, --test-file."""
    val_share: Annotated[float, Range(0, 0.9)] = 0.0
    """Share for validation (split = ratio or time)."""
    test_share: Annotated[float, Range(0, 0.9)] = 0.0
    """Share for test (split = ratio or time)."""
    min_rating: Weight = 0.0
    """Least rating of an interaction; rows below are dropped first."""
    min_item_interactions: Natural = 0
    """Least interactions of an item; rows of others are dropped before users are counted."""
    k_core: Natural = 0
    """Drop users and items with fewer than k interactions, again and again, until none is left."""

    # how the data are read
    val_file: str = ""
    """File of the held-out rows for validation (split = given); `dataset` holds those to train
    on. All three are read with the same settings."""
    test_file: str = ""
    """File of the held-out rows for test (split = given)."""
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""
    columns: tuple[str, ...] = ()
    """Own file: names or positions (from 0) of user, item, rating and timestamp. The last two may
    be left out. Empty: found by their usual names; without names, the first ones in this order."""
    separator: str = ""
    """Own file: column separator. Empty: found in the first lines."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Own file: whether the first line names the columns. auto = it does if it names user and item
    in a usual way."""
    encoding: str = ""
    """Own file: encoding of the text. Empty: UTF-8 or UTF-16, else cp1252 as a guess."""
    decimal: Literal["", ".", ","] = ""
    """Own file: decimal point. Empty: the point, or the comma where it is beyond doubt."""
    order: Literal["", "file", "item-appearance", "random"] = ""
    """Own file: order of time if the file has none. file = the rows are in order of time;
    item-appearance = by the first row of the item, as papers do for FilmTrust; random = drawn by
    the seed."""
    cohort: str = ""
    """Own file: name or position of a column that declares the cohort of a user, such as its
    country; see aggregation = cohort."""
    ties_latest: Literal["first", "last"] = "first"
    """Which row of the file is the latest among equal times of a user."""

    # speed and memory
    block_size: Natural = 0
    """Clients that train at the same time; 0: chosen for the device."""
    size_classes: Natural = 0
    """Maximum number of size classes of clients; 0: as few as keep the padding small. On a CPU a
    class must also save more time than it takes to compile."""
    client_memory: Literal["device", "host"] = "device"
    """Where the state of the clients is kept: device = on the devices; host = in the memory of the
    host, and only the participants of a round are on the devices. Results are the same. No effect
    where all data are in one place."""
    gpu_loops: Literal["graph", "host"] = "graph"
    """Who runs the loops of a round on an NVIDIA GPU: graph = CUDA graphs that hold whole loops;
    host = the host starts each pass, which takes longer."""
    table_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of stored and sent item tables. bfloat16 halves memory and traffic and changes
    the result; training stays in float32."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = from_data(type(self), field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.method != type(self).method:
            raise UserError(
                f"method: these are settings of {type(self).method or 'no method'}, not of "
                f"'{self.method}'; use preset(method='{self.method}')."
            )
        if self.protocol not in PROTOCOLS:
            hint = nearest(self.protocol[:40], list(PROTOCOLS))
            raise UserError(f"protocol: {reprlib.repr(self.protocol)} is unknown; {hint}.")
        for name, kind in with_ranges(type(self)).items():
            check(name, kind, getattr(self, name))
        for name, why in self.refusals().items():
            if getattr(self, name):
                raise UserError(f"{name}: {self.method} has no use for it, since {why}; give 0.")

    def refusals(self) -> dict[str, str]:
        """Names of settings that have to be 0 beside the others, and why."""
        if self.central:
            return dict.fromkeys(("dropout", "stragglers"), "all data lie in one place")
        if self.local_epochs == 1:
            return {"stragglers": "one local epoch has no parts"}
        return {}

    def round_sizes(self, num_clients: int) -> tuple[int, int]:
        """Numbers of clients that train in a round, and that are aggregated; at least 1 each."""
        participants = max(1, share_of(num_clients, self.client_fraction))
        uploads = self.uploads(participants)
        return participants, uploads - self.lost(uploads)

    def uploads(self, participants: int) -> int:
        """How many of so many participants upload."""
        return participants

    def lost(self, uploads: int) -> int:
        """How many of so many uploads never arrive."""
        return min(share_of(uploads, self.dropout), uploads - 1)

    @property
    def clients_on_host(self) -> bool:
        """Whether the state of the clients is kept on the host."""
        return self.client_memory == "host" and self.can_wait_on_host

    @property
    def can_wait_on_host(self) -> bool:
        """Whether the state of the clients can be kept on the host."""
        return not self.central

    def without_effect(self) -> tuple[str, ...]:
        """Names of settings that change nothing about an experiment with these settings."""
        return ()

    def as_program(self, numbers: Collection[str]) -> Self:
        """The settings that a compiled program depends on.

        Settings that the program takes as arguments get neutral values. Two trials with equal
        results of this method can be stacked.

        Args:
            numbers: names of the settings that are arguments, the fields of `Hyper` of the method.
        """
        neutral: dict[str, Any] = {"seed": 0, "out": ""}
        for field in dataclasses.fields(self):
            if field.name in numbers and field.name in self.switches:
                neutral[field.name] = float(getattr(self, field.name) > 0)
            elif field.name in numbers:
                neutral[field.name] = field.default
        return dataclasses.replace(self, **neutral)

    def lighter(self) -> list[list[dict[str, Any]]]:
        """Changes of a single setting that save memory: lists, each from the smallest change up."""
        halved = [{"dim": self.dim >> n} for n in range(1, self.dim.bit_length())]
        half_bytes = [{"table_dtype": "bfloat16"}] if self.table_dtype == "float32" else []
        return [halved, half_bytes]

    def rules(self) -> Protocol:
        """The protocol, with the single rules that are set here."""
        switches = {name: getattr(self, name) for name in SWITCHES if getattr(self, name)}
        if any(getattr(self, name) for name in FILES):
            switches = {"split": "given"} | switches
        return preset(self.protocol, **switches)

    def run_directory(self) -> Path:
        """Folder of the run: `out`, or a name made of data set, method, protocol and seed."""
        if self.out:
            return Path(self.out)
        stem = Path(self.dataset).stem or "data"
        return Path("results") / f"{stem}-{self.method}-{self.protocol}-seed{self.seed}"

    def saves(self) -> bool:
        """Whether the run writes checkpoints before its end."""
        return self.checkpoint_every > 0 or self.checkpoint_minutes > 0

    def save(self, path: Path) -> None:
        """Write all settings as JSON, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        put(path, lambda path: path.write_text(text))


def share_of(number: int, share: float) -> int:
    """A share of a number of clients, rounded down as in the released programs. What lies below an
    integer by rounding error alone is that integer: 0.29 of 100 are 29, though 100 * 0.29 is
    28.999999999999996."""
    return math.floor(number * share + 1e-9)


READING = (
    "columns",
    "separator",
    "header",
    "encoding",
    "decimal",
    "order",
    "cohort",
    "ties_latest",
)
"""Settings that say how a file is read, the fields of `fedem_jax.data.fileformat.FileFormat`."""

FILES = ("val_file", "test_file")
"""Files of held-out rows, beside the `dataset`."""

INERT = (
    "out", "data_dir", "checkpoint_every", "checkpoint_minutes", "keep", "block_size",
    "size_classes", "client_memory", "gpu_loops",
)  # fmt: skip
"""Settings that change no result: folders, checkpoints, and how the work is divided."""

"""`Config`: what every experiment has. Each method adds its own settings, in `settings.py`."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    get_args,
    get_origin,
    get_type_hints,
)

from fedem_jax.config.protocol import PROTOCOLS, SWITCHES, Protocol, preset
from fedem_jax.errors import UserError, nearest
from fedem_jax.storage.files import put


class Range(NamedTuple):
    """Numbers that a setting may have."""

    low: float
    high: float = math.inf
    open: bool = False
    """Without `low` itself."""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open else value >= self.low
        return math.isfinite(value) and above and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"in {'(' if self.open else '['}{self.low:g}, {self.high:g}]"
        return f"{'above' if self.open else 'of at least'} {self.low:g}"


MOST = 2**31 - 1
"""Largest integer that a setting may have: on the device it has 32 bits, and seeds that agree in
them would draw the same."""

Natural = Annotated[int, Range(0)]
"""An integer from 0."""
Count = Annotated[int, Range(1)]
"""An integer from 1."""
Positive = Annotated[float, Range(0, open=True)]
"""A step size or a scale."""
Weight = Annotated[float, Range(0)]
"""A number that switches something off at 0."""
Share = Annotated[float, Range(0, 1, open=True)]
"""A part of something, never nothing."""
Portion = Annotated[float, Range(0, 1)]
"""A part of something, or nothing."""


@dataclass(frozen=True)
class Config:
    """Settings that all methods share. An experiment is described by the class of its method in
    `fedem_jax.config.settings`. The defaults are those of the released program of that method,
    except for the protocol, which is free of their leak.

    Raises:
        UserError: a value is out of range; the sentence names the field and what it may be.
    """

    switches: ClassVar[tuple[str, ...]] = ()
    """Numbers of which 0 leaves out a part of the compiled program."""
    central: ClassVar[bool] = False
    """Whether all data lie in one place: a reference, not a federated method."""
    variants: ClassVar[tuple[str, ...]] = ()
    """Settings, `FIELD=VALUE`, with which the method is compared as well, beside its defaults."""

    dataset: str = "synthetic"
    """Name of a known data set (`fedem data` lists them) or path of a CSV, TSV or parquet file."""
    method: str = ""
    """Federated method; `fedem train --help --method NAME` shows the settings of each."""
    protocol: str = "leak-free"
    """Rules of split, negatives and selection: leak-free, paper or paper-p."""
    rounds: Count = 100
    """Communication rounds."""
    seed: Natural = 0
    """Seed of everything random: candidates, initial parameters, draws of every round."""
    out: str = ""
    """Run directory; empty: results/<dataset>-<method>-<protocol>-seed<seed>."""
    eval_every: Count = 1
    """Rounds between two evaluations; those rounds are one compiled call."""

    # the model and its local training
    dim: Count = 16
    """Width of the embeddings, d."""
    local_epochs: Count = 10
    """Most passes over a round's samples."""
    batch_size: Count = 256
    """Samples of one local step; the last batch of an epoch may hold fewer."""
    num_negative: Count = 4
    """Negatives drawn for each training positive, anew in every round."""
    init_scale: Positive = 1.0
    """Standard deviation of the initial item table and user vector."""
    bce: Literal["logit", "probability"] = "probability"
    """Loss: `probability` = with a gradient that vanishes at saturation, as released; `logit` =
    stable."""

    client_fraction: Share = 1.0
    """Share of the clients that train in a round."""

    on_nonfinite: Literal["stop", "skip-client"] = "stop"
    """A loss, parameter or score that is not finite: stop = ends the run; skip-client = a client
    whose local training leads there does not train in that round and sends nothing new, and is
    counted as `skipped` in the record. What gets there at the server ends the run all the same."""

    # evaluation
    top_k: Count = 10
    """Length of the recommended list that rounds are chosen by, K of HR@K and NDCG@K."""
    per_client: bool = False
    """Keep every client's ranks at the best validation round, in per_client.parquet."""

    # a run that is cut off goes on from its last checkpoint: fedem train --resume
    checkpoint_every: Natural = 0
    """Rounds between two checkpoints, counted in evaluated rounds; 0: by time alone."""
    checkpoint_minutes: Weight = 5.0
    """Minutes between two checkpoints; 0: by rounds alone. With both 0 none is written; else there
    is one at the end and one on Ctrl-C or SIGTERM, too. Kept are the latest and the best of them on
    validation, each as large as all parameters."""

    # single switches of the protocol; empty or 0: as the protocol has it
    negative_pool: Literal["", "unseen", "untrained"] = ""
    """Training negatives: items never interacted with (leaks), or all outside the training set."""
    candidates: Literal["", "shared", "split"] = ""
    """Validation and test rank against the same sampled items, or against disjoint ones."""
    selection: Literal["", "validation", "test", "last"] = ""
    """The round whose test value the protocol reports."""
    ties: Literal["", "pessimistic", "average"] = ""
    """Equal scores: all ahead of the held-out item, or half of them."""
    scale: Literal["", "logit", "probability"] = ""
    """What is ranked: logits, or float32 probabilities, which tie once they saturate."""
    repeats: Literal["", "keep", "collapse"] = ""
    """Repeated (user, item) rows: kept, or only the first in time."""
    num_candidates: Natural = 0
    """Sampled items that a held-out item is ranked against."""
    min_interactions: Natural = 0
    """Users with fewer interactions are dropped."""

    # where and how the data are read
    data_dir: str = ""
    """Folder of data sets; empty: $FEDEM_DATA, else data/."""
    columns: tuple[str, ...] = ()
    """Own file: names or positions (from 0) of user, item, rating, timestamp; the last two may be
    left out. Empty: columns of these names, else the first ones in this order."""
    separator: str = ""
    """Own file: column separator; empty: comma for .csv, tab for .tsv."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Own file: whether the first line names the columns; auto: it does if its rating or timestamp
    is no number."""

    # how the work is cut: speed and memory, not the result
    block_size: Natural = 0
    """Clients trained side by side; 0: chosen for the device."""
    size_classes: Natural = 0
    """Most size classes that clients are sorted into; 0: as few as keep the padding small."""
    table_dtype: Literal["float32", "bfloat16"] = "float32"
    """Item tables between rounds and on the wire; bfloat16 halves memory, training stays float32.
    Unlike its neighbours it changes the result."""

    def __post_init__(self):
        if self.method != type(self).method:
            raise UserError(
                f"method: these are settings of {type(self).method or 'no method'}, not of "
                f"'{self.method}'; take preset(method='{self.method}')."
            )
        if self.protocol not in PROTOCOLS:
            hint = nearest(self.protocol[:40], list(PROTOCOLS))
            raise UserError(f"protocol: {reprlib.repr(self.protocol)} is unknown; {hint}.")
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            _check(name, kind, getattr(self, name))

    def round_sizes(self, num_clients: int) -> tuple[int, int]:
        """Clients that train in a round, and those of them that are aggregated; at least one
        each."""
        participants = max(1, int(num_clients * self.client_fraction))
        return participants, participants

    def as_program(self, numbers: Collection[str]) -> Self:
        """The settings that a compiled program depends on.

        Those that it takes as arguments have neutral values. Two trials for which this is equal
        can be stacked.

        Args:
            numbers: the fields of the method's `Hyper`.
        """
        neutral: dict[str, Any] = {"seed": 0, "out": ""}
        for field in dataclasses.fields(self):
            if field.name in numbers:
                on = float(getattr(self, field.name) > 0) if field.name in self.switches else None
                neutral[field.name] = field.default if on is None else on
        return dataclasses.replace(self, **neutral)

    def lighter(self) -> list[list[dict[str, Any]]]:
        """Single changes with which a run takes less memory; of each list the first is mildest."""
        halved = [{"dim": self.dim >> n} for n in range(1, self.dim.bit_length())]
        half_bytes = [{"table_dtype": "bfloat16"}] if self.table_dtype == "float32" else []
        return [halved, half_bytes]

    def rules(self) -> Protocol:
        """The protocol with the single switches that are set."""
        switches = {name: getattr(self, name) for name in SWITCHES}
        return preset(self.protocol, **{name: value for name, value in switches.items() if value})

    def run_directory(self) -> Path:
        """Where the run's files go: `out`, or a name made of data set, method, protocol, seed."""
        if self.out:
            return Path(self.out)
        stem = Path(self.dataset).stem or "data"
        return Path("results") / f"{stem}-{self.method}-{self.protocol}-seed{self.seed}"

    def saves(self) -> bool:
        """Whether there are to be checkpoints."""
        return self.checkpoint_every > 0 or self.checkpoint_minutes > 0

    def save(self, path: Path) -> None:
        """Write all settings as JSON, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        put(path, lambda path: path.write_text(text))


INERT = (
    "out", "data_dir", "checkpoint_every", "checkpoint_minutes", "block_size", "size_classes"
)  # fmt: skip
"""Settings that change no result: names of folders, when it is saved, the cut of the work."""


def differences(
    found: dict[str, Any], wanted: dict[str, Any], but: Collection[str] = INERT
) -> list[str]:
    """The settings of two runs of a method that differ and may change a result, in words."""
    return [
        f"{name} {found.get(name)!r}, now {value!r}"
        for name, value in wanted.items()
        if name not in but and found.get(name) != value
    ]


def _check(name: str, kind: Any, value: Any) -> None:
    """Refuse a value outside the range or the choices that its annotation names."""
    if get_origin(kind) is Annotated:
        if isinstance(value, int) and value > MOST:
            raise UserError(f"{name}: has too many digits; give a number of at most {MOST}.")
        for allowed in get_args(kind):
            if isinstance(allowed, Range) and value not in allowed:
                raise UserError(f"{name}: {value} is out of range; give a number {allowed}.")
    elif get_origin(kind) is tuple:
        for entry in value:
            _check(name, get_args(kind)[0], entry)
    elif get_origin(kind) is Literal and value not in get_args(kind):
        choices = [choice for choice in get_args(kind) if choice]
        hint = nearest(str(value)[:40], choices)
        raise UserError(f"{name}: {reprlib.repr(value)} is unknown; {hint}.")

"""`Config`: one experiment, complete and re-runnable. Its fields are the flags of `fedem train`."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_type_hints

from fedem_jax.errors import UserError
from fedem_jax.protocol import PROTOCOLS, SWITCHES, Protocol, nearest, preset


@dataclass(frozen=True)
class Config:
    """Settings of one experiment; the defaults are those of the FedEM authors' released program,
    except for the protocol, which is free of their leak.

    Raises:
        UserError: a value is out of range; the sentence names the field and what it may be.
    """

    dataset: str = "synthetic"
    """Name of a known data set (`fedem data` lists them) or path of a CSV, TSV or parquet file."""
    method: str = "fedem"
    """Federated method."""
    protocol: str = "leak-free"
    """Rules of split, negatives and selection: leak-free, paper or paper-p."""
    rounds: int = 100
    """Communication rounds."""
    seed: int = 0
    """Seed of everything random: candidates, initial parameters, draws of every round."""
    out: str = ""
    """Run directory; empty: results/<dataset>-<method>-<protocol>-seed<seed>."""
    eval_every: int = 1
    """Rounds between two evaluations; those rounds are one compiled call."""

    # the model and its local training
    dim: int = 16
    """Width of the embeddings, d."""
    local_epochs: int = 10
    """Most passes over a round's samples."""
    batch_size: int = 256
    """Samples of one local step; the last batch of an epoch may hold fewer."""
    num_negative: int = 4
    """Negatives drawn for each training positive, anew in every round."""
    lr_embedding: float = 0.1
    """Step size of user vector and item table."""
    lr_adapter: float = 0.1
    """Step size of the adapter."""
    threshold: float = 1e-4
    """A client stops early once its running loss changes by less than this share in an epoch."""
    init_scale: float = 1.0
    """Standard deviation of the initial item table and user vector."""
    bce: Literal["logit", "probability"] = "probability"
    """Loss: `probability` = with a gradient that vanishes at saturation, as released; `logit` =
    stable."""

    # aggregation and merging
    aggregation: Literal["both", "avg", "sim"] = "both"
    """Weights of the server: sample shares and similarity, shares alone, similarity alone."""
    similarity: Literal["l2", "cos"] = "l2"
    """Similarity between the clients' tables."""
    alpha: float = 0.9
    """Weight of the similarity against the sample shares (aggregation = both)."""
    merging: str = "per-batch"
    """How a client takes up its aggregated table: per-batch, once, replace, none, or a number in
    [0, 1] that serves as constant weight of the aggregated table."""
    adapter_widths: tuple[int, ...] = (16, 8)
    """Hidden widths of the adapter."""
    client_fraction: float = 1.0
    """Share of the clients that train in a round."""
    aggregation_fraction: float = 0.1
    """Share of the training clients that are aggregated, and merge in the next round."""

    # evaluation
    top_k: int = 10
    """Length of the recommended list that rounds are chosen by, K of HR@K and NDCG@K."""
    per_client: bool = False
    """Keep every client's ranks at the best validation round, in per_client.parquet."""

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
    num_candidates: int = 0
    """Sampled items that a held-out item is ranked against."""
    min_interactions: int = 0
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
    block_size: int = 0
    """Clients trained side by side; 0: chosen for the device."""
    size_classes: int = 6
    """Most size classes that clients are sorted into."""
    table_dtype: Literal["float32", "bfloat16"] = "float32"
    """Item tables between rounds and on the wire; bfloat16 halves memory, training stays float32.
    Unlike its neighbours it changes the result."""

    def __post_init__(self):
        if self.protocol not in PROTOCOLS:
            hint = nearest(self.protocol, list(PROTOCOLS))
            raise UserError(f"protocol: '{self.protocol}' is unknown; {hint}.")
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if value < low:
                raise UserError(f"{name}: {value} is too small; give at least {low}.")
        for name in ("lr_embedding", "lr_adapter", "init_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name}: {value} is no step or scale; give a number above 0.")
        for name in ("client_fraction", "aggregation_fraction"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise UserError(f"{name}: {value} is no share; give a number in (0, 1].")
        for name in ("threshold", "alpha"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name}: {value} is out of range; give a number of at least 0.")
        for name, kind in get_type_hints(type(self)).items():
            known = [choice for choice in get_args(kind) if isinstance(choice, str)]
            if known and getattr(self, name) not in known:
                hint = nearest(str(getattr(self, name)), [choice for choice in known if choice])
                raise UserError(f"{name}: '{getattr(self, name)}' is unknown; {hint}.")
        if any(width < 1 for width in self.adapter_widths):
            raise UserError(f"adapter_widths: {self.adapter_widths} holds a width below 1.")
        if self.merging not in MERGINGS:
            try:
                share = float(self.merging)
            except ValueError:
                hint = nearest(self.merging, list(MERGINGS))
                raise UserError(
                    f"merging: '{self.merging}' is unknown; {hint}, or a number in [0, 1]."
                ) from None
            if not 0 <= share <= 1:
                raise UserError(f"merging: {self.merging} is no weight; give one in [0, 1].")

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

    def save(self, path: Path) -> None:
        """Write all settings as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read settings written by `save`.

        Raises:
            UserError: the file is missing, no JSON object, or holds an unknown field.
        """
        path = Path(path)
        try:
            values = json.loads(path.read_text())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
        except ValueError as error:
            raise UserError(f"{path}: is not JSON ({error}).") from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: holds no settings; expected a JSON object.")
        known = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise UserError(f"{path}: unknown field '{name}'; {nearest(name, list(known))}.")
            default = known[name].default
            if isinstance(default, tuple) and isinstance(value, list):
                values[name] = tuple(value)
                (kind, _) = get_args(get_type_hints(cls)[name])
                if any(type(entry) is not kind for entry in value):
                    raise UserError(
                        f"{path}: field '{name}' is {value!r}; expected {kind.__name__}s."
                    )
            elif isinstance(default, float) and type(value) is int:
                values[name] = float(value)
            elif type(value) is not type(default):
                raise UserError(
                    f"{path}: field '{name}' is {value!r}; expected a {type(default).__name__}."
                )
        return cls(**values)


MERGINGS = ("per-batch", "once", "replace", "none")
"""Named ways of merging; a number in [0, 1] is the fifth."""

_LEAST = {
    "rounds": 1, "seed": 0, "eval_every": 1, "dim": 1, "local_epochs": 1, "batch_size": 1,
    "num_negative": 1, "top_k": 1, "block_size": 0, "size_classes": 1, "num_candidates": 0,
    "min_interactions": 0,
}  # fmt: skip

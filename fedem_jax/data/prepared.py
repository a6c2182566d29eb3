"""Federations that were split before, as `.npz` files. Reading one needs NumPy alone."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fedem_jax.config.protocol import Protocol
from fedem_jax.data.federation import Federation
from fedem_jax.data.fingerprint import ARRAYS, ENDS, fingerprint
from fedem_jax.errors import UserError

SUFFIX = ".npz"
FACTS = "facts"
"""Entry that holds all but arrays, as JSON."""
LABELS = ("user_ids", "item_ids")


def write_federation(federation: Federation, path: str | Path) -> None:
    """Write a federation to a file that `read_federation` reads.

    Args:
        federation: the data.
        path: of the file, which ends in `.npz`.

    Raises:
        UserError: the path has another ending, or cannot be written.

    Examples:
        >>> fj.write_federation(fj.load("synthetic"), "shop.npz")
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise UserError(f"{path}: a prepared federation ends in {SUFFIX}; give such a name.")
    names = (*ARRAYS, *ENDS, "cohort")
    arrays: dict[str, Any] = {name: getattr(federation, name) for name in names}
    for name in LABELS:
        labels = getattr(federation, name)
        arrays[name] = labels.astype(str) if labels.dtype.kind == "O" else labels
    facts = {
        "name": federation.name,
        "protocol": dataclasses.asdict(federation.protocol),
        "num_items": federation.num_items,
        "seed": federation.seed,
        "cleaning": federation.cleaning,
        "fingerprint": federation.fingerprint,
    }
    arrays[FACTS] = np.array(json.dumps(facts))
    try:
        np.savez_compressed(path, **arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another.") from None


def read_federation(
    path: str | Path, protocol: Protocol | None = None, seed: int | None = None
) -> Federation:
    """A federation from a file of `write_federation`.

    Args:
        path: of the file.
        protocol: the rules that it must have been split by; None: any.
        seed: that its candidates must have been drawn with; None: any.

    Raises:
        UserError: the file is missing, is none of these, or was altered. Or it was prepared by
            another protocol or with another seed.

    Examples:
        >>> fj.write_federation(fj.load("synthetic"), "shop.npz")
        >>> fj.read_federation("shop.npz").num_clients
        600
    """
    path = Path(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays: dict[str, Any] = dict(file)
        facts = json.loads(str(arrays.pop(FACTS)))
        made = Protocol(**facts.pop("protocol"))
        found = _federation(arrays, facts, made)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; prepare it by `fedem data NAME --out`.") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0][:100]
        raise UserError(
            f"{path}: is no prepared federation ({reason}); make one by `fedem data NAME --out`."
        ) from None
    if found.fingerprint != facts["fingerprint"]:
        raise UserError(
            f"{path}: was altered since it was prepared (fingerprint {found.fingerprint}, not "
            f"{facts['fingerprint']}); prepare it again by `fedem data NAME --out`."
        )
    wanted = protocol or made, found.seed if seed is None else seed
    if wanted != (made, found.seed):
        raise UserError(
            f"{path}: was split by protocol {made.name} with seed {found.seed}, not by "
            f"{wanted[0].name} with seed {wanted[1]}; give the former, or prepare another file."
        )
    return found


def _federation(arrays: dict[str, Any], facts: dict[str, Any], protocol: Protocol) -> Federation:
    for name in LABELS:
        if arrays[name].dtype.kind == "U":
            arrays[name] = arrays[name].astype(object)
    for values in arrays.values():
        values.flags.writeable = False
    return Federation(
        name=str(facts["name"]),
        protocol=protocol,
        num_items=int(facts["num_items"]),
        seed=int(facts["seed"]),
        cleaning=dict(facts["cleaning"]),
        fingerprint=fingerprint(arrays, protocol),
        **arrays,
    )

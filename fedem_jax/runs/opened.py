"""`open_run`: a finished run, read back from its directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedem_jax.data.federation import Federation
from fedem_jax.data.sources import federation_of, name_of
from fedem_jax.errors import UserError
from fedem_jax.runs.offload import simulation_of
from fedem_jax.runs.reading import read_run
from fedem_jax.runs.result import Result
from fedem_jax.runs.states import States


def open_run(
    path: str | Path, federation: Federation | None = None, devices: Sequence[Any] = ()
) -> Result:
    """Read a finished run back, as `fedem_jax.run` returned it.

    The data are read and split again, as the settings of the run say. States are read when they are
    asked for.

    Args:
        path: the run directory.
        federation: the data, if the run had them from memory; None: what its settings name.
        devices: JAX devices to ask the model on; empty: all.

    Raises:
        UserError: a file of the run is missing or broken; its data were in memory and `federation`
            is None; or the data are not those of the run.

    Examples:
        >>> config = fj.preset("released", method="popularity", rounds=1)
        >>> first = fj.run(config, directory="results/first")
        >>> again = fj.open_run("results/first")
        >>> again.recommend(k=5).equals(first.recommend(k=5))
        True
    """
    path = Path(path)
    config, records, summary = read_run(path)
    if federation is None:
        if summary["dataset"] != name_of(config.dataset):
            raise UserError(
                f"{path}: its data ('{summary['dataset']}') were in memory; give them as "
                "federation=."
            )
        federation = federation_of(config)
    if federation.fingerprint != summary["fingerprint"]:
        raise UserError(
            f"{path}: is a run on other data (data '{summary['fingerprint']}', now "
            f"'{federation.fingerprint}'); give those that it had."
        )
    simulation = simulation_of(config, federation, devices)
    rounds = {"best": summary["headline"]["round"], "last": summary["last"]["round"]}
    return Result(simulation, records, summary, States(simulation, rounds, path=path), path)

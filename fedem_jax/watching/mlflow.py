"""MLflow: settings, curves and result of a run, in a folder or on a server."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedem_jax.evaluation.records import Record, Setting, Summary
from fedem_jax.runs.observers import Observer
from fedem_jax.watching.metrics import as_text, hyper_parameters, name_of, of_round, of_run, package

if TYPE_CHECKING:
    import pandas as pd

DATABASE = "mlflow.db"


class MLflow(Observer):
    """Writes a run for MLflow. `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` shows it.

    A resumed run is a run of its own there, with all rounds. MLflow sends no usage data, unless
    `MLFLOW_DISABLE_TELEMETRY=false` asks for it.
    """

    def __init__(self, store: str | Path, experiment: str = "fedem_jax"):
        """
        Args:
            store: a folder, in which `mlflow.db` is made; or the address of a server, such as
                `http://localhost:5000`.
            experiment: name of the experiment; made if missing.

        Raises:
            UserError: MLflow is not installed.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._package = package("mlflow", "mlflow")
        self._store, self._experiment = store, experiment
        self._client: Any = None
        self._run = ""
        self._ended = False

    def on_start(self, setting: Setting) -> None:
        """Begin a run with the settings."""
        address, files = str(self._store), None
        if "://" not in address:
            folder = Path(self._store).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            address, files = f"sqlite:///{folder / DATABASE}", (folder / "artifacts").as_uri()
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        self._client = self._package.MlflowClient(tracking_uri=address)
        found = self._client.get_experiment_by_name(self._experiment)
        number = (
            found.experiment_id
            if found
            else self._client.create_experiment(self._experiment, artifact_location=files)
        )
        self._run = self._client.create_run(number, run_name=name_of(setting)).info.run_id
        param = self._package.entities.Param
        settings = hyper_parameters(setting).items()
        self._client.log_batch(
            self._run, params=[param(name, as_text(value)) for name, value in settings]
        )

    def on_round(self, record: Record) -> None:
        """Write the numbers of a round."""
        self._write(of_round(record), record["round"])

    def on_end(self, summary: Summary, per_client: pd.DataFrame) -> None:
        """Write the result."""
        self._write(of_run(summary), summary["rounds"])
        if "ended_early" in summary:
            self._client.set_tag(self._run, "ended_early", summary["ended_early"])
        self._ended = True

    def on_close(self) -> None:
        """End the run: as failed if it has no result."""
        if self._run:
            self._client.set_terminated(self._run, "FINISHED" if self._ended else "FAILED")

    def _write(self, values: dict[str, float], step: int) -> None:
        """Write numbers in one call."""
        now, metric = int(1000 * time.time()), self._package.entities.Metric
        self._client.log_batch(
            self._run, metrics=[metric(name, value, now, step) for name, value in values.items()]
        )

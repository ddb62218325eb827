"""MLflow: a run on the server, or in the local store, that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import ModuleType

from gfl.record.trackers.interface import PROJECT, Ended, Line, Started, store_id, stored_id

NAME = "mlflow"
MOST_NUMBERS, MOST_SETTINGS, MOST_LETTERS = 1000, 100, 500  # of one request, and of a setting, as the server has it
STATUS: dict[Ended, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow:
    """Sends by MlflowClient, whose runs are not those that a program of the user's may have begun. A run that goes on
    has the same id; settings that changed since, which MLflow keeps for ever, become tags."""

    def __init__(self, package: ModuleType) -> None:
        """package: mlflow."""
        self._package = package

    def start(self, run: Started) -> str:
        self._client = self._package.MlflowClient()
        known = stored_id(run.folder, NAME) if run.step else None
        if known is None:
            self._id = self._create(run)
            before: dict[str, str] = {}
        else:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            before = dict(self._client.get_run(known).data.params)
        settings = {name: value[:MOST_LETTERS] for name, value in run.settings.items()}
        for name, value in settings.items():
            if before.get(name, value) != value:
                self._client.set_tag(self._id, f"{name} since step {run.step}", value)
        new = [self._package.entities.Param(*setting) for setting in settings.items() if setting[0] not in before]
        for first in range(0, len(new), MOST_SETTINGS):
            self._client.log_batch(self._id, params=new[first : first + MOST_SETTINGS])
        return f"run {self._id} at {self._package.get_tracking_uri()}"

    def steps(self, lines: Sequence[Line]) -> None:
        now, kind = int(time.time() * 1000), self._package.entities.Metric
        numbers = [kind(name, value, now, line.step) for line in lines for name, value in line.numbers.items()]
        for first in range(0, len(numbers), MOST_NUMBERS):
            self._client.log_batch(self._id, metrics=numbers[first : first + MOST_NUMBERS])

    def evaluation(self, line: Line) -> None:
        self.steps([line])

    def end(self, how: Ended) -> None:
        self._client.set_terminated(self._id, STATUS[how])

    def _create(self, run: Started) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {"mlflow.source.name": "gfl.train", "folder": str(run.folder.resolve())}
        run_id = str(self._client.create_run(number, run_name=run.name, tags=tags).info.run_id)
        store_id(run.folder, NAME, run_id)
        return run_id

"""Trackio: a run in its local store (TRACKIO_DIR), or at the server or Space that its own variables name."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, redirect_stdout
from types import ModuleType

from gfl.record.trackers.interface import PROJECT, Ended, Line, Started, store_id, stored_id

NAME = "trackio"


class Trackio:
    """Writes by Trackio's own thread. A run that goes on has the same name, by which Trackio finds it."""

    def __init__(self, package: ModuleType) -> None:
        """package: trackio."""
        self._package = package

    def start(self, run: Started) -> str:
        known = stored_id(run.folder, NAME) if run.step else None
        with _unprinted():
            self._run = self._package.init(
                project=PROJECT,
                name=known or run.name,
                config=dict(run.settings),
                resume="never" if known is None else "allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        store_id(run.folder, NAME, self._run.name)
        return f"trackio show --project {PROJECT}"

    def steps(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self._run.log(dict(line.numbers), step=line.step)

    def evaluation(self, line: Line) -> None:
        self.steps([line])

    def end(self, how: Ended) -> None:
        with _unprinted():
            self._run.finish()


def _unprinted() -> AbstractContextManager[object]:
    """Trackio prints in colours, into files too. The console of a run has the stream itself and is not concerned."""
    return redirect_stdout(io.StringIO())

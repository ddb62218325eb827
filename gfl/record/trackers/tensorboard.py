"""TensorBoard: event files in the run's folder, under tensorboard/."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, cast

from gfl.record.trackers.interface import Ended, Line, Started

FOLDER = "tensorboard"  # in the run's folder; of TRACKERS_FOLDERS
FLUSH_EVERY_S = 10  # what is not flushed does not show yet


class _Writer(Protocol):
    """What is used of SummaryWriter, which has no types."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def add_text(self, tag: str, text_string: str, global_step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Writes event files by PyTorch's SummaryWriter. Where a run goes on, a further file hides what comes after."""

    def __init__(self, package: ModuleType) -> None:
        """package: torch.utils.tensorboard."""
        self._package = package

    def start(self, run: Started) -> str:
        folder = run.folder / FOLDER
        purged = run.step + 1 if run.step else None  # steps that were done after the checkpoint, and are done again
        writer = self._package.SummaryWriter(str(folder), purge_step=purged, flush_secs=FLUSH_EVERY_S)
        self._writer = cast(_Writer, writer)
        table = [f"| {name} | {value} |" for name, value in run.settings.items()]
        self._writer.add_text("settings", "\n".join(["| setting | value |", "| --- | --- |", *table]), run.step)
        self._writer.flush()
        return f"tensorboard --logdir {shlex.quote(str(folder))}"

    def steps(self, lines: Sequence[Line]) -> None:
        for line in lines:
            for name, value in line.numbers.items():
                self._writer.add_scalar(name, value, line.step)

    def evaluation(self, line: Line) -> None:
        self.steps([line])
        self._writer.flush()

    def end(self, how: Ended) -> None:
        self._writer.close()

"""The log of a run's steps: metrics stay on the device and are copied to the host once every LOG_EVERY steps.

Only then are they averaged over the ranks, and the other ranks send what their hosts noted: numbers of pictures, times
spent waiting, pictures that could not be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gfl.engine.device import memory_bytes
from gfl.engine.faults import StepNumbers
from gfl.engine.ranks import Ranks
from gfl.engine.state import TrainState
from gfl.record.console import EpochProgress, ProgressWriter
from gfl.record.run_folder import RunFolder
from gfl.record.trackers.tracking import NOT_TRACKED, Tracking
from gfl.settings import RunConfig


class StepNote(NamedTuple):
    """What the host knows of a step that is done, beside its metrics."""

    step: int  # from 1
    epoch: int
    lr: float
    canvas: str  # HxW of its first batch


class RankNote(NamedTuple):
    """What the host of one rank noted of the steps since the last copy."""

    images: int  # pictures trained on
    waited_s: float  # time spent waiting for data
    failed: tuple[str, ...]  # pictures that could not be read, each with the reason


class StepLog:
    """Collects steps, and once every LOG_EVERY writes them to log.jsonl and prints how far the run is.

    folder: the run's folder; None on the ranks that do not write. before_writing: called before each write: lines of an
    evaluation that came earlier than the steps must stand before theirs. tracking: is told of the same lines.
    """

    def __init__(
        self,
        cfg: RunConfig,
        state: TrainState,
        folder: RunFolder | None,
        out: ProgressWriter,
        ranks: Ranks,
        epochs: int,
        before_writing: Callable[[], None] = lambda: None,
        tracking: Tracking = NOT_TRACKED,
    ) -> None:
        self.tracking = tracking
        self.before_writing = before_writing
        self.epochs = epochs  # that the run goes through
        self.cfg, self.state, self.folder, self.out, self.ranks = cfg, state, folder, out, ranks
        self.notes: list[StepNote] = []
        self.metrics: list[dict[str, Tensor]] = []
        self.passed_over: set[str] = set()  # pictures that could not be read and were reported, with the reason
        self.read, self.not_read = 0, 0  # pictures so far, over all ranks on the first, on another its own
        self.done, self.seconds = 0, 0.0  # steps of this process, and how long they took
        self.steps = 0  # of the current epoch
        self._begin()

    def _begin(self) -> None:
        self.images, self.waited_s, self.started = 0, 0.0, time.perf_counter()
        self.failed: list[str] = []

    def begin_epoch(self, steps: int) -> None:
        """Start timing an epoch of so many steps: an evaluation or a checkpoint before it is no time of training."""
        self.steps = steps
        self._begin()

    def add(self, note: StepNote, metrics: dict[str, Tensor], images: int, failed: Sequence[str]) -> list[StepNumbers]:
        """Collect a step; calls `flush` after every LOG_EVERY, and returns what that gives.

        metrics: scalars on the device, the same names every step. images: pictures of this rank in the step.
        failed: pictures of this rank that could not be read, each with the reason.
        """
        self.notes.append(note)
        self.metrics.append(metrics)
        self.images += images
        self.failed += failed
        return self.flush() if len(self.notes) >= self.cfg.log_every else []

    def flush(self) -> list[StepNumbers]:
        """Copy the metrics from the device, write a line a step, print the progress; returns the steps' numbers."""
        if not self.notes:
            return []
        self.before_writing()
        names = list(self.metrics[0])
        values = torch.stack([torch.stack([row[name] for name in names]) for row in self.metrics])
        rows = [dict(zip(names, row, strict=True)) for row in self.ranks.mean(values).tolist()]
        own = RankNote(self.images, self.waited_s, tuple(self.failed))
        by_rank = self.ranks.gather_at_first(own) or [own]
        self.read += sum(note.images for note in by_rank)
        self.not_read += sum(len(note.failed) for note in by_rank)
        if self.folder is not None:
            self._write(self.folder, rows, by_rank)
        numbers = [
            StepNumbers(note.step, note.lr, row["loss"], row["skipped"])
            for row, note in zip(rows, self.notes, strict=True)
        ]
        self.notes, self.metrics = [], []
        self._begin()
        return numbers

    def _write(self, folder: RunFolder, rows: list[dict[str, float]], by_rank: list[RankNote]) -> None:
        for reason in (reason for note in by_rank for reason in note.failed):
            if reason not in self.passed_over:
                self.passed_over.add(reason)
                self.out.tell(f"passed over ({len(self.passed_over)} so far): {reason}")
        seconds = max(time.perf_counter() - self.started, 1e-9)
        waited_s = sum(note.waited_s for note in by_rank) / len(by_rank)
        images = sum(note.images for note in by_rank)
        speed = {"img_per_s": round(images / seconds, 3), "data_wait": round(waited_s / seconds, 4)}
        lines = [{**row, **note._asdict(), **speed} for row, note in zip(rows, self.notes, strict=True)]
        folder.append(lines)
        self.tracking.steps(lines)
        self._show(rows[-1], speed, seconds)

    def _show(self, last: dict[str, float], speed: dict[str, float], seconds: float) -> None:
        cfg, cursor = self.cfg, self.state.cursor
        self.done, self.seconds = self.done + len(self.notes), self.seconds + seconds
        step = -(-cursor.batch // cfg.accumulate)  # the last group of batches may be smaller
        left = cfg.max_steps - cursor.step if cfg.max_steps else (self.epochs - cursor.epoch) * self.steps - step
        self.out.update(
            EpochProgress(
                epoch=cursor.epoch + 1,
                epochs=self.epochs,
                step=step,
                steps=self.steps,
                losses={name: last[name] for name in ("qfl", "dfl", "giou")},
                img_per_s=speed["img_per_s"],
                data_wait=speed["data_wait"],
                memory_bytes=memory_bytes(self.state.module.device),
                eta_s=self.seconds / self.done * left,
                skipped=int(last["skipped"]),
            )
        )

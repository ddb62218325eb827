"""The log of a run's steps: metrics stay on the device and are copied once every LOG_EVERY steps.

Only then are they averaged over the ranks; what the others' hosts know (pictures, waits, failures) comes with them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gfl.engine.device import memory_bytes
from gfl.engine.ranks import Ranks
from gfl.engine.state import TrainState
from gfl.errors import InputError
from gfl.record.console import EpochProgress, ProgressWriter, remaining_s
from gfl.record.run_folder import RunFolder
from gfl.settings import RunConfig

BAD_STEPS = 20  # in a row without finite numbers, under a loss scale: it skips such steps, but not for ever


class StepNote(NamedTuple):
    """What the host knows of a step that is done."""

    step: int  # from 1
    epoch: int
    lr: float
    canvas: str  # HxW of its first batch


class RankNote(NamedTuple):
    """What the host of one rank knows of the steps since the last copy."""

    images: int  # pictures trained on
    waited: float  # seconds spent waiting for data
    failed: tuple[str, ...]  # why pictures could not be read


class StepLog:
    """Notes steps, and now and then writes them to log.jsonl and shows how far the run is.

    folder: None on the ranks that do not write.
    """

    def __init__(
        self, cfg: RunConfig, state: TrainState, folder: RunFolder | None, out: ProgressWriter, ranks: Ranks
    ) -> None:
        self.cfg, self.state, self.folder, self.out, self.ranks = cfg, state, folder, out, ranks
        self.notes: list[StepNote] = []
        self.metrics: list[dict[str, Tensor]] = []
        self.passed_over: set[str] = set()  # why pictures could not be read
        self.bad_steps = 0  # in a row
        self.skipped = math.inf  # steps that the loss scale has skipped; not known before the first row
        self.done, self.seconds = 0, 0.0  # steps of this process, and how long they took
        self.steps = 0  # of the current epoch
        self._begin()

    def _begin(self) -> None:
        self.images, self.waited, self.started = 0, 0.0, time.perf_counter()
        self.failed: list[str] = []

    def begin_epoch(self, steps: int) -> None:
        """An epoch of so many steps begins; the time since the last one (evaluation, saving) is not training's."""
        self.steps = steps
        self._begin()

    def add(self, note: StepNote, metrics: dict[str, Tensor], images: int, failed: Iterable[str]) -> None:
        """Note a step on so many pictures of this rank; copies when it is time to."""
        self.notes.append(note)
        self.metrics.append(metrics)
        self.images += images
        self.failed += failed
        if len(self.notes) >= self.cfg.log_every:
            self.flush()

    def flush(self) -> None:
        """Copy what is on the device, write a line a step, show the progress. InputError when the loss diverged."""
        if not self.notes:
            return
        names = list(self.metrics[0])
        values = torch.stack([torch.stack([row[name] for name in names]) for row in self.metrics])
        rows = [dict(zip(names, numbers, strict=True)) for numbers in self.ranks.mean(values).tolist()]
        found = self.ranks.at_first(RankNote(self.images, self.waited, tuple(self.failed)))
        if self.folder is not None:
            self._write(self.folder, rows, found)
        for row, note in zip(rows, self.notes, strict=True):
            self._check(row, note)
        self.notes, self.metrics = [], []
        self._begin()

    def _write(self, folder: RunFolder, rows: list[dict[str, float]], found: list[RankNote]) -> None:
        for reason in (reason for note in found for reason in note.failed):
            if reason not in self.passed_over:
                self.passed_over.add(reason)
                self.out.line(f"passed over ({len(self.passed_over)} so far): {reason}")
        seconds = max(time.perf_counter() - self.started, 1e-9)
        waited = sum(note.waited for note in found) / len(found)
        images = sum(note.images for note in found)
        speed = {"img_per_s": round(images / seconds, 3), "data_wait": round(waited / seconds, 4)}
        folder.append([{**row, **note._asdict(), **speed} for row, note in zip(rows, self.notes, strict=True)])
        self._show(rows[-1], speed, seconds)

    def _check(self, row: dict[str, float], note: StepNote) -> None:
        skipped, self.skipped = row["skipped"] > self.skipped, row["skipped"]
        self.bad_steps = self.bad_steps + 1 if skipped or not math.isfinite(row["loss"]) else 0
        if self.bad_steps > (BAD_STEPS if self.state.loss_scale else 0):
            what = "the loss is not a number" if not math.isfinite(row["loss"]) else "the gradients are not numbers"
            raise InputError(
                f"{what} at step {note.step} (lr {note.lr:.2g}); "
                f"lower LR (it is for 16 images), raise WARMUP_STEPS, set CLIP, or lower LOSS_SCALE"
            )

    def _show(self, last: dict[str, float], speed: dict[str, float], seconds: float) -> None:
        cfg, cursor = self.cfg, self.state.cursor
        self.done, self.seconds = self.done + len(self.notes), self.seconds + seconds
        step = cursor.batch // cfg.accumulate
        left = cfg.max_steps - cursor.step if cfg.max_steps else (cfg.epochs - cursor.epoch) * self.steps - step
        self.out.update(
            EpochProgress(
                epoch=cursor.epoch + 1,
                epochs=cfg.epochs,
                step=step,
                steps=self.steps,
                losses={name: last[name] for name in ("qfl", "dfl", "giou")},
                img_per_s=speed["img_per_s"],
                data_wait=speed["data_wait"],
                memory_bytes=memory_bytes(self.state.module.device),
                eta_s=remaining_s(self.done, self.done + left, self.seconds),
                skipped=int(last["skipped"]),
            )
        )

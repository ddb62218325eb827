"""What a run draws while it trains: the data that it is fed, and its course so far."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from gfl.data.coco import CocoData
from gfl.data.loader import LoadedBatch, TrainLoader
from gfl.data.sizes import canvases_for
from gfl.errors import first_line
from gfl.files import write_atomic
from gfl.record.run_data import read_log
from gfl.record.run_folder import CURVES, LABELS, LOG
from gfl.report import figures
from gfl.report.sheets import Fed, fed_picture, jpeg, sheet
from gfl.settings import RunConfig

BATCHES, MOST_FED = 3, 16  # batches that are drawn, and pictures of each
FIRST_S, MOST_TIME = 30.0, 0.003  # results.png is not drawn again earlier, nor for a larger share of a run's time


def write_training_data(folder: Path, cfg: RunConfig, train: CocoData, val: CocoData | None) -> None:
    """labels.png, and train_batch0.jpg and so on: the first batches as the network gets them."""
    write_atomic(folder / LABELS, figures.png(figures.labels_figure(train)))
    canvases = canvases_for(train, cfg.data, val=val)
    data = replace(cfg.data, workers=0)
    loader = TrainLoader(train, data, canvases, batch_size=max(1, cfg.batch_size // cfg.accumulate), seed=cfg.seed)
    for number, loaded in enumerate(islice(loader.batches(loader.plan(0)[:BATCHES]), BATCHES)):
        write_atomic(
            folder / f"train_batch{number}.jpg", jpeg(sheet([fed_picture(fed, train.names) for fed in _fed(loaded)]))
        )


def _fed(loaded: LoadedBatch) -> Iterator[Fed]:
    """The first pictures of a batch."""
    batch = loaded.batch
    for index in range(min(MOST_FED, len(loaded.image_ids))):
        height, width = batch.image_sizes[index].tolist()
        real = batch.box_mask[index].numpy()
        boxes, labels = batch.boxes_xyxy[index].numpy()[real], batch.labels[index].numpy()[real]
        yield Fed(batch.images[index].numpy(), (height, width), boxes, labels)


def write_curves(folder: Path, batch: int) -> None:
    """results.png, from log.jsonl. batch: pictures a step."""
    log = read_log(folder / LOG)
    evaluations, steps = ([line for line in log if ("AP" in line) == evaluated] for evaluated in (True, False))
    write_atomic(folder / CURVES, figures.png(figures.run_figure(steps, evaluations, batch)))


class Drawing:
    """What a run draws while it trains; it never takes more than a small share of the run's time, nor stops it."""

    def __init__(self, folder: Path, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """say: tells what could not be drawn."""
        self._folder, self._say, self._clock = folder, say, clock
        self._command = f"python -m gfl.report {shlex.quote(str(folder))}"
        self._next_s = clock() + FIRST_S

    def attempt(self, what: str, draw: Callable[[], object]) -> bool:
        """Draw; whether it was drawn. What goes wrong is told: it is no reason to lose a run."""
        try:
            draw()
        except Exception as error:
            self._say(f"note: {what} could not be made ({first_line(error)}); `{self._command}` tries it again")
            return False
        return True

    def attempt_at_end(self, what: str, draw: Callable[[], object]) -> bool:
        """As `attempt`, where all else is done: Ctrl-C or a signal stops the drawing, and the run has ended well."""
        try:
            return self.attempt(what, draw)
        except KeyboardInterrupt:
            self._say(f"note: {what} was stopped; `{self._command}` makes it")
            return False

    def refresh_curves(self, batch: int) -> None:
        """Draw results.png again, unless the last time is too short ago for what it takes."""
        started = self._clock()
        if started < self._next_s:
            return
        self.attempt(CURVES, lambda: write_curves(self._folder, batch))
        self._next_s = self._clock() + max(FIRST_S, (self._clock() - started) / MOST_TIME)

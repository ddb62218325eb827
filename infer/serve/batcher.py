"""Pictures that arrive together share a run of the model, which one thread does.

A batch is of one canvas. It goes out when it is full, or when its oldest picture has waited as long as it may; while
the model runs, the next ones gather. What nobody waits for any more takes no place in a batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from gfl.runtime.batches import InputPicture, batch_arrays
from gfl.runtime.description import Arrays
from gfl.runtime.model import Model
from gfl.runtime.result import Result, result_of
from gfl.shapes import Canvas

OnRun = Callable[[int, float], None]  # pictures of a run, and its seconds


class Computed(NamedTuple):
    """Where the detections of a picture are."""

    outputs: Arrays  # of its batch
    place: int  # in it

    def result(self, picture: InputPicture, model: Model) -> Result:
        """They themselves; left to who asked, so that the model's thread goes on meanwhile."""
        return result_of(self.outputs, self.place, picture.info, model.description)


class Waiting(NamedTuple):
    """A picture that waits for the model."""

    picture: InputPicture
    outcome: Future[Computed]
    since: float  # time.monotonic()


class Batcher:
    """A thread that runs a model over the pictures that are submitted."""

    def __init__(self, model: Model, max_wait_s: float, on_run: OnRun) -> None:
        """max_wait_s: how long a picture waits for others while the model has nothing else to do."""
        self._model = model
        self._takes_any = model.any_canvas or model.canvases is None  # any number of pictures: blanks would only cost
        self._max_wait_s = max_wait_s
        self._on_run = on_run
        self._waiting: dict[Canvas, deque[Waiting]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, picture: InputPicture) -> Future[Computed]:
        """Let a picture wait for its turn; cancelling the future takes it out again. What the model raises, it has."""
        waiting = Waiting(picture, Future(), time.monotonic())
        with self._changed:
            self._waiting.setdefault(picture.canvas, deque()).append(waiting)
            self._changed.notify()
        return waiting.outcome

    def close(self) -> None:
        """Run what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            batch = [waiting for waiting in taken if waiting.outcome.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)

    def _run(self, batch: list[Waiting]) -> None:
        started = time.perf_counter()
        try:
            size = len(batch) if self._takes_any else self._model.batch
            outputs = self._model.run(*batch_arrays([waiting.picture for waiting in batch], size))
        except Exception as error:  # whatever the runtime raises: who asked is told, and the next batch may go well
            for waiting in batch:
                waiting.outcome.set_exception(error)
            return
        self._on_run(len(batch), time.perf_counter() - started)
        for place, waiting in enumerate(batch):
            waiting.outcome.set_result(Computed(outputs, place))

    def _take(self) -> list[Waiting] | None:
        """The next batch, when it is due; None at the end."""
        with self._changed:
            while True:
                self._drop_cancelled()
                oldest_first = sorted(self._waiting.values(), key=lambda queue: queue[0].since)
                latest = time.monotonic() - self._max_wait_s
                for queue in oldest_first:
                    if len(queue) >= self._model.batch or queue[0].since <= latest or self._closed:
                        return [queue.popleft() for _ in range(min(len(queue), self._model.batch))]
                if self._closed:
                    return None
                self._changed.wait(oldest_first[0][0].since - latest if oldest_first else None)

    def _drop_cancelled(self) -> None:
        for canvas, queue in list(self._waiting.items()):
            kept = deque(waiting for waiting in queue if not waiting.outcome.cancelled())
            if kept:
                self._waiting[canvas] = kept
            else:
                del self._waiting[canvas]

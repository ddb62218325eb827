"""Pictures through a model: threads read ahead of it, the calling thread runs it, threads write results behind it.

Memory is bounded by what it holds: a batch and one picture a reader that are read ahead, unfilled batches (as many as
there are canvases), the batch that runs, and two batches of results. NumPy and OpenCV only.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import cv2
import numpy as np

from gfl.data.transforms import place_on_canvas, resize, resized_size
from gfl.errors import InputError, first_line
from gfl.machine import usable_cores
from gfl.runtime.batches import OWN_OPEN, InputPicture, batch_arrays, fill_batches
from gfl.runtime.description import Arrays
from gfl.runtime.model import Model
from gfl.runtime.result import PictureInfo, Result, result_of
from gfl.words import printable
from infer.opened import Source
from infer.timings import Load, Timings

T = TypeVar("T")

LARGE_PIXELS = 32_000_000  # of a picture; beyond, one at a time is decoded: 108 Mpx take 650 MB until they are shrunk
MOST_READERS = 8


class Failed(NamedTuple):
    """A picture that could not be read."""

    source: str
    reason: str  # one sentence


OnResult = Callable[[int, Result | Failed], None]


class PictureReader:
    """From a source to a picture on its canvas, in any number of threads."""

    def __init__(self, model: Model, keep_pixels: int = 0) -> None:
        """keep_pixels: as of `run_pictures`."""
        self._model = model
        self._keep_pixels = keep_pixels
        self._large_lock = threading.Lock()

    def __call__(self, position: int, source: Source) -> InputPicture | Failed:
        """The picture, ready for the model, or why it cannot be read."""
        try:
            return self._read(position, source)
        except InputError as error:
            return Failed(source.name, str(error))
        except (MemoryError, cv2.error) as error:  # another picture may fit
            reason = "the memory is full" if isinstance(error, MemoryError) else first_line(error)
            return Failed(
                source.name,
                f"{printable(source.name)} cannot be resized ({reason}), expected a picture that fits into memory; "
                "make it smaller",
            )

    def _read(self, position: int, source: Source) -> InputPicture:
        """Decode a picture and place it on its canvas; raises InputError where it cannot be read."""
        opened = source.open()
        with self._large_lock if opened.pixels > LARGE_PIXELS else contextlib.nullcontext():
            image = opened.decode()
            height, width = image.shape[:2]
            canvas, resized_hw = self._model.canvas_for(height, width)
            kept = image if height * width <= self._keep_pixels else None
            image = resize(image, resized_hw)  # the original is let go here, unless it is kept
        planes = np.empty((3, *canvas), np.uint8)
        place_on_canvas(image, planes)
        info = PictureInfo(source.name, (height, width), resized_hw, kept)
        return InputPicture(position, info, planes, opened.is_first)


def default_readers(provider: str, cores: int) -> int:
    """One a core, two to eight; half of them beside a model on the CPU, whose own threads wait for one another."""
    return min(max(cores // 2, 1) if "cpu" in provider.lower() else max(cores, 2), MOST_READERS)


def run_pictures(
    model: Model,
    sources: Iterable[Source],
    on_result: OnResult,
    *,
    readers: int = 0,
    writers: int = 1,
    keep_pixels: int = 0,
) -> Timings:
    """Run a model over pictures, in batches that are filled a canvas at a time (`fill_batches`).

    Args:
        model: run by the calling thread alone, which waits for nothing but pictures and results.
        sources: the pictures; taken by one thread at a time.
        on_result: called once a source with its position, from 0, and its result or failure, by the writers and
            therefore in any order (`InOrder` restores that of the sources).
        readers: threads that read and resize; 0: as `default_readers`.
        writers: threads that make results and call `on_result`.
        keep_pixels: a result keeps its picture, to be drawn on, where it has no more pixels than this.

    Returns:
        Where the time went.

    Raises:
        Exception: the first that `model.run`, `on_result` or `sources` raised, once all threads have ended.
    """
    readers = readers or default_readers(model.provider_report().provider, usable_cores())
    reader, rule = _Reader(model, sources, keep_pixels), model.description
    timings, started = Timings(), time.perf_counter()
    with single_threaded_opencv(), _pool(readers, "reader") as reading, _pool(writers, "writer") as writing:
        results = _Results(writing, on_result, 2 * model.batch, model.description.thresholds.max_detections)

        def readable_pictures() -> Iterator[InputPicture]:
            for position, outcome, seconds in reader.read_all(reading, ahead=model.batch + readers):
                timings.decode_s += seconds
                if isinstance(outcome, Failed):
                    results.add(position, outcome)
                else:
                    timings.sizes[resized_size(*outcome.info.size_hw, rule.short_side, rule.long_side)] += 1
                    timings.firsts += outcome.is_first
                    yield outcome

        def run_batch(batch: Sequence[InputPicture]) -> Arrays:
            # A model of any canvas takes any number of pictures: blanks would only cost.
            inputs = batch_arrays(batch, len(batch) if model.canvases is None else model.batch)
            run_started = time.perf_counter()
            outputs = model.run(*inputs)
            timings.run_s.append(time.perf_counter() - run_started)
            load = timings.loads.get(batch[0].canvas, Load(0, 0))
            timings.loads[batch[0].canvas] = Load(load.pictures + len(batch), load.runs + 1)
            return outputs

        most_open = OWN_OPEN if model.canvases is None else len(model.canvases)
        for batch in fill_batches(readable_pictures(), model.batch, most_open):
            outputs = run_batch(batch)
            for index, picture in enumerate(batch):
                results.add(picture.position, partial(result_of, outputs, index, picture.info, model.description))
        results.finish()
    timings.count(Counter(), model.canvases)
    timings.post_s, timings.seconds = results.seconds, time.perf_counter() - started
    timings.first_s = None if results.first_at is None else results.first_at - started
    timings.full = results.full
    return timings


class InOrder(Generic[T]):
    """Values that come in any order, given out in the order of their positions 0, 1, 2, ..."""

    def __init__(self) -> None:
        self._early: dict[int, T] = {}
        self._next = 0

    def add(self, position: int, value: T) -> Iterator[T]:
        """The values whose turn it is now."""
        self._early[position] = value
        while self._next in self._early:
            yield self._early.pop(self._next)
            self._next += 1


@contextlib.contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Readers are the parallel part: OpenCV's own threads would take the cores from them and from the model."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextlib.contextmanager
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that have ended after the block; work that they have not begun by then is dropped."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Read(NamedTuple):
    """What came of one source."""

    position: int
    outcome: InputPicture | Failed
    seconds: float  # that it took


class _Reader:
    """Reads the pictures of some sources, in several threads."""

    def __init__(self, model: Model, sources: Iterable[Source], keep_pixels: int) -> None:
        self._read = PictureReader(model, keep_pixels)
        self._numbered = enumerate(sources)
        self._source_lock = threading.Lock()

    def read_all(self, pool: ThreadPoolExecutor, ahead: int) -> Iterator[_Read]:
        """All pictures in order; `ahead` of them are being read, or wait for the caller."""
        in_order: InOrder[_Read] = InOrder()  # threads may overtake one another on the way to the next source
        reads = deque(pool.submit(self._read_next) for _ in range(ahead))
        while reads:
            read = reads.popleft().result()
            if read is not None:
                reads.append(pool.submit(self._read_next))
                yield from in_order.add(read.position, read)

    def _read_next(self) -> _Read | None:
        """Read the next picture; None after the last."""
        with self._source_lock:  # a video decodes its frame here, one after the other
            started = time.perf_counter()
            entry = next(self._numbered, None)
            source_s = time.perf_counter() - started
        if entry is None:
            return None
        position, source = entry
        started = time.perf_counter()
        outcome = self._read(position, source)
        return _Read(position, outcome, source_s + time.perf_counter() - started)


class _Results:
    """Results that a pool of threads makes and hands to `on_result`, a bounded number at a time."""

    def __init__(self, pool: ThreadPoolExecutor, on_result: OnResult, most: int, most_detections: int) -> None:
        """most: results that are unfinished at a time. most_detections: of a picture, that the model gives."""
        self.seconds = 0.0  # that finished ones took
        self.full = 0  # finished ones with all the detections that the model gives, each of them confident
        self.first_at: float | None = None  # time.perf_counter() at the first
        self._pool = pool
        self._on_result = on_result
        self._most = most
        self._most_detections = most_detections
        self._lock = threading.Lock()
        self._unfinished: deque[Future[float]] = deque()

    def add(self, position: int, outcome: Failed | Callable[[], Result]) -> None:
        """Begin with one, when there is room for it; raises what one before it raised."""
        self.finish(self._most - 1)
        self._unfinished.append(self._pool.submit(self._write, position, outcome))

    def finish(self, most: int = 0) -> None:
        """Wait until no more than `most` are unfinished; raises what one of them raised."""
        while self._unfinished and (len(self._unfinished) > most or self._unfinished[0].done()):
            self.seconds += self._unfinished.popleft().result()

    def _write(self, position: int, outcome: Failed | Callable[[], Result]) -> float:
        started = time.perf_counter()
        result = outcome if isinstance(outcome, Failed) else outcome()
        self._on_result(position, result)
        ended = time.perf_counter()
        if not isinstance(result, Failed):
            is_full = len(result) >= self._most_detections and len(result.confident()) == len(result)
            with self._lock:
                self.full += is_full
                self.first_at = ended if self.first_at is None else self.first_at
        return ended - started

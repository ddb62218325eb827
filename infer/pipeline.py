"""Pictures through a model: several threads read and resize, one runs, others turn outputs into results.

The calling thread owns the model and does nothing else. Memory is bounded: see `infer.batches`. NumPy and OpenCV only.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.transforms import Image, resize
from gfl.errors import InputError
from gfl.machine import usable_cores
from gfl.runtime.description import Arrays, Description
from gfl.runtime.providers import ProviderReport
from gfl.runtime.result import PictureInfo, Result, result_of
from gfl.shapes import Canvas
from infer.batches import OWN_OPEN, Batches, Member, StoppedError
from infer.sources import Source

T = TypeVar("T")

LARGE_PIXELS = 32_000_000  # of a picture; beyond, one at a time is decoded: 108 Mpx take 650 MB until they are shrunk
MOST_READERS = 8


class Runner(Protocol):
    """The part of `gfl.runtime.model.Model` that is used here."""

    @property
    def description(self) -> Description:
        """Class names, category ids and resize rule."""

    @property
    def canvases(self) -> tuple[Canvas, ...] | None:
        """Its static sizes; None where each picture has its own."""

    @property
    def batch(self) -> int:
        """Pictures a run."""

    @property
    def run(self) -> Callable[[NDArray[np.uint8], NDArray[np.int32]], Arrays]:
        """uint8 (B,3,H,W) and int32 (B,2) -> outputs by name."""

    @property
    def provider_report(self) -> Callable[[], ProviderReport]:
        """What runs it, as far as that is known."""

    def canvas_for(self, height: int, width: int) -> tuple[Canvas, tuple[int, int]]:
        """A picture's canvas and its resized size in it."""


class Failed(NamedTuple):
    """A picture that could not be read."""

    source: str
    reason: str  # one sentence


OnResult = Callable[[int, Result | Failed], None]


class Load(NamedTuple):
    """What went through one canvas."""

    pictures: int
    runs: int


@dataclass(frozen=True)
class Timings:
    """Where the time went, in seconds of wall time."""

    seconds: float  # from the first reading to the last result
    first_s: float | None  # to the first result; None without one
    decode_s: float  # reading, decoding, resizing, copying into the batch: the sum over the readers
    run_s: tuple[float, ...]  # of each run of the model
    post_s: float  # outputs into results and `on_result`: the sum over the writers
    loads: dict[Canvas, Load]

    @property
    def shares(self) -> dict[str, float]:
        """Each part's share of the three together; all zero where nothing was done."""
        parts = {"decode": self.decode_s, "run": sum(self.run_s), "post": self.post_s}
        total = sum(parts.values())
        return {name: part / total if total else 0.0 for name, part in parts.items()}


def usual_readers(report: ProviderReport) -> int:
    """One a core, two to eight; half of them beside a model on the CPU, whose own threads wait for one another."""
    on_cpu = "cpu" in report.provider.lower()
    return min(max(usable_cores() // 2, 1) if on_cpu else max(usable_cores(), 2), MOST_READERS)


def run_pictures(
    model: Runner,
    sources: Iterable[Source],
    on_result: OnResult,
    *,
    readers: int = 0,
    writers: int = 1,
    keep_pixels: int = 0,
) -> Timings:
    """Run a model over pictures in batches that are filled a canvas at a time.

    sources: taken one at a time, by one thread at a time. on_result: called once a source with its place among them
    and its result or failure, by several threads and in any order (`in_order` puts them in turn).
    readers: threads that read and resize; 0: as `usual_readers`. writers: threads that make results.
    keep_pixels: a result keeps its picture, to be drawn on, where it has no more pixels than this.
    Raises what `model.run`, `on_result` and `sources` raise, once all threads are gone.
    """
    readers = readers or usual_readers(model.provider_report())
    stages = _Stages(model, sources, on_result, keep_pixels, readers)
    threads = [threading.Thread(target=stages.read, name=f"reader {i}", daemon=True) for i in range(readers)]
    threads += [threading.Thread(target=stages.write, name=f"writer {i}", daemon=True) for i in range(writers)]
    with _single_threaded_opencv():
        for thread in threads:
            thread.start()
        try:
            with contextlib.suppress(StoppedError):
                stages.run()
        except BaseException:
            stages.batches.stop()
            raise
        finally:
            for _ in range(writers):
                stages.ran.put(None)
            for thread in threads:
                thread.join()
    if stages.batches.error is not None:
        raise stages.batches.error
    return stages.timings()


def in_order(take: Callable[[int, T], None]) -> Callable[[int, T], None]:
    """The same, called by one thread at a time, for place 0, 1, 2, ...; what comes early waits."""
    lock = threading.Lock()
    waiting: dict[int, T] = {}
    following = 0

    def put(index: int, value: T) -> None:
        nonlocal following
        with lock:
            waiting[index] = value
            while following in waiting:
                take(following, waiting.pop(following))
                following += 1

    return put


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Readers are the parallel part: OpenCV's own threads would take the cores from them and from the model."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class _Ran(NamedTuple):
    """One picture's place in the outputs of a run."""

    member: Member
    arrays: Arrays
    slot: int


class _Stages:
    """What the threads share, and what each of them does."""

    def __init__(
        self, model: Runner, sources: Iterable[Source], on_result: OnResult, keep_pixels: int, readers: int
    ) -> None:
        self.model = model
        self.on_result = on_result
        self.keep_pixels = keep_pixels
        self.batches = Batches(model.batch, OWN_OPEN if model.canvases is None else len(model.canvases))
        self.ran: queue.Queue[_Ran | None] = queue.Queue(maxsize=2 * model.batch)  # a run that is written, one behind
        self._numbered = enumerate(sources)
        self._source_lock = threading.Lock()
        self._large = threading.Lock()
        self._readers = readers
        self._clock_lock = threading.Lock()
        self._started = time.perf_counter()
        self._first_s: float | None = None
        self._decode_s = self._post_s = 0.0
        self._run_s: list[float] = []
        self._loads: dict[Canvas, Load] = {}

    # ---- the model's thread ----

    def run(self) -> None:
        """Run batches until there is none left. Raises StoppedError where another thread failed."""
        own = self.model.canvases is None  # nothing is static then, and blanks would only cost
        while (batch := self.batches.take()) is not None:
            count = len(batch.members)
            batch.blank()
            shown = count if own else len(batch.images)
            started = time.perf_counter()
            arrays = self.model.run(batch.images[:shown], batch.image_sizes[:shown])
            self._run_s.append(time.perf_counter() - started)
            before = self._loads.get(batch.canvas, Load(0, 0))
            self._loads[batch.canvas] = Load(before.pictures + count, before.runs + 1)
            members = batch.members
            self.batches.give_back(batch)
            for slot, member in enumerate(members):
                self.ran.put(_Ran(member, arrays, slot))

    # ---- readers ----

    def read(self) -> None:
        """Read pictures until there is none left; the last reader says so."""
        try:
            while (entry := self._next_source()) is not None:
                self._read_one(*entry)
        except StoppedError:
            pass
        except BaseException as error:
            self.batches.stop(error)
        finally:
            with self._clock_lock:
                self._readers -= 1
                last = self._readers == 0
            if last:
                self.batches.end()

    def _next_source(self) -> tuple[int, Source] | None:
        with self._source_lock:  # a video decodes its frame here, one after the other
            started = time.perf_counter()
            entry = next(self._numbered, None)
            self._count_decode(time.perf_counter() - started)
        return entry

    def _read_one(self, index: int, source: Source) -> None:
        started = time.perf_counter()
        try:
            canvas, placed, image = self._resized(source)
        except InputError as error:
            self.batches.pass_over(index)
            self.on_result(index, Failed(source.name, str(error)))
            return
        read_s = time.perf_counter() - started
        batch, slot = self.batches.claim(index, canvas, placed)
        started = time.perf_counter()
        batch.fill(slot, image)
        self.batches.filled(batch)
        self._count_decode(read_s + time.perf_counter() - started)

    def _count_decode(self, seconds: float) -> None:
        with self._clock_lock:
            self._decode_s += seconds

    def _resized(self, source: Source) -> tuple[Canvas, PictureInfo, Image]:
        """Decode a picture and resize it to its canvas; the original is let go here, unless it is to be kept."""
        opened = source.open()
        with self._large if opened.pixels > LARGE_PIXELS else contextlib.nullcontext():
            image = opened.decode()
            height, width = image.shape[:2]
            canvas, resized_hw = self.model.canvas_for(height, width)
            kept = image if height * width <= self.keep_pixels else None
            return canvas, PictureInfo(source.name, (height, width), resized_hw, kept), resize(image, resized_hw)

    # ---- writers ----

    def write(self) -> None:
        """Make results until None comes; after a stop only empty the queue, so that nobody waits to put."""
        while (ran := self.ran.get()) is not None:
            if self.batches.stopped:
                continue
            try:
                started = time.perf_counter()
                result = result_of(ran.arrays, ran.slot, ran.member.placed, self.model.description)
                self.on_result(ran.member.place, result)
                self._count_post(started, time.perf_counter())
            except BaseException as error:
                self.batches.stop(error)

    def _count_post(self, started: float, ended: float) -> None:
        with self._clock_lock:
            self._post_s += ended - started
            if self._first_s is None:
                self._first_s = ended - self._started

    def timings(self) -> Timings:
        """After all threads are gone."""
        seconds = time.perf_counter() - self._started
        return Timings(seconds, self._first_s, self._decode_s, tuple(self._run_s), self._post_s, self._loads)

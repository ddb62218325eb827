"""Batches of fixed shape from a plan: workers read them into shared memory, and nothing is copied together afterwards.

A batch's tensors are views of a slot of that memory (`gfl.data.shared_memory`), which is used for a later batch only
when all of them are gone; who holds more than a few gets copies. Letters: B pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

import torch

from gfl.data.batch_arrays import BatchArrays, BatchShape, arrays_in, batch_bytes, new_arrays
from gfl.data.canvas import by_area
from gfl.data.coco import CocoData
from gfl.data.fill import Filled, Work, fill_batch
from gfl.data.plan import BLANK, BatchPlan, Plan, eval_plan, eval_shrinkage, train_plan
from gfl.data.shared_memory import (
    HELD,
    PREFETCHED,
    SharedMemory,
    Slots,
    allocate_shared,
    check_shared_memory,
    megabytes,
    slot_of,
    slots_for,
)
from gfl.data.sizes import box_slots, check_fits, ignored_slots, largest_canvas
from gfl.data.workers import Workers
from gfl.memory import memory_told
from gfl.model.structures import Batch
from gfl.settings import DataConfig
from gfl.shapes import Canvas
from gfl.words import counted, printable

MOST_NAMED = 3  # pictures of a batch that an error names


class LoadedBatch(NamedTuple):
    """One batch and what the host knows about it."""

    batch: Batch
    image_ids: tuple[int, ...]  # -1 for a blank, be it planned or a picture that could not be read
    scales: torch.Tensor  # float32 (B,2) resized / original, height then width; 1 for a blank
    canvas: Canvas
    epoch: int
    index: int  # type: ignore[assignment]  # it hides tuple.index, which nothing needs; position among the epoch's batches
    failed: tuple[str, ...]  # why pictures could not be read, a sentence each

    def pin_memory(self) -> LoadedBatch:
        """A copy with its tensors in page-locked memory."""
        return self._replace(batch=Batch(*(part.pin_memory() for part in self.batch)), scales=self.scales.pin_memory())


def loaded_batch(plan: BatchPlan, filled: Filled, arrays: BatchArrays) -> LoadedBatch:
    """A batch whose tensors are views of the arrays; the scales, which are kept longest, are a copy."""
    *parts, scales = (torch.from_numpy(array) for array in arrays)
    return LoadedBatch(
        Batch(*parts), filled.image_ids, scales.clone(), plan.canvas, plan.epoch, plan.index, filled.failed
    )


def load_batch(work: Work, boxes_padded: int, ignored_padded: int) -> LoadedBatch:
    """Read a batch in this process, into memory of its own.

    boxes_padded, ignored_padded: how many boxes, and crowd boxes, each picture is padded to. Raises InputError where
    memory does not suffice.
    """
    with memory_told(f"memory ran out while {named(work)} were read", "lower BATCH_SIZE (--batch of gfl.evaluate)"):
        arrays = new_arrays(BatchShape(len(work.pictures), work.plan.canvas, boxes_padded, ignored_padded))
        return loaded_batch(work.plan, fill_batch(work, arrays), arrays)


def named(work: Work) -> str:
    """The pictures of a batch in words, the first of them by name: 'a.jpg, b.jpg, c.jpg and 13 more'."""
    pictures = [picture for picture in work.pictures if picture is not None]
    more = len(pictures) - MOST_NAMED
    names = ", ".join(printable(str(picture.path)) for picture in pictures[:MOST_NAMED])
    return names + (f" and {more:,} more" if more > 0 else "")


class Order(NamedTuple):
    """A batch for a worker, and the slot that it goes into."""

    work: Work
    slot: int


def fill_slot(order: Order, memory: SharedMemory, slot_bytes: int, boxes_padded: int, ignored_padded: int) -> Filled:
    """Read a batch into its slot; in a worker."""
    shape = BatchShape(len(order.work.pictures), order.work.plan.canvas, boxes_padded, ignored_padded)
    return fill_batch(order.work, arrays_in(slot_of(memory, order.slot, slot_bytes), shape))


class Readers:
    """Worker processes and the slots that they fill. All of it starts with the first batch, and then stays."""

    def __init__(self, count: int, slot_bytes: int, boxes_padded: int, ignored_padded: int) -> None:
        self.boxes, self.ignored = boxes_padded, ignored_padded
        memory = allocate_shared(slots_for(count) * slot_bytes)
        self._slots = Slots(memory, slots_for(count), slot_bytes)
        fill = partial(
            fill_slot, memory=memory, slot_bytes=slot_bytes, boxes_padded=boxes_padded, ignored_padded=ignored_padded
        )
        self._workers: Workers[Order, Filled] = Workers(count, fill)
        self._ordered: deque[tuple[int, Order]] = deque()  # worker and order, oldest first
        self._next_worker = self._pass = 0

    @property
    def alive(self) -> bool:
        """Whether there are workers still: an error ends them."""
        return self._workers.close.alive

    def read(self, works: Iterator[Work]) -> Iterator[LoadedBatch]:
        """The batches in order. A new pass ends the one before, whose batches stay as they are."""
        self._pass += 1
        this_pass = self._pass
        with self._ended_by_errors():
            while self._ordered:  # of a pass that was left early
                worker, order = self._ordered.popleft()
                self._workers.take(worker, named(order.work))
                self._slots.give_back(order.slot)
            for work in islice(works, PREFETCHED * len(self._workers)):
                self._order(work)
        while self._ordered:
            yield self._receive(works)  # no name here may hold a batch
            if self._pass != this_pass:
                raise RuntimeError("got a pass that another one has ended, expected one pass at a time")

    def _order(self, work: Work) -> None:
        """Give a batch to the worker whose turn it is."""
        order = Order(work, self._slots.take())
        self._ordered.append((self._next_worker, order))
        self._workers.give(self._next_worker, order)
        self._next_worker = (self._next_worker + 1) % len(self._workers)

    def _receive(self, works: Iterator[Work]) -> LoadedBatch:
        """The oldest batch that was ordered. Its worker gets a new one."""
        with self._ended_by_errors():
            worker, (work, slot) = self._ordered.popleft()
            filled = self._workers.take(worker, named(work))
            held = self._slots.count - self._slots.free - len(self._ordered)  # with this one
            memory = self._slots.lend(slot)
            # Slots that are held are not there for the workers: those beyond HELD are copied, and free at once.
            memory = memory if held <= HELD else memory.copy()
            for following in islice(works, 1):
                self._order(following)
        shape = BatchShape(len(work.pictures), work.plan.canvas, self.boxes, self.ignored)
        return loaded_batch(work.plan, filled, arrays_in(memory, shape))

    @contextmanager
    def _ended_by_errors(self) -> Iterator[None]:
        """Around what workers are asked: after an error, or Ctrl-C, it is not known what they would answer."""
        try:
            yield
        except BaseException:
            self._workers.close()
            raise


class PlannedLoader:
    """Runs plans through worker processes that live as long as it does; one pass at a time."""

    def __init__(
        self,
        data: CocoData,
        boxes_padded: int,
        *,
        batch_size: int,
        largest: Canvas,
        workers: int,
        pin_memory: bool = False,
        beside: PlannedLoader | None = None,
    ) -> None:
        """boxes_padded: how many boxes each picture is padded to. workers: how many processes; 0 reads in this one.

        batch_size, largest: of the largest batch. beside: another loader with as many workers, which live while these
        do. Raises InputError where shared memory does not hold the workers'.
        """
        self.data, self.box_slots, self.workers, self.pin_memory = data, boxes_padded, workers, pin_memory
        self._ignored_slots = ignored_slots(data)
        self._slot_bytes = batch_bytes(BatchShape(batch_size, largest, boxes_padded, self._ignored_slots))
        check_shared_memory(workers, self._slot_bytes + (beside._slot_bytes if beside else 0))
        self._readers: Readers | None = None

    def memory_line(self) -> str:
        """What the workers take, in words: '2 workers, 39 MB of shared memory in 6 slots'."""
        if not self.workers:
            return "pictures are read by the training process itself (WORKERS = 0)"
        slots = slots_for(self.workers)
        memory = f"{megabytes(slots * self._slot_bytes)} of shared memory in {slots} slots"
        return f"{counted(self.workers, 'worker')}, {memory}"

    def batches(self, plan: Sequence[BatchPlan]) -> Iterator[LoadedBatch]:
        """The plan's batches in order: the same bytes whatever the workers.

        Raises InputError where a worker is gone, or has too little memory for a batch.
        """
        pictures = self.data.pictures
        works = (
            Work(batch, tuple(None if row.picture == BLANK else pictures[row.picture] for row in batch.pictures))
            for batch in plan
        )
        loaded: Iterator[LoadedBatch]
        if not self.workers:
            loaded = (load_batch(work, self.box_slots, self._ignored_slots) for work in works)
        else:
            if self._readers is None or not self._readers.alive:
                self._readers = Readers(self.workers, self._slot_bytes, self.box_slots, self._ignored_slots)
            loaded = self._readers.read(works)
        return map(LoadedBatch.pin_memory, loaded) if self.pin_memory else loaded


class TrainLoader(PlannedLoader):
    """The training batches of any epoch: `batches(plan(epoch))`; to go on from batch 7, `batches(plan(epoch)[7:])`."""

    def __init__(
        self,
        data: CocoData,
        cfg: DataConfig,
        canvases: Sequence[Canvas] | None,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
    ) -> None:
        """Arguments as of `train_plan` and `PlannedLoader`.

        Raises InputError where a picture has more boxes than MAX_BOXES or fits no canvas.
        """
        self.batch_size, self.canvases = batch_size, None if canvases is None else tuple(canvases)
        check_fits(data.pictures, cfg, self.canvases)
        plan = partial(
            train_plan, data.pictures, cfg, self.canvases, batch_size=batch_size, seed=seed, rank=rank, world=world
        )
        self._plan = lru_cache(maxsize=1)(plan)  # a run's length, its head and its epoch ask for the same one
        super().__init__(
            data,
            box_slots(data, cfg.max_boxes),
            batch_size=batch_size,
            largest=largest_canvas(data.pictures, cfg, self.canvases),
            workers=cfg.workers,
            pin_memory=pin_memory,
        )

    def plan(self, epoch: int) -> Plan:
        """This rank's batches of an epoch; their number may differ between epochs in multi-scale training."""
        return self._plan(epoch=epoch)


class EvalLoader(PlannedLoader):
    """Every picture once, in a fixed order; iterate as often as wanted.

    A picture that cannot be read is a blank, so it has no detections.
    """

    def __init__(
        self,
        data: CocoData,
        cfg: DataConfig,
        canvases: Sequence[Canvas] | None,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        beside: PlannedLoader | None = None,
    ) -> None:
        """Arguments as of `eval_plan` and `PlannedLoader`."""
        self.plan = eval_plan(data.pictures, cfg, canvases, batch_size=batch_size, rank=rank, world=world)
        self.shrinkage = eval_shrinkage(data.pictures, cfg, canvases)
        # MAX_BOXES is training's: boxes do not enter evaluation's graph.
        largest = max(self.plan.canvases, key=by_area, default=(0, 0))
        slots = box_slots(data, "auto")
        super().__init__(data, slots, batch_size=batch_size, largest=largest, workers=cfg.workers, beside=beside)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[LoadedBatch]:
        return self.batches(self.plan)

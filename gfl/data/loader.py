"""Batches of fixed shape from a plan: a worker builds a whole batch, so that nothing is copied together afterwards.

The work item that goes to a worker carries its pictures' paths and boxes: workers hold no data set, are cheap to start
by fork or by spawn, and live on from epoch to epoch. Letters: B pictures, G box slots, I slots of ignored boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gfl.data import boxes, transforms
from gfl.data.canvas import by_area
from gfl.data.coco import CocoData, Picture
from gfl.data.picture_files import read_picture
from gfl.data.plan import BatchPlan, PlannedPicture, eval_plan, eval_shrinkage, train_plan
from gfl.data.shared_memory import (
    PREFETCHED,
    SILENCE_S,
    batch_bytes,
    check_shared_memory,
    memory_text,
    share,
    worker_errors,
)
from gfl.data.sizes import box_slots, check_fits, ignored_slots, largest_canvas
from gfl.errors import InputError, first_line
from gfl.model.structures import Batch
from gfl.settings import DataConfig
from gfl.shapes import Canvas
from gfl.signals import obey_the_parent_alone

NO_IMAGE = -1  # image id of a blank


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
        """The same with its tensors in page-locked memory; DataLoader calls it."""
        return self._replace(batch=Batch(*(part.pin_memory() for part in self.batch)), scales=self.scales.pin_memory())


class Work(NamedTuple):
    """What a worker needs for one batch: the plan and its pictures, None for a blank."""

    plan: BatchPlan
    pictures: tuple[Picture | None, ...]


class WorkItems(Dataset[Work]):
    """Hands a work item on as it is: the sampler makes it, and `build_batch` reads its pictures, in the worker."""

    def __getitem__(self, work: Work) -> Work:
        return work


def build_batch(work: Work, boxes_padded: int, ignored_padded: int) -> LoadedBatch:
    """Read and change the pictures of one batch; a picture that cannot be read becomes a blank, with a reason.

    boxes_padded, ignored_padded: how many boxes, and crowd boxes, each picture is padded to.
    """
    count, (height, width) = len(work.pictures), work.plan.canvas
    images = np.empty((count, 3, height, width), np.uint8)  # every pixel is written below
    image_sizes = np.zeros((count, 2), np.int32)
    boxes_xyxy, labels = np.zeros((count, boxes_padded, 4), np.float32), np.zeros((count, boxes_padded), np.int32)
    ignored_xyxy = np.zeros((count, ignored_padded, 4), np.float32)
    box_mask, ignored_mask = np.zeros((count, boxes_padded), np.bool_), np.zeros((count, ignored_padded), np.bool_)
    weights, scales = np.zeros(count, np.float32), np.ones((count, 2), np.float32)
    image_ids, failed = [NO_IMAGE] * count, []
    for i, (picture, planned) in enumerate(zip(work.pictures, work.plan.pictures, strict=True)):
        try:
            image = None if picture is None else load_image(picture, planned)
        except InputError as error:
            image = None
            failed.append(str(error))
        if picture is None or image is None:
            images[i] = 0
            continue
        transforms.place_on_canvas(image, images[i])
        image_sizes[i], weights[i], image_ids[i] = planned.size_hw, 1.0, picture.id
        scales[i] = boxes.scale_factors((picture.height, picture.width), planned.size_hw)
        truths, crowds = len(picture.boxes_xyxy), len(picture.ignored_xyxy)
        boxes_xyxy[i, :truths] = change_boxes(picture.boxes_xyxy, picture, planned)
        ignored_xyxy[i, :crowds] = change_boxes(picture.ignored_xyxy, picture, planned)
        labels[i, :truths], box_mask[i, :truths], ignored_mask[i, :crowds] = picture.labels, True, True
    arrays = (images, image_sizes, boxes_xyxy, labels, box_mask, ignored_xyxy, ignored_mask, weights)
    return LoadedBatch(
        Batch(*(torch.from_numpy(array) for array in arrays)),
        tuple(image_ids),
        torch.from_numpy(scales),
        work.plan.canvas,
        work.plan.epoch,
        work.plan.index,
        tuple(failed),
    )


def deliver_batch(work: Work, boxes_padded: int, ignored_padded: int) -> LoadedBatch | str:
    """As `build_batch`, in a worker or not; why there is no batch where memory does not suffice for it."""
    try:
        loaded = build_batch(work, boxes_padded, ignored_padded)
    except MemoryError as error:
        return memory_text(first_line(error))
    return share((*loaded.batch, loaded.scales)) or loaded


def load_image(picture: Picture, planned: PlannedPicture) -> transforms.Image:
    """The picture (h,w,3), resized and changed as planned.

    Raises InputError where it cannot be read, or has another size than its annotations say.
    """
    image = read_picture(picture.path)
    if image.shape[:2] != (picture.height, picture.width):
        raise InputError(
            f"got {picture.path} of {image.shape[0]}x{image.shape[1]} (height x width, EXIF orientation applied), "
            f"expected {picture.height}x{picture.width} as the annotations say; correct the annotations or the file"
        )
    image = transforms.resize(image, planned.size_hw)
    if planned.flip:
        image = transforms.flip_horizontal(image)
    if planned.flip_vertical:
        image = transforms.flip_vertical(image)
    return transforms.jitter(image, planned.brightness, planned.contrast)


def change_boxes(boxes_xyxy: boxes.Boxes, picture: Picture, planned: PlannedPicture) -> boxes.Boxes:
    """Original boxes (G,4) -> boxes in canvas px."""
    boxes_xyxy = boxes.scale_boxes(boxes_xyxy, (picture.height, picture.width), planned.size_hw)
    if planned.flip:
        boxes_xyxy = boxes.flip_boxes_horizontal(boxes_xyxy, planned.size_hw[1])
    if planned.flip_vertical:
        boxes_xyxy = boxes.flip_boxes_vertical(boxes_xyxy, planned.size_hw[0])
    return boxes_xyxy


def start_worker(_: int) -> None:
    """One thread a worker: the workers themselves are the parallelism. It ends when the loader says so."""
    obey_the_parent_alone()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


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
    ) -> None:
        """boxes_padded: how many boxes each picture is padded to. workers: how many processes; 0 reads in this one.

        batch_size, largest: of the largest batch. Raises InputError where shared memory does not hold the workers'.
        """
        self.data, self.box_slots = data, boxes_padded
        ignored_padded = ignored_slots(data)
        check_shared_memory(workers, batch_bytes(batch_size, largest, boxes_padded, ignored_padded))
        self._work: list[Work] = []  # of the plan that was set last
        self._loader = DataLoader(
            WorkItems(),
            batch_size=None,
            sampler=self._work,
            num_workers=workers,
            collate_fn=partial(deliver_batch, boxes_padded=boxes_padded, ignored_padded=ignored_padded),
            prefetch_factor=PREFETCHED if workers else None,
            timeout=SILENCE_S if workers else 0,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own: each pass draws from it, and must not move the run's random numbers
        )

    def batches(self, plan: tuple[BatchPlan, ...]) -> Iterator[LoadedBatch]:
        """The plan's batches in order: the same bytes whatever the workers.

        Raises InputError where a worker is gone, or has too little memory for a batch.
        """
        pictures = dict(enumerate(self.data.pictures))  # BLANK is not among them: None
        self._work[:] = [Work(batch, tuple(pictures.get(row.picture) for row in batch.pictures)) for batch in plan]
        with worker_errors():
            for loaded in self._loader:
                if isinstance(loaded, str):
                    raise InputError(loaded)
                yield loaded


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

    def plan(self, epoch: int) -> tuple[BatchPlan, ...]:
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
    ) -> None:
        """Arguments as of `eval_plan`."""
        self.plan = eval_plan(data.pictures, cfg, canvases, batch_size=batch_size, rank=rank, world=world)
        self.shrinkage = eval_shrinkage(data.pictures, cfg, canvases)
        # MAX_BOXES is training's: boxes do not enter evaluation's graph.
        largest = max((batch.canvas for batch in self.plan), key=by_area, default=(0, 0))
        super().__init__(data, box_slots(data, "auto"), batch_size=batch_size, largest=largest, workers=cfg.workers)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[LoadedBatch]:
        return self.batches(self.plan)

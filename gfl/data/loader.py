"""Batches of fixed shape from a plan: a worker builds a whole batch, so nothing is copied together afterwards.

The work item that goes to a worker carries its pictures' paths and boxes: workers hold no data set, are cheap to start
by fork or by spawn, and live over the epochs. Letters: B pictures, G box slots, I ignored slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gfl.data import transforms
from gfl.data.coco import CocoData, Picture
from gfl.data.picture_files import read_picture
from gfl.data.plan import BLANK, BatchPlan, PlannedPicture, eval_plan, train_plan
from gfl.data.sizes import box_slots, canvases_for, check_fits, ignored_slots
from gfl.errors import InputError
from gfl.model.structures import Batch
from gfl.settings import DataConfig
from gfl.shapes import Canvas

__all__ = ["EvalLoader", "LoadedBatch", "TrainLoader", "canvases_for"]

Item = TypeVar("Item")
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


class BatchBuilder(Dataset[LoadedBatch]):
    """Work -> LoadedBatch, with fixed numbers of slots; the only state that a worker has."""

    def __init__(self, boxes: int, ignored: int) -> None:
        self.boxes = boxes
        self.ignored = ignored

    def __getitem__(self, work: Work) -> LoadedBatch:
        """Read, change and place the pictures of one batch."""
        return build_batch(work, self.boxes, self.ignored)


class PlannedWork(Sampler[Work]):
    """The work items of the plan that was set last."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures = pictures
        self.plan: tuple[BatchPlan, ...] = ()

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Work]:
        for plan in self.plan:
            chosen = (None if planned.picture == BLANK else self.pictures[planned.picture] for planned in plan.pictures)
            yield Work(plan, tuple(chosen))


def build_batch(work: Work, boxes: int, ignored: int) -> LoadedBatch:
    """Read and place the pictures of one batch; a picture that cannot be read becomes a blank, with a reason."""
    count, (height, width) = len(work.pictures), work.plan.canvas
    images = np.zeros((count, 3, height, width), np.uint8)
    image_sizes = np.zeros((count, 2), np.int32)
    boxes_xyxy, labels = np.zeros((count, boxes, 4), np.float32), np.zeros((count, boxes), np.int32)
    ignored_xyxy = np.zeros((count, ignored, 4), np.float32)
    box_mask, ignored_mask = np.zeros((count, boxes), np.bool_), np.zeros((count, ignored), np.bool_)
    weights, scales = np.zeros(count, np.float32), np.ones((count, 2), np.float32)
    image_ids, failed = [NO_IMAGE] * count, []
    for i, (picture, planned) in enumerate(zip(work.pictures, work.plan.pictures, strict=True)):
        if picture is None:
            continue
        try:
            image = load_image(picture, planned)
        except InputError as error:
            failed.append(str(error))
            continue
        high, wide = planned.size_hw
        images[i, :, :high, :wide] = image.transpose(2, 0, 1)
        image_sizes[i], weights[i], image_ids[i] = planned.size_hw, 1.0, picture.id
        scales[i] = transforms.scale_factors((picture.height, picture.width), planned.size_hw)
        truths, crowds = len(picture.boxes_xyxy), len(picture.ignored_xyxy)
        boxes_xyxy[i, :truths] = change_boxes(picture.boxes_xyxy, picture, planned)
        ignored_xyxy[i, :crowds] = change_boxes(picture.ignored_xyxy, picture, planned)
        labels[i, :truths], box_mask[i, :truths], ignored_mask[i, :crowds] = picture.labels, True, True
    arrays = (images, image_sizes, boxes_xyxy, labels, box_mask, ignored_xyxy, ignored_mask, weights)
    batch = Batch(*(torch.from_numpy(array) for array in arrays))
    plan = work.plan
    ids = tuple(image_ids)
    return LoadedBatch(batch, ids, torch.from_numpy(scales), plan.canvas, plan.epoch, plan.index, tuple(failed))


def load_image(picture: Picture, planned: PlannedPicture) -> transforms.Image:
    """The picture as its place wants it, (h,w,3); raises InputError where it cannot be read or has another size."""
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


def change_boxes(boxes_xyxy: transforms.Boxes, picture: Picture, planned: PlannedPicture) -> transforms.Boxes:
    """Original boxes (G,4) -> boxes in canvas px."""
    boxes_xyxy = transforms.scale_boxes(boxes_xyxy, (picture.height, picture.width), planned.size_hw)
    if planned.flip:
        boxes_xyxy = transforms.flip_boxes_horizontal(boxes_xyxy, planned.size_hw[1])
    if planned.flip_vertical:
        boxes_xyxy = transforms.flip_boxes_vertical(boxes_xyxy, planned.size_hw[0])
    return boxes_xyxy


def start_worker(_: int) -> None:
    """One thread a worker: the workers themselves are the parallelism."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def keep_item(item: Item) -> Item:
    """In place of DataLoader's conversion: a batch leaves the builder as it is to be."""
    return item


class PlannedLoader:
    """Runs plans through workers that live as long as it does; one pass at a time."""

    def __init__(
        self,
        data: CocoData,
        boxes: int,
        ignored: int,
        *,
        workers: int,
        prefetch: int = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        if workers < 0:
            raise InputError(f"got WORKERS = {workers}, expected 0 (read in the program itself) or more; raise it")
        self.work = PlannedWork(data.pictures)
        self.loader: DataLoader[LoadedBatch] = DataLoader(
            BatchBuilder(boxes, ignored),
            batch_size=None,
            sampler=self.work,
            num_workers=workers,
            collate_fn=keep_item,
            pin_memory=pin_memory,
            worker_init_fn=start_worker,
            multiprocessing_context=start_method if workers else None,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch if workers else None,
            generator=torch.Generator(),  # its own: each pass draws from it, and must not move the run's random numbers
        )

    def run(self, plan: tuple[BatchPlan, ...]) -> Iterator[LoadedBatch]:
        """The plan's batches in order."""
        self.work.plan = plan
        yield from self.loader


class TrainLoader:
    """The training batches of any epoch; the workers stay alive between epochs.

    batch_size is pictures a batch and rank. Raises InputError at once where a picture has more boxes than MAX_BOXES or
    fits no canvas.
    """

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
        workers: int | None = None,
        prefetch: int = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        self.data, self.cfg, self.canvases = data, cfg, None if canvases is None else tuple(canvases)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        check_fits(data.pictures, cfg, self.canvases)
        self.box_slots, self.ignored_slots = box_slots(data, cfg.max_boxes), ignored_slots(data)
        self.planned = PlannedLoader(
            data,
            self.box_slots,
            self.ignored_slots,
            workers=cfg.workers if workers is None else workers,
            prefetch=prefetch,
            pin_memory=pin_memory,
            start_method=start_method,
        )

    def plan(self, epoch: int, start_batch: int = 0) -> tuple[BatchPlan, ...]:
        """This rank's batches of an epoch; their number may differ between epochs in multi-scale training."""
        return train_plan(
            self.data.pictures,
            self.cfg,
            self.canvases,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            start_batch=start_batch,
            rank=self.rank,
            world=self.world,
        )

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[LoadedBatch]:
        """The epoch's batches from start_batch on: the same bytes whatever the workers."""
        return self.planned.run(self.plan(epoch, start_batch))


class EvalLoader:
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
        workers: int | None = None,
        prefetch: int = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        self.plan = eval_plan(data.pictures, cfg, canvases, batch_size=batch_size, rank=rank, world=world)
        self.planned = PlannedLoader(
            data,
            box_slots(data, "auto"),  # MAX_BOXES is training's: boxes do not enter evaluation's graph
            ignored_slots(data),
            workers=cfg.workers if workers is None else workers,
            prefetch=prefetch,
            pin_memory=pin_memory,
            start_method=start_method,
        )

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[LoadedBatch]:
        return self.planned.run(self.plan)

"""Reading the pictures of one planned batch into the batch's arrays: what a worker does. NumPy and OpenCV only.

The work carries its pictures' paths and boxes: workers hold no data set, are cheap to start by fork or by spawn, and
live on from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from gfl.data import boxes, transforms
from gfl.data.batch_arrays import BatchArrays
from gfl.data.picture_files import decode_picture, read_bytes
from gfl.data.pictures import Picture
from gfl.data.plan import BatchPlan, PlannedPicture
from gfl.data.shards.member import Member
from gfl.errors import InputError
from gfl.storage import file_system

NO_IMAGE = -1  # image id of a blank
ASKED_AT_ONCE = 16  # pictures for which a storage is asked at the same time


class Work(NamedTuple):
    """What a worker needs for one batch: the plan and its pictures, None for a blank."""

    plan: BatchPlan
    pictures: tuple[Picture | None, ...]


class Filled(NamedTuple):
    """What the host knows of a batch whose arrays are filled."""

    image_ids: tuple[int, ...]  # NO_IMAGE for a blank, be it planned or a picture that could not be read
    failed: tuple[str, ...]  # why pictures could not be read, a sentence each


def fill_batch(work: Work, arrays: BatchArrays) -> Filled:
    """Read and change the pictures of one batch; a picture that cannot be read becomes a blank, with a reason.

    Every byte of the arrays is written, whatever they held.
    """
    for array in arrays[1:]:
        array[...] = 0
    arrays.scales[...] = 1
    image_ids, failed = [NO_IMAGE] * len(work.pictures), []
    coming = ask_for(work.pictures)
    for i, (picture, planned) in enumerate(zip(work.pictures, work.plan.pictures, strict=True)):
        try:
            image = None if picture is None else read_annotated(picture, coming.get(picture.id))
        except InputError as error:
            image = None
            failed.append(str(error))
        if picture is None or image is None:
            arrays.images[i] = 0
            continue
        transforms.change_onto(
            image,
            planned.size_hw,
            arrays.images[i],
            flip=planned.flip,
            flip_vertical=planned.flip_vertical,
            brightness=planned.brightness,
            contrast=planned.contrast,
        )
        arrays.image_sizes[i], arrays.image_weights[i], image_ids[i] = planned.size_hw, 1.0, picture.id
        arrays.scales[i] = boxes.scale_factors((picture.height, picture.width), planned.size_hw)
        truths, crowds = len(picture.boxes_xyxy), len(picture.ignored_xyxy)
        arrays.boxes_xyxy[i, :truths] = change_boxes(picture.boxes_xyxy, picture, planned)
        arrays.ignored_xyxy[i, :crowds] = change_boxes(picture.ignored_xyxy, picture, planned)
        arrays.labels[i, :truths], arrays.box_mask[i, :truths] = picture.labels, True
        arrays.ignored_mask[i, :crowds] = True
    return Filled(tuple(image_ids), tuple(failed))


def ask_for(pictures: Sequence[Picture | None]) -> dict[int, Future[bytes]]:
    """The bytes of those pictures that a storage sends, by their ids: they come while others are decoded."""
    pool = ThreadPoolExecutor(ASKED_AT_ONCE)  # without a thread until something is asked of it
    coming: dict[int, Future[bytes]] = {}
    for picture in pictures:
        if picture is not None and isinstance(picture.path, Member) and picture.path.is_far():
            file_system(picture.path.shard)  # opened here, once, before the threads ask for it
            coming[picture.id] = pool.submit(picture.path.read)
    pool.shutdown(wait=False)
    return coming


def read_annotated(picture: Picture, coming: Future[bytes] | None = None) -> transforms.Image:
    """The picture (h,w,3); coming: its bytes, where they were asked for.

    Raises InputError where it cannot be read, or has another size than its annotations say.
    """
    image = decode_picture(coming.result() if coming else read_bytes(picture.path), str(picture.path))
    if image.shape[:2] != (picture.height, picture.width):
        raise InputError(
            f"got {picture.path} of {image.shape[0]}x{image.shape[1]} (height x width, EXIF orientation applied), "
            f"expected {picture.height}x{picture.width} as the annotations say; correct the annotations or the file"
        )
    return image


def change_boxes(boxes_xyxy: boxes.Boxes, picture: Picture, planned: PlannedPicture) -> boxes.Boxes:
    """Original boxes (G,4) -> boxes in canvas px."""
    boxes_xyxy = boxes.scale_boxes(boxes_xyxy, (picture.height, picture.width), planned.size_hw)
    if planned.flip:
        boxes_xyxy = boxes.flip_boxes_horizontal(boxes_xyxy, planned.size_hw[1])
    if planned.flip_vertical:
        boxes_xyxy = boxes.flip_boxes_vertical(boxes_xyxy, planned.size_hw[0])
    return boxes_xyxy

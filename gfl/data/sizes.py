"""The sizes of a run, from its data and settings: of resized pictures, canvases and padded boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gfl.data.canvas import Ints, by_area, check_canvases, choose_canvases, own_canvas, pick_canvases
from gfl.data.coco import CocoData, Picture, Pictures
from gfl.data.transforms import resized_sizes
from gfl.errors import InputError
from gfl.settings import DataConfig
from gfl.shapes import Canvas


def short_side_range(cfg: DataConfig) -> tuple[int, int]:
    """The lowest and the highest short side of training."""
    return cfg.short_side if isinstance(cfg.short_side, tuple) else (cfg.short_side, cfg.short_side)


def eval_short_side(cfg: DataConfig) -> int:
    """The short side of evaluation and inference."""
    return short_side_range(cfg)[1] if cfg.eval_short_side is None else cfg.eval_short_side


def sizes_of(pictures: Sequence[Picture]) -> Ints:
    """(N,2) original heights and widths."""
    if isinstance(pictures, Pictures):
        return pictures.sizes_hw
    return np.array([(picture.height, picture.width) for picture in pictures], dtype=np.int64).reshape(-1, 2)


def canvases_for(
    train: CocoData | None, cfg: DataConfig, *, val: CocoData | None = None, most: int = 4
) -> tuple[Canvas, ...] | None:
    """The run's canvases by area, or None where each picture has its own (CANVASES = 'own').

    'auto' chooses at most `most` that hold every picture of `train` at every short side it may draw and of `val` at
    evaluation's; a list is checked and returned. Raises InputError for a list that cannot be, and without pictures.
    """
    if not isinstance(cfg.canvases, str):
        return check_canvases(cfg.canvases)
    if cfg.canvases == "own":
        return None
    low, high = short_side_range(cfg)
    # Sides are rounded up to 32, so one short side stands for 32 of them; the highest makes the largest pictures.
    drawn = list(range(high, low - 1, -32))
    shares = [(train, short, 1.0 / len(drawn)) for short in drawn] + [(val, eval_short_side(cfg), 1.0)]
    sizes, counts = [], []
    for data, short, share in shares:
        if data is not None and data.pictures:
            different, count = np.unique(sizes_of(data.pictures), axis=0, return_counts=True)
            sizes.append(resized_sizes(different, short, cfg.long_side))
            counts.append(count * share)
    if not sizes:
        raise InputError(
            "got no pictures to choose canvases from, expected at least one; check TRAIN_JSON and VAL_JSON"
        )
    return choose_canvases(np.concatenate(sizes), most, np.concatenate(counts))


def check_fits(pictures: Sequence[Picture], cfg: DataConfig, canvases: Sequence[Canvas] | None) -> None:
    """Raise InputError naming a picture that at its largest fits no canvas of training."""
    if canvases is None or not pictures:
        return
    sizes_hw = resized_sizes(sizes_of(pictures), short_side_range(cfg)[1], cfg.long_side)
    outside = np.flatnonzero(pick_canvases(sizes_hw, canvases) < 0)
    if len(outside):
        height, width = sizes_hw[outside[0]].tolist()
        raise InputError(
            f"got {pictures[outside[0]].file_name} and {len(outside) - 1} more pictures that fit no canvas of "
            f"{list(canvases)}, expected one that holds {height}x{width}; add {own_canvas(height, width)} to CANVASES, "
            "set it to 'auto', or lower SHORT_SIDE or LONG_SIDE"
        )


def largest_canvas(pictures: Sequence[Picture], cfg: DataConfig, canvases: Sequence[Canvas] | None) -> Canvas:
    """The canvas of training with the most pixels; canvases: the run's, None where each picture has its own."""
    if canvases is None:
        sizes_hw = resized_sizes(sizes_of(pictures), short_side_range(cfg)[1], cfg.long_side)
        canvases = [own_canvas(height, width) for height, width in sizes_hw.tolist()]
    return max(canvases, key=by_area, default=(0, 0))


def box_slots(data: CocoData, max_boxes: Literal["auto"] | int) -> int:
    """Box slots a picture: 'auto' is the data set's maximum rounded up to a multiple of 8, at least 8.

    Raises InputError where a picture has more boxes than the number given: no box is ever cut.
    """
    counts = _counts(data.pictures).tolist()
    needed = max(counts, default=0)
    if isinstance(max_boxes, str):
        return max(8, -(-needed // 8) * 8)
    if counts and needed > max_boxes:
        raise InputError(
            f"got MAX_BOXES = {max_boxes}, expected at least {needed}, the boxes of "
            f"{data.pictures[counts.index(needed)].file_name}; raise MAX_BOXES to {needed} or set it to 'auto'"
        )
    return max(1, max_boxes)


def ids_of(pictures: Sequence[Picture]) -> Ints:
    """(N,) their ids."""
    if isinstance(pictures, Pictures):
        return pictures.ids
    return np.array([picture.id for picture in pictures], dtype=np.int64)


def _counts(pictures: Sequence[Picture]) -> Ints:
    """(N,) boxes of each picture."""
    if isinstance(pictures, Pictures):
        return pictures.box_counts
    return np.array([len(picture.boxes_xyxy) for picture in pictures], dtype=np.int64)


def ignored_slots(data: CocoData) -> int:
    """Crowd slots a picture: the data set's maximum rounded up to a multiple of 4; 1 where there is none.

    Never 0: reductions over an empty axis are an error in torch and in ONNX.
    """
    if isinstance(data.pictures, Pictures):
        needed = int(data.pictures.crowd_counts.max(initial=0))
    else:
        needed = max((len(picture.ignored_xyxy) for picture in data.pictures), default=0)
    return max(1, -(-needed // 4) * 4)

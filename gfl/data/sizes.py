"""The sizes of a run, from its data and settings: of resized pictures, canvases and padded boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gfl.data.canvas import Ints, by_area, check_canvases, choose_canvases, own_canvas, pick_canvases
from gfl.data.coco import CocoData
from gfl.data.pictures import Picture, box_counts, crowd_counts, sizes_of
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


def different_sizes(sizes_hw: Ints) -> tuple[Ints, Ints]:
    """(P,2) sizes below 2**31 px -> (U,2) the different ones, by height and then width, and (U,) how many have each."""
    different, counts = np.unique(sizes_hw[:, 0] << 32 | sizes_hw[:, 1], return_counts=True)  # numbers sort faster
    return np.stack([different >> 32, different & (2**32 - 1)], axis=1), counts


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
            different, count = different_sizes(sizes_of(data.pictures))
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
        canvases = [own_canvas(height, width) for height, width in different_sizes(sizes_hw)[0].tolist()]
    return max(canvases, key=by_area, default=(0, 0))


def box_slots(data: CocoData, max_boxes: Literal["auto"] | int) -> int:
    """Box slots a picture: 'auto' is the data set's maximum rounded up to a multiple of 8, at least 8.

    Raises InputError where a picture has more boxes than the number given: no box is ever cut.
    """
    counts = box_counts(data.pictures)
    needed = int(counts.max(initial=0))
    if isinstance(max_boxes, str):
        return max(8, -(-needed // 8) * 8)
    if needed > max_boxes:
        raise InputError(
            f"got MAX_BOXES = {max_boxes}, expected at least {needed}, the boxes of "
            f"{data.pictures[int(counts.argmax())].file_name}; raise MAX_BOXES to {needed} or set it to 'auto'"
        )
    return max(1, max_boxes)


def ignored_slots(data: CocoData) -> int:
    """Crowd slots a picture: the data set's maximum rounded up to a multiple of 4; 1 where there is none.

    Never 0: reductions over an empty axis are an error in torch and in ONNX.
    """
    needed = int(crowd_counts(data.pictures).max(initial=0))
    return max(1, -(-needed // 4) * 4)

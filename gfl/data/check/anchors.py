"""How many positive anchors each box of a data set would get: ATSS over all pictures, by the functions that train.

A box without a positive teaches nothing, whatever its loss says: it is too small between the anchors of its level, or
others claim all of its anchors. Letters: P pictures, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gfl.data.canvas import own_canvas
from gfl.data.check.findings import Finding
from gfl.data.pictures import Picture, sizes_of
from gfl.data.plan import draw_changes
from gfl.data.sizes import short_side_range
from gfl.model.anchors import make_grid, padded_sizes
from gfl.model.assign import claims, nearest_in_window
from gfl.settings import DataConfig
from gfl.words import counted

Ints = NDArray[np.int64]

CHUNK = 20_000  # boxes at a time; each takes some kilobytes
BUCKETS = (8, 16, 32, 96)  # px, where the side of a box (the root of its area) passes from one group to the next
LARGER = (1.25, 1.5, 2.0, 3.0, 4.0)  # times the short side, tried in this order
TRIED = 2_000  # pictures with such boxes on which larger short sides are tried
MENDED = 0.1  # share of the boxes without a positive that may stay so at a short side that is called a mend


class Reach(NamedTuple):
    """The boxes of one group of sizes, and how many of them no anchor would learn."""

    size: str  # '8 to 16 px'
    boxes: int
    without: int


def positives(pictures: Sequence[Picture], sizes_hw: Ints) -> Ints:
    """(N,) positive anchors of each box, the pictures' boxes one after another.

    sizes_hw: (P,2) of the resized pictures. Anchors depend on a picture's own multiple of 32, not on its canvas: so
    one grid, as large as the largest, serves all.
    """
    counts = np.array([len(picture.boxes_xyxy) for picture in pictures], dtype=np.int64)
    if not counts.sum():
        return np.zeros(0, np.int64)
    picture_N = np.repeat(np.arange(len(pictures)), counts)
    factors = (sizes_hw / sizes_of(pictures))[:, [1, 0, 1, 0]].astype(np.float32)
    boxes = np.concatenate([picture.boxes_xyxy for picture in pictures]) * factors[picture_N]
    boxes = np.minimum(boxes, sizes_hw[picture_N][:, [1, 0, 1, 0]].astype(np.float32))
    grid = make_grid(own_canvas(int(sizes_hw[:, 0].max()), int(sizes_hw[:, 1].max())))
    found: list[tuple[Ints, Ints, NDArray[np.float32]]] = []
    for start in range(0, len(boxes), CHUNK):
        some = torch.from_numpy(boxes[start : start + CHUNK]).unsqueeze(1)  # each box as a picture of its own
        padded_hw = padded_sizes(torch.from_numpy(sizes_hw[picture_N[start : start + CHUNK]]).int())
        anchors, exists = nearest_in_window(grid, padded_hw, some, topk=9)
        iou, passes = claims(grid, anchors.long(), exists, some)
        box, _, candidate = (part.numpy() for part in torch.nonzero(passes, as_tuple=True))
        index = anchors[:, 0].numpy()[box, candidate].astype(np.int64)
        found.append((box + start, index, iou[:, 0].numpy()[box, candidate]))
    box, index, overlap = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # An anchor that several boxes of a picture claim goes to the one of larger IoU, then to the first.
    anchor = picture_N[box] * grid.num_anchors + index
    order = np.lexsort((box, -overlap, anchor))
    is_first = np.diff(anchor[order], prepend=-1) != 0
    return np.bincount(box[order][is_first], minlength=len(boxes))


def reach(pictures: Sequence[Picture], without: NDArray[np.bool_]) -> list[Reach]:
    """The boxes without a positive by size in the original pictures; without: (N,) of each box."""
    boxes = np.concatenate([picture.boxes_xyxy for picture in pictures])
    sides = np.sqrt(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float64))
    group = np.searchsorted(BUCKETS, sides, side="right")
    names = [f"below {BUCKETS[0]} px"]
    names += [f"of {low} to {high} px" for low, high in pairwise(BUCKETS)]
    names += [f"from {BUCKETS[-1]} px"]
    rows = [(name, int((group == i).sum()), int((without & (group == i)).sum())) for i, name in enumerate(names)]
    return [Reach(*row) for row in rows if row[1]]


def check_anchors(pictures: Sequence[Picture], cfg: DataConfig, seed: int) -> tuple[list[Finding], list[Reach]]:
    """The boxes that get no positive anchor in the first epoch, by size, and the short side that would mend it."""
    sizes_hw = draw_changes(pictures, cfg, seed, epoch=0).sizes_hw
    counts = positives(pictures, sizes_hw)
    if not len(counts):
        return [], []
    without = counts == 0
    groups = reach(pictures, without)
    if not without.any():
        return [], groups
    owners = np.repeat(np.arange(len(pictures)), [len(picture.boxes_xyxy) for picture in pictures])[without]
    affected = [pictures[i] for i in np.unique(owners).tolist()]
    share = f"{without.sum():,} of {len(without):,} boxes ({without.mean():.1%})"
    by_size = ", ".join(
        f"{group.without:,} of the {counted(group.boxes, 'box', 'boxes')} {group.size}"
        for group in groups
        if group.without
    )
    text = (
        f"{share} are too small or too crowded to be learnt at these sizes (no anchor is left for them): {by_size}; "
        f"{_mend(affected, cfg, seed)}"
    )
    names = tuple(picture.file_name for picture in affected[:10])
    return [Finding("boxes_without_anchor", int(without.sum()), text, names)], groups


def _mend(affected: Sequence[Picture], cfg: DataConfig, seed: int) -> str:
    """Which SHORT_SIDE gives nearly all boxes of the affected pictures a positive, or the best of those tried."""
    tried = affected[:: -(-len(affected) // TRIED)]
    low, high = short_side_range(cfg)
    left: list[tuple[int, str]] = []
    for factor in (1.0, *LARGER):
        short = round(low * factor) if isinstance(cfg.short_side, int) else (round(low * factor), round(high * factor))
        larger = replace(cfg, short_side=short, long_side=round(cfg.long_side * factor))
        still = int((positives(tried, draw_changes(tried, larger, seed, epoch=0).sizes_hw) == 0).sum())
        left.append((still, f"SHORT_SIDE = {short} with LONG_SIDE = {larger.long_side}"))
        if still <= MENDED * left[0][0]:
            break
    before, (still, best) = left[0][0], min(left)
    if still == before:
        return "larger pictures do not help"
    return f"{'' if still <= MENDED * before else 'even '}{best} would leave {still:,} of {before:,}"

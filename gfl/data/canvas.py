"""Canvases: the few static input sizes of a run, chosen so that padding takes the fewest pixels.

NumPy only: training, evaluation, export and `infer/` share this file. Sizes are (height, width) in px of the resized
picture. Letters: N sizes, U different sizes, C candidate canvases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError
from gfl.shapes import CANVAS_MULTIPLE, MOST_SIDE_PX, Canvas

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PAIR_SEARCH_LIMIT = 30_000_000  # C * C * U below which two canvases are exchanged at a time (about a second)


def own_canvas(height: int, width: int) -> Canvas:
    """The smallest canvas that holds one picture: each side rounded up to a multiple of 32."""
    return round_up(height), round_up(width)


def round_up(side: int) -> int:
    """The side in px, rounded up to a multiple of 32."""
    return -(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE


def by_area(canvas: Canvas) -> tuple[int, Canvas]:
    """The key that sorts canvases by area, and those of one area by height."""
    return canvas[0] * canvas[1], canvas


def check_canvases(canvases: Sequence[Canvas]) -> tuple[Canvas, ...]:
    """The canvases, different ones only, by area; raises InputError where a side is not a positive multiple of 32."""
    for height, width in canvases:
        if min(height, width) < CANVAS_MULTIPLE or height % CANVAS_MULTIPLE or width % CANVAS_MULTIPLE:
            nearest = own_canvas(max(height, 1), max(width, 1))
            raise InputError(
                f"got the canvas {(height, width)}, expected (H, W) in positive multiples of {CANVAS_MULTIPLE}; "
                f"use {nearest}"
            )
        if max(height, width) > MOST_SIDE_PX:
            raise InputError(
                f"got the canvas {(height, width)}, expected sides of at most {MOST_SIDE_PX} px; lower them"
            )
    if not canvases:
        raise InputError("got no canvas, expected at least one (H, W); set CANVASES to 'auto' or to a list of (H, W)")
    return tuple(sorted(set(canvases), key=by_area))


def parse_canvases(texts: Sequence[str]) -> tuple[Canvas, ...]:
    """'800x1216', of --size -> (800, 1216).

    Raises InputError for anything else and for sides that are no multiple of 32.
    """
    sizes = []
    for text in texts:
        parts = re.fullmatch(r"(\d+)[xX](\d+)", text)
        if parts is None:
            raise InputError(f"got --size {text!r}, expected HEIGHTxWIDTH in pixels, e.g. --size 800x1216")
        sizes.append((int(parts[1]), int(parts[2])))
    return check_canvases(sizes) if sizes else ()


def pick_canvases(sizes_hw: Ints, canvases: Sequence[Canvas]) -> Ints:
    """(N,2) sizes -> (N,) position in `canvases` of the smallest that holds each, -1 where none does."""
    order = sorted(range(len(canvases)), key=lambda i: by_area(canvases[i]))
    sides = np.asarray([canvases[i] for i in order], dtype=np.int64).reshape(-1, 2)
    fits = fits_in(sizes_hw, sides)
    first = np.asarray(order, dtype=np.int64)[fits.argmax(axis=1)]
    return np.where(fits.any(axis=1), first, -1)


def fits_in(sizes_hw: Ints, canvases_hw: Ints) -> NDArray[np.bool_]:
    """(N,2), (C,2) -> (N,C): whether each size fits each canvas."""
    heights = sizes_hw[:, None, 0] <= canvases_hw[None, :, 0]
    widths = sizes_hw[:, None, 1] <= canvases_hw[None, :, 1]
    return np.asarray(heights & widths, dtype=np.bool_)


def fit_factor(height: int, width: int, canvas: Canvas) -> float:
    """By what a canvas multiplies the sides of a resized picture: 1.0 where it holds it."""
    return min(1.0, canvas[0] / height, canvas[1] / width)


def fit_canvas(height: int, width: int, canvases: Sequence[Canvas]) -> tuple[Canvas, tuple[int, int]]:
    """The canvas that shrinks a resized picture least, and the picture's (height, width) in it.

    A picture that fits keeps its size and takes the smallest canvas that holds it; of canvases that shrink it
    equally, the smallest.
    """
    best = min(canvases, key=lambda canvas: (-fit_factor(height, width, canvas), by_area(canvas)))
    new_height, new_width = (int(side * fit_factor(height, width, best) + 0.5) for side in (height, width))
    return best, (max(1, min(best[0], new_height)), max(1, min(best[1], new_width)))


class Shrinkage(NamedTuple):
    """Pictures that no canvas holds at the size that the model's own resize rule gives them."""

    pictures: int  # that are shrunk
    total: int  # of all
    least: float  # the smallest factor by which the sides of one are multiplied; 1.0 where none is shrunk
    missing: tuple[Canvas, ...]  # two at most, by area: beside the others, they would hold all

    @property
    def flags(self) -> str:
        """The missing canvases as `python -m export.onnx` takes them."""
        return " ".join(f"--size {height}x{width}" for height, width in self.missing)

    def sentence(self) -> str:
        """How many pictures are shrunk, how much, and what would hold them; empty where none is."""
        if not self.pictures:
            return ""
        sizes = " and ".join(f"{height}x{width}" for height, width in self.missing)
        canvases = "a canvas of" if len(self.missing) == 1 else "canvases of"
        return (
            f"{self.pictures:,} of {self.total:,} pictures {'is' if self.pictures == 1 else 'are'} shrunk below the "
            f"model's own size (the most to {self.least:.0%} of its sides), which costs accuracy: {canvases} {sizes} "
            "would hold them"
        )


NOT_SHRUNK = Shrinkage(0, 0, 1.0, ())


def judge_shrinkage(
    sizes_hw: Sequence[tuple[int, int]] | Ints,
    canvases: Sequence[Canvas] | None,
    counts: Sequence[int] | Ints | None = None,
) -> Shrinkage:
    """What canvases do to pictures whose sizes the resize rule gave.

    sizes_hw (N,2) resized heights and widths in px; counts (N,) pictures of each size (one each by default); canvases
    None: each picture has its own.
    """
    sizes: Ints = np.asarray(sizes_hw, dtype=np.int64).reshape(-1, 2)
    weights: Ints = np.ones(len(sizes), np.int64) if counts is None else np.asarray(counts, dtype=np.int64)
    total = int(weights.sum())
    if canvases is None or not len(sizes):
        return Shrinkage(0, total, 1.0, ())
    held = fits_in(sizes, np.asarray(canvases, dtype=np.int64).reshape(-1, 2)).any(axis=1) | (weights == 0)
    if held.all():
        return Shrinkage(0, total, 1.0, ())
    shrunk, weights = sizes[~held], weights[~held]
    different = np.unique(shrunk, axis=0).tolist()
    least = min(max(fit_factor(height, width, canvas) for canvas in canvases) for height, width in different)
    return Shrinkage(int(weights.sum()), total, least, choose_canvases(shrunk, 2, weights))


def choose_canvases(
    sizes_hw: Sequence[tuple[int, int]] | Ints, most: int = 4, counts: Sequence[int] | Ints | None = None
) -> tuple[Canvas, ...]:
    """At most `most` canvases that hold every size with the fewest canvas pixels in all, by area.

    sizes_hw (N,2) resized heights and widths in px, counts (N,) pictures of each size (one each by default). A greedy
    start, then exchanges of one canvas, and of two where that is affordable, until none saves a pixel.
    Raises InputError without sizes.
    """
    if len(sizes_hw) == 0:
        raise InputError("got no picture sizes to choose canvases from, expected at least one picture; check the data")
    rounded: Ints = -(-np.asarray(sizes_hw, dtype=np.int64) // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
    weights = np.ones(len(rounded)) if counts is None else np.asarray(counts, dtype=np.float64)
    sizes, index = np.unique(rounded, axis=0, return_inverse=True)
    index = index.reshape(-1)  # (N,1) in numpy 2.0 alone
    weights = np.bincount(index, weights=weights).astype(np.float64)
    sizes, weights = sizes[weights > 0], weights[weights > 0]
    candidates = candidate_canvases(sizes)
    # (C,U) canvas pixels a picture of each size takes in each candidate; infinite where it does not fit.
    costs: Floats = np.where(fits_in(sizes, candidates).T, candidates.prod(axis=1)[:, None], np.inf)
    chosen = exchange(costs, weights, grow(costs, weights, most), together=1)
    if len(chosen) > 1 and len(candidates) ** 2 * len(sizes) <= PAIR_SEARCH_LIMIT:
        chosen = exchange(costs, weights, chosen, together=2)
    used = np.unique(np.asarray(chosen)[costs[chosen].argmin(axis=0)])
    return check_canvases([(int(h), int(w)) for h, w in candidates[used]])


def candidate_canvases(sizes: Ints) -> Ints:
    """(U,2) sizes -> (C,2) canvases that are the bounding box of what they hold; the one that holds all is last."""
    heights, widths = np.unique(sizes[:, 0]), np.unique(sizes[:, 1])
    pairs: Ints = np.stack(np.meshgrid(heights, widths, indexing="ij"), axis=-1).reshape(-1, 2)
    fits_UC = fits_in(sizes, pairs)
    held = np.where(fits_UC[:, :, None], sizes[:, None, :], 0).max(axis=0)
    bounding: Ints = pairs[(held[:, 0] == pairs[:, 0]) & (held[:, 1] == pairs[:, 1])]
    return bounding


def grow(costs: Floats, weights: Floats, most: int) -> list[int]:
    """The last candidate, then the one that saves most, and so on, until `most` are chosen or none saves anything."""
    chosen = [len(costs) - 1]
    while len(chosen) < most:
        total, new = best_addition(costs, weights, chosen, together=1)
        if total >= costs[chosen].min(axis=0) @ weights:
            break
        chosen += new
    return chosen


def exchange(costs: Floats, weights: Floats, chosen: list[int], together: int) -> list[int]:
    """Replace `together` (1 or 2) canvases by the best others, again and again while that saves pixels."""
    total = costs[chosen].min(axis=0) @ weights
    improved = True
    while improved:
        improved = False
        for leaving in combinations(range(len(chosen)), together):
            kept = [index for position, index in enumerate(chosen) if position not in leaving]
            new_total, new = best_addition(costs, weights, kept, together)
            if new_total < total:
                total, chosen, improved = new_total, kept + new, True
                break
    return chosen


def best_addition(costs: Floats, weights: Floats, kept: list[int], together: int) -> tuple[float, list[int]]:
    """The one or two candidates that go best with those kept, and the total pixels then."""
    kept_U = costs[kept].min(axis=0, initial=np.inf)
    if together == 1:
        totals = np.minimum(costs, kept_U) @ weights
        return float(totals.min()), [int(totals.argmin())]
    best, pair = np.inf, [0, 0]
    for first in range(len(costs)):
        totals = np.minimum(costs[first:], np.minimum(costs[first], kept_U)) @ weights
        if totals.min() < best:
            best, pair = float(totals.min()), [first, first + int(totals.argmin())]
    return best, pair

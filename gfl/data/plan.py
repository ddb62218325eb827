"""An epoch's batches, as a pure function of (data, settings, seed, epoch): which pictures, how large, on which canvas.

numpy only, no reading and no state: a run resumes by skipping batches, and a worker adds no randomness of its own.
A blank is a PlannedPicture without a picture: it fills the last batch of a canvas and counts in no loss.
Letters: N pictures, C canvases.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, product
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gfl.data.canvas import Ints, Shrinkage, by_area, fit_canvas, judge_shrinkage, own_canvas, pick_canvases
from gfl.data.coco import Picture
from gfl.data.sizes import check_fits, eval_short_side, ids_of, short_side_range, sizes_of
from gfl.data.transforms import resized_sizes
from gfl.errors import InputError
from gfl.settings import DataConfig
from gfl.shapes import Canvas

BLANK = -1  # PlannedPicture.picture where there is none
SHORT, FLIP, FLIP_VERTICAL, BRIGHTNESS, CONTRAST = range(5)  # columns of the draws; a new one goes at the end
MOST_TRIED = 8  # canvases with leftovers up to which `join_leftovers` tries every choice of them (2 ** 8)


class PlannedPicture(NamedTuple):
    """One picture of a batch and how it is changed; everything that chance decides is decided here."""

    picture: int  # position in CocoData.pictures, or BLANK
    size_hw: tuple[int, int] = (0, 0)  # resized, px
    flip: bool = False
    flip_vertical: bool = False
    brightness: float = 1.0
    contrast: float = 1.0


class BatchPlan(NamedTuple):
    """One batch of one rank."""

    epoch: int
    index: int  # type: ignore[assignment]  # it hides tuple.index, which nothing needs; position among the epoch's batches
    canvas: Canvas
    pictures: tuple[PlannedPicture, ...]


def uniform_draws(seed: int, epoch: int, image_ids: Ints, columns: int) -> NDArray[np.float64]:
    """(N, columns) uniform in [0, 1): a picture's row depends on seed, epoch and its own id, on nothing else.

    SplitMix64 (Steele et al. 2014) on the whole set at once: a generator object a picture takes seconds on COCO.
    """
    key = np.random.SeedSequence((seed, epoch)).generate_state(2, np.uint64)
    row = mix(mix(image_ids.astype(np.uint64) + key[0]) + key[1])
    step = np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio
    return (mix(row[:, None] + step[None, :]) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: each input bit changes each output bit with probability 1/2."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def train_plan(
    pictures: Sequence[Picture],
    cfg: DataConfig,
    canvases: Sequence[Canvas] | None,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
) -> tuple[BatchPlan, ...]:
    """The batches of one rank in one epoch; every picture comes once over all ranks.

    batch_size is pictures a batch and rank. All ranks see the same number of batches and the same canvases in the same
    order; rank r of `world` has every world-th picture of the global batch, so the blanks spread over the ranks.
    Raises InputError without pictures and where a picture at its largest short side fits no canvas.
    """
    check_split(batch_size, rank, world)
    if not pictures:
        raise InputError(
            "got no pictures to train on, expected at least one with a box; check TRAIN_JSON or KEEP_EMPTY"
        )
    check_fits(pictures, cfg, canvases)
    planned, sizes_hw = draw_changes(pictures, cfg, seed, epoch)
    # uniform_draws seeds with (seed, epoch), which counts as (seed, epoch, 0): the 1 makes another stream.
    generator = np.random.default_rng((seed, epoch, 1))
    order = generator.permutation(len(planned))
    batches = fill_batches(order, sizes_hw, canvases, batch_size * world, move_up=True)
    batches = [batches[i] for i in generator.permutation(len(batches))]
    return deal(batches, planned, epoch, rank, world)


def eval_plan(
    pictures: Sequence[Picture],
    cfg: DataConfig,
    canvases: Sequence[Canvas] | None,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
) -> tuple[BatchPlan, ...]:
    """The batches of one rank: over all ranks every picture once, by canvas and then in the data set's order.

    Each picture is on the canvas that shrinks it least, whatever its neighbours: its scores do not depend on them.
    """
    check_split(batch_size, rank, world)
    sizes_hw = resized_sizes(sizes_of(pictures), eval_short_side(cfg), cfg.long_side)
    if canvases is not None and len(pictures):
        for row in np.flatnonzero(pick_canvases(sizes_hw, canvases) < 0):
            sizes_hw[row] = fit_canvas(int(sizes_hw[row, 0]), int(sizes_hw[row, 1]), canvases)[1]
    planned = [PlannedPicture(i, (height, width)) for i, (height, width) in enumerate(sizes_hw.tolist())]
    batches = fill_batches(np.arange(len(planned)), sizes_hw, canvases, batch_size * world, move_up=False)
    return deal(batches, planned, 0, rank, world)


def eval_shrinkage(pictures: Sequence[Picture], cfg: DataConfig, canvases: Sequence[Canvas] | None) -> Shrinkage:
    """What the canvases of `eval_plan` do to its pictures."""
    return judge_shrinkage(resized_sizes(sizes_of(pictures), eval_short_side(cfg), cfg.long_side), canvases)


def fingerprint(pictures: Sequence[Picture]) -> int:
    """A checksum of what plans and batches are made from; where it differs, two ranks have read other annotations."""
    checksum = 0
    for picture in pictures:
        checksum = crc32(np.array([picture.id, picture.height, picture.width], np.int64).tobytes(), checksum)
        for array in (picture.boxes_xyxy, picture.labels, picture.ignored_xyxy):
            checksum = crc32(array.tobytes(), checksum)
    return checksum


def epoch_settings(
    checksum: int, cfg: DataConfig, canvases: Sequence[Canvas] | None, batch_size: int, seed: int
) -> dict[str, str]:
    """What decides which pictures are in which batch of an epoch, by the names of the knobs.

    checksum is the `fingerprint` of the pictures, batch_size pictures a batch over all ranks. What changes only the
    pictures themselves (FLIP, say) is not in it.
    """
    return {
        "SEED": str(seed),
        "BATCH_SIZE / ACCUMULATE": str(batch_size),
        "SHORT_SIDE": str(cfg.short_side),
        "LONG_SIDE": str(cfg.long_side),
        "CANVASES": str(None if canvases is None else [tuple(canvas) for canvas in canvases]),
        "the checksum of the training pictures": f"{checksum:08x}",
    }


def check_split(batch_size: int, rank: int, world: int) -> None:
    """Raise ValueError for a batch without pictures, or a rank that is not among `world`."""
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(
            f"batch_size={batch_size}, rank={rank}, world={world}: expected batch_size >= 1, 0 <= rank < world"
        )


def draw_changes(
    pictures: Sequence[Picture], cfg: DataConfig, seed: int, epoch: int
) -> tuple[list[PlannedPicture], Ints]:
    """How each picture is changed in the epoch, and the (N,2) resized sizes."""
    ids = ids_of(pictures)
    draws = uniform_draws(seed, epoch, ids, columns=5)
    low, high = short_side_range(cfg)
    short_sides = low + (draws[:, SHORT] * (high - low + 1)).astype(np.int64)
    sizes_hw = resized_sizes(sizes_of(pictures), short_sides, cfg.long_side)
    flips = (draws[:, FLIP] < cfg.flip).tolist()
    vertical = (draws[:, FLIP_VERTICAL] < cfg.flip_vertical).tolist()
    brightness = (1 + cfg.brightness * (2 * draws[:, BRIGHTNESS] - 1)).tolist()
    contrast = (1 + cfg.contrast * (2 * draws[:, CONTRAST] - 1)).tolist()
    sizes = [(height, width) for height, width in sizes_hw.tolist()]
    rows = zip(range(len(pictures)), sizes, flips, vertical, brightness, contrast, strict=True)
    return [PlannedPicture(*row) for row in rows], sizes_hw


def fill_batches(
    order: Ints, sizes_hw: Ints, canvases: Sequence[Canvas] | None, batch_size: int, move_up: bool
) -> list[tuple[Canvas, list[int]]]:
    """Pictures in the given order -> batches of one canvas each, filled with BLANK; canvases by area.

    With move_up, pictures left over from full batches may go to another canvas's last batch that holds them.
    """
    if canvases is None:
        canvas_of = [own_canvas(height, width) for height, width in sizes_hw.tolist()]
    else:
        canvas_of = [canvases[position] for position in pick_canvases(sizes_hw, canvases)]
    groups: dict[Canvas, list[int]] = {}
    for picture in order.tolist():
        groups.setdefault(canvas_of[picture], []).append(picture)
    batches: list[tuple[Canvas, list[int]]] = []
    left: dict[Canvas, list[int]] = {}
    for canvas, members in groups.items():
        full = len(members) - len(members) % batch_size
        batches += [(canvas, members[i : i + batch_size]) for i in range(0, full, batch_size)]
        if len(members) > full:
            left[canvas] = members[full:]
    if move_up and canvases is not None:
        left = join_leftovers(left, sizes_hw, batch_size)
    batches += [(canvas, members + [BLANK] * (batch_size - len(members))) for canvas, members in left.items()]
    return sorted(batches, key=lambda batch: by_area(batch[0]))  # stable: full batches first


def join_leftovers(left: dict[Canvas, list[int]], sizes_hw: Ints, batch_size: int) -> dict[Canvas, list[int]]:
    """Move leftovers into other canvases' last batches where that costs the fewest canvas pixels.

    left: fewer than batch_size pictures a canvas. Every choice of the canvases that keep their last batch is tried.
    """
    if len(left) > MOST_TRIED:
        return left
    best, best_cost = left, sum(height * width for height, width in left)
    for keep in product((True, False), repeat=len(left)):
        opened = {canvas: list(members) for (canvas, members), kept in zip(left.items(), keep, strict=True) if kept}
        cost = sum(height * width for height, width in opened)
        if cost < best_cost:
            movers = chain.from_iterable(members for canvas, members in left.items() if canvas not in opened)
            if seat_leftovers(list(movers), opened, sizes_hw, batch_size):
                best, best_cost = opened, cost
    return best


def seat_leftovers(movers: list[int], opened: dict[Canvas, list[int]], sizes_hw: Ints, batch_size: int) -> bool:
    """Append each mover to the batch of a canvas in `opened` that holds it; False where one finds no room."""

    def holding(picture: int) -> list[Canvas]:
        height, width = sizes_hw[picture]
        return [canvas for canvas in opened if height <= canvas[0] and width <= canvas[1]]

    for picture in sorted(movers, key=lambda picture: len(holding(picture))):  # those with the least choice first
        free = [canvas for canvas in holding(picture) if len(opened[canvas]) < batch_size]
        if not free:
            return False
        opened[max(free, key=lambda canvas: batch_size - len(opened[canvas]))].append(picture)
    return True


def deal(
    batches: list[tuple[Canvas, list[int]]], planned: list[PlannedPicture], epoch: int, rank: int, world: int
) -> tuple[BatchPlan, ...]:
    """Every world-th picture of each global batch, for one rank."""
    by_position = dict(enumerate(planned)) | {BLANK: PlannedPicture(BLANK)}
    return tuple(
        BatchPlan(epoch, index, canvas, tuple(by_position[i] for i in members[rank::world]))
        for index, (canvas, members) in enumerate(batches)
    )

"""An epoch's batches, as a pure function of (data, settings, seed, epoch): which pictures, how large, on which canvas.

numpy only, no reading and no state: a run resumes by skipping batches, and a worker adds no randomness of its own.
A blank is a PlannedPicture without a picture: it fills the last batch of a canvas and counts in no loss.
Letters: N pictures, C canvases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gfl.data.canvas import Ints, Shrinkage, by_area, fit_canvas, judge_shrinkage, pick_canvases
from gfl.data.coco_json import pieces
from gfl.data.lazy import Lazy
from gfl.data.pictures import Part, Picture, ids_of, parts, sizes_of
from gfl.data.sizes import check_fits, eval_short_side, short_side_range
from gfl.data.transforms import resized_sizes
from gfl.errors import InputError
from gfl.settings import DataConfig
from gfl.shapes import CANVAS_MULTIPLE, Canvas

Flags = NDArray[np.bool_]

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


@dataclass(frozen=True, eq=False)
class Changes(Lazy[PlannedPicture]):
    """How each of N pictures is changed in an epoch."""

    sizes_hw: Ints  # (N,2) resized, px
    flips: Flags
    flips_vertical: Flags
    brightness: NDArray[np.float64]
    contrast: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sizes_hw)

    def make(self, at: int) -> PlannedPicture:
        height, width = self.sizes_hw[at].tolist()
        columns = (self.flips, self.flips_vertical, self.brightness, self.contrast)
        return PlannedPicture(at, (height, width), *(column[at].item() for column in columns))


@dataclass(frozen=True, eq=False)
class Batches(Lazy["tuple[Canvas, Ints]"]):
    """The batches of an epoch, M: a canvas each, and positions of pictures or BLANK."""

    canvases: Sequence[Canvas]
    which: Ints  # (M,) positions in `canvases`
    members: Ints  # (M, batch size)

    def __len__(self) -> int:
        return len(self.members)

    def make(self, at: int) -> tuple[Canvas, Ints]:
        return self.canvases[int(self.which[at])], self.members[at]

    def ordered(self, order: Ints) -> Batches:
        """The same batches in another order."""
        return Batches(self.canvases, self.which[order], self.members[order])


class Plan(Lazy[BatchPlan]):
    """The batches of one rank in one epoch: of each global batch every world-th picture."""

    def __init__(self, batches: Batches, changes: Changes, epoch: int, rank: int, world: int) -> None:
        self._batches, self._changes, self._epoch, self._rank, self._world = batches, changes, epoch, rank, world

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def canvases(self) -> Iterator[Canvas]:
        """Of each batch."""
        return (self._batches.canvases[at] for at in self._batches.which.tolist())

    def make(self, at: int) -> BatchPlan:
        canvas, members = self._batches.make(at)
        own = members[self._rank :: self._world].tolist()
        pictures = (PlannedPicture(BLANK) if picture == BLANK else self._changes[picture] for picture in own)
        return BatchPlan(self._epoch, at, canvas, tuple(pictures))


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
) -> Plan:
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
    changes = draw_changes(pictures, cfg, seed, epoch)
    # uniform_draws seeds with (seed, epoch), which counts as (seed, epoch, 0): the 1 makes another stream.
    generator = np.random.default_rng((seed, epoch, 1))
    order = generator.permutation(len(changes))
    batches = fill_batches(order, changes.sizes_hw, canvases, batch_size * world, move_up=True)
    return Plan(batches.ordered(generator.permutation(len(batches))), changes, epoch, rank, world)


def eval_plan(
    pictures: Sequence[Picture],
    cfg: DataConfig,
    canvases: Sequence[Canvas] | None,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
) -> Plan:
    """The batches of one rank: over all ranks every picture once, by canvas and then in the data set's order.

    Each picture is on the canvas that shrinks it least, whatever its neighbours: its scores do not depend on them.
    """
    check_split(batch_size, rank, world)
    sizes_hw = resized_sizes(sizes_of(pictures), eval_short_side(cfg), cfg.long_side)
    if canvases is not None and len(pictures):
        for row in np.flatnonzero(pick_canvases(sizes_hw, canvases) < 0):
            sizes_hw[row] = fit_canvas(int(sizes_hw[row, 0]), int(sizes_hw[row, 1]), canvases)[1]
    count = len(sizes_hw)
    never, usual = np.zeros(count, np.bool_), np.ones(count)
    batches = fill_batches(np.arange(count), sizes_hw, canvases, batch_size * world, move_up=False)
    return Plan(batches, Changes(sizes_hw, never, never, usual, usual), 0, rank, world)


def eval_shrinkage(pictures: Sequence[Picture], cfg: DataConfig, canvases: Sequence[Canvas] | None) -> Shrinkage:
    """What the canvases of `eval_plan` do to its pictures."""
    return judge_shrinkage(resized_sizes(sizes_of(pictures), eval_short_side(cfg), cfg.long_side), canvases)


def fingerprint(pictures: Sequence[Picture]) -> int:
    """A checksum of what plans and batches are made from; where it differs, two ranks have read other annotations."""
    checksum = 0
    for part in parts(pictures):
        checksum = crc32(_words(part).tobytes(), checksum)
    return checksum


def _words(part: Part) -> NDArray[np.int32]:
    """What is summed up of each picture: id, height, width, boxes, labels and crowd boxes, in words of 32 bits."""
    heads = np.column_stack([part.ids, part.sizes_hw])
    columns = [  # the words, and how many of them each picture has
        (heads.view(np.int32), np.full(len(heads), 6)),
        (part.boxes_xyxy.view(np.int32), 4 * part.counts),
        (part.labels, part.counts),
        (part.ignored_xyxy.view(np.int32), 4 * part.ignored_counts),
    ]
    counts = np.stack([count for _, count in columns], axis=1)  # (P, columns)
    starts = np.cumsum(counts).reshape(counts.shape) - counts
    words = np.empty(counts.sum(), np.int32)
    for (values, count), start in zip(columns, starts.T, strict=True):
        within = np.arange(values.size) - np.repeat(np.cumsum(count) - count, count)
        words[np.repeat(start, count) + within] = values.reshape(-1)
    return words


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


def draw_changes(pictures: Sequence[Picture], cfg: DataConfig, seed: int, epoch: int) -> Changes:
    """How each picture is changed in the epoch."""
    ids, original_hw = ids_of(pictures), sizes_of(pictures)
    low, high = short_side_range(cfg)
    count = len(ids)
    changes = Changes(
        np.empty((count, 2), np.int64),
        np.empty(count, np.bool_),
        np.empty(count, np.bool_),
        np.empty(count),
        np.empty(count),
    )
    for rows in pieces(count):
        draws = uniform_draws(seed, epoch, ids[rows], columns=5)
        short_sides = low + (draws[:, SHORT] * (high - low + 1)).astype(np.int64)
        changes.sizes_hw[rows] = resized_sizes(original_hw[rows], short_sides, cfg.long_side)
        changes.flips[rows] = draws[:, FLIP] < cfg.flip
        changes.flips_vertical[rows] = draws[:, FLIP_VERTICAL] < cfg.flip_vertical
        changes.brightness[rows] = 1 + cfg.brightness * (2 * draws[:, BRIGHTNESS] - 1)
        changes.contrast[rows] = 1 + cfg.contrast * (2 * draws[:, CONTRAST] - 1)
    return changes


def fill_batches(
    order: Ints, sizes_hw: Ints, canvases: Sequence[Canvas] | None, batch_size: int, move_up: bool
) -> Batches:
    """Pictures in the given order -> batches of one canvas each, filled with BLANK; canvases by area.

    With move_up, pictures left over from full batches may go to another canvas's last batch that holds them.
    """
    if canvases is None:
        rounded = -(-sizes_hw // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
        codes, canvas_of = np.unique(rounded[:, 0] << 32 | rounded[:, 1], return_inverse=True)
        own = [(code >> 32, code & (2**32 - 1)) for code in codes.tolist()]
    else:
        own, canvas_of = list(canvases), pick_canvases(sizes_hw, canvases)
    members = order[np.argsort(canvas_of[order], kind="stable")]  # a canvas after the other
    used, first, counts = np.unique(canvas_of[order], return_index=True, return_counts=True)
    groups = np.split(members, np.cumsum(counts)[:-1])
    full: dict[Canvas, Ints] = {}
    left: dict[Canvas, list[int]] = {}
    for at in np.argsort(first).tolist():  # in the order in which their first pictures come
        canvas, group = own[int(used[at])], groups[at]
        end = len(group) - len(group) % batch_size
        full[canvas] = group[:end].reshape(-1, batch_size)
        if len(group) > end:
            left[canvas] = group[end:].tolist()
    if move_up and canvases is not None:
        left = join_leftovers(left, sizes_hw, batch_size)
    by_canvas = sorted(full, key=by_area)
    rows = []
    for canvas in by_canvas:
        rows.append(full[canvas])
        if canvas in left:
            rows.append(np.array([left[canvas] + [BLANK] * (batch_size - len(left[canvas]))], np.int64))
    of_each = np.array([len(full[canvas]) + (canvas in left) for canvas in by_canvas], np.int64)
    return Batches(
        by_canvas,
        np.repeat(np.arange(len(by_canvas)), of_each),
        np.concatenate(rows) if rows else np.empty((0, batch_size), np.int64),
    )


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

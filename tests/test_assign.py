"""ATSS with fixed shapes, held against the loops of reference.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import golden_cases
import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from gfl.model.anchors import cells_inside, make_grid, padded_sizes
from gfl.model.assign import ATSSConfig, assign, nearest_in_window, nearest_of_all
from gfl.model.structures import Assignment

Box = tuple[float, float, float, float]


class Case(NamedTuple):
    """The boxes of one picture, named after what is special about them."""

    name: str
    boxes: Sequence[Box]
    canvas_hw: tuple[int, int] = (160, 224)
    padded_hw: tuple[int, int] | None = None  # None: the canvas
    ignored: Sequence[Box] = ()
    ignore_iof: float = -1.0


def random_boxes(
    seed: int, count: int, smallest: float, largest: float, canvas_hw: tuple[int, int] = (160, 224)
) -> list[Box]:
    """Boxes with sides between two lengths and a centre on the canvas; they may reach over its border."""
    rng = np.random.default_rng(seed)
    width, height = np.exp(rng.uniform(np.log(smallest), np.log(largest), (2, count)))
    x, y = rng.uniform(0, canvas_hw[1], count), rng.uniform(0, canvas_hw[0], count)
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    return [tuple(box) for box in corners.astype(np.float32).tolist()]


def clipped(boxes: Sequence[Box], canvas_hw: tuple[int, int] = (160, 224)) -> list[Box]:
    """As the data loader gives them: inside the picture."""
    high, wide = canvas_hw
    return [(max(x1, 0.0), max(y1, 0.0), min(x2, wide), min(y2, high)) for x1, y1, x2, y2 in boxes]


CROWDS: list[Box] = [(40.3, 20.1, 130.7, 90.2), (150.0, 100.0, 210.0, 150.0)]

CASES = [
    Case("no box", []),
    Case("one box", [(30.3, 41.7, 95.1, 120.9)]),
    Case("many boxes", clipped(random_boxes(1, 60, 8, 150))),
    *[Case(f"random boxes, seed {seed}", clipped(random_boxes(seed, 12, 6, 200))) for seed in range(10, 16)],
    Case("identical boxes", [(30.3, 41.7, 95.1, 120.9)] * 4 + [(33.3, 44.7, 99.1, 118.9)] * 2),
    Case("crowded: every anchor is claimed several times", random_boxes(2, 40, 60, 90)),
    Case("tiny boxes", random_boxes(3, 30, 0.3, 3.0)),
    Case("boxes without area", [(30.5, 20.25, 30.5, 90.75), (33.3, 44.4, 33.3, 44.4), (40.1, 40.2, 90.3, 99.4)]),
    Case("huge boxes: the whole canvas and beyond", [(0.3, 0.6, 223.7, 159.1), (-300.2, -250.7, 600.3, 420.9)]),
    Case("long boxes", [(0.7, 70.3, 223.1, 76.9), (100.3, 0.9, 104.7, 159.3)]),
    Case(
        "boxes outside the canvas", [(300.3, 10.1, 380.9, 60.7), (-90.1, -80.3, -10.7, -5.9), (500.0, 500.1, 520, 530)]
    ),
    Case("boxes over the border", random_boxes(4, 20, 50, 200)),
    Case("edges on anchor centres", [(16.0, 24.0, 88.0, 72.0), (64.0, 32.0, 129.0, 97.0)]),
    # One box in a thousand: IoUs between the thresholds of the unbiased and of the biased standard deviation.
    *[
        Case(f"the deviation is unbiased, {n}", [box])
        for n, box in enumerate([(91.7, 62.9, 183.5, 160.0), (157.0, 21.1, 216.1, 138.4), (54.8, 38.5, 154.6, 128.3)])
    ],
    Case("a canvas of one cell on the upper levels", clipped(random_boxes(5, 6, 5, 30), (32, 32)), (32, 32)),
    Case("levels with fewer than 9 cells", clipped(random_boxes(6, 10, 8, 60), (64, 96)), (64, 96)),
    Case("a canvas of one row of cells", clipped(random_boxes(7, 10, 8, 60), (32, 512)), (32, 512)),
    Case("a canvas of one column of cells", clipped(random_boxes(8, 10, 8, 60), (512, 32)), (512, 32)),
    Case("padded canvas", clipped(random_boxes(9, 15, 8, 100), (96, 160)), padded_hw=(96, 160)),
    Case("padded canvas, odd padded shape", clipped(random_boxes(20, 15, 8, 100), (100, 132)), padded_hw=(100, 132)),
    Case("padded to fewer than 9 valid cells", clipped(random_boxes(21, 5, 6, 30), (32, 32)), padded_hw=(32, 32)),
    Case("boxes in the padding", random_boxes(22, 15, 8, 60), padded_hw=(64, 96)),
    Case("blank picture", [], padded_hw=(0, 0)),
    Case("crowds that do nothing", clipped(random_boxes(23, 10, 20, 90)), ignored=CROWDS),
    Case("ignored crowds", clipped(random_boxes(24, 10, 20, 90)), ignored=CROWDS, ignore_iof=0.5),
    Case("ignored crowds, any overlap", clipped(random_boxes(25, 10, 20, 90)), ignored=CROWDS, ignore_iof=0.01),
    Case("ignored crowds, no box", [], ignored=CROWDS, ignore_iof=0.5),
    Case("ignored crowds on a padded canvas", [(10.3, 12.1, 70.2, 60.7)], (160, 224), (96, 128), CROWDS, 0.3),
]


def assign_cases(*cases: Case, slots: int | None = None) -> Assignment:
    """A batch of one picture a case, on one canvas and with one setting for ignored boxes."""
    canvas_hw, ignore_iof = cases[0].canvas_hw, cases[0].ignore_iof
    boxes, ignored = (
        [np.array(of_case, np.float32).reshape(-1, 4) for of_case in of_cases]
        for of_cases in ([case.boxes for case in cases], [case.ignored for case in cases])
    )
    blank = np.zeros((*canvas_hw, 3), np.uint8)
    labels = [np.zeros(len(of_case), np.int32) for of_case in boxes]
    batch = golden_cases.stack([blank] * len(cases), boxes, labels, ignored, canvas_hw, slots)
    padded_hw = torch.tensor([case.padded_hw or canvas_hw for case in cases], dtype=torch.int32)
    return assign(make_grid(canvas_hw), padded_hw, batch, ATSSConfig(ignore_iof=ignore_iof))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_owners_agree_with_the_loops(case: Case) -> None:
    expected = reference.atss(
        case.canvas_hw, case.padded_hw or case.canvas_hw, case.boxes, case.ignored, case.ignore_iof
    )
    got = assign_cases(case)
    owner = golden_cases.owners_of(got)[0]
    for anchor in np.flatnonzero(owner != np.maximum(expected.owner, 0)):
        # two claimants, and rounding may decide for either where one of them is doubtful
        assert {int(owner[anchor]), int(expected.owner[anchor])} & expected.doubtful, f"anchor {anchor}"
    if not expected.doubtful:
        np.testing.assert_array_equal(got.counted[0].numpy(), expected.owner >= 0)


def test_the_cases_are_not_excused_by_rounding() -> None:
    """Doubtful boxes are few, or the comparison above would say nothing."""
    doubtful = total = 0
    for case in CASES:
        found = reference.atss(
            case.canvas_hw, case.padded_hw or case.canvas_hw, case.boxes, case.ignored, case.ignore_iof
        )
        doubtful, total = doubtful + len(found.doubtful), total + len(case.boxes)
    assert doubtful <= total * 0.1, f"{doubtful} of {total} boxes"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_anchor_has_at_most_one_owner_and_lies_in_the_padded_shape(case: Case) -> None:
    got = assign_cases(case)
    owned = got.anchors[got.positive].tolist()
    assert len(owned) == len(set(owned))
    inside = cells_inside(make_grid(case.canvas_hw), torch.tensor([case.padded_hw or case.canvas_hw]))[0]
    assert all(bool(inside[anchor]) for anchor in owned)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_empty_slots_own_nothing_and_change_nothing(case: Case) -> None:
    tight, roomy = assign_cases(case), assign_cases(case, slots=max(1, len(case.boxes)) + 13)
    slots = tight.positive.shape[1]
    assert torch.equal(roomy.positive[:, :slots], tight.positive)
    assert torch.equal(roomy.anchors[:, :slots], tight.anchors)
    assert torch.equal(roomy.counted, tight.counted)
    assert not roomy.positive[:, slots:].any()


def test_of_identical_boxes_the_first_takes_all() -> None:
    case = Case("identical", [(30.3, 41.7, 95.1, 120.9)] * 3)
    got = assign_cases(case)
    alone = assign_cases(Case("alone", case.boxes[:1]))
    assert torch.equal(got.positive[:, :1], alone.positive)
    assert not got.positive[:, 1:].any()


def test_the_later_box_of_larger_iou_takes_the_anchor() -> None:
    """An anchor of stride 8 at (80, 80) is the square (48, 48, 112, 112)."""
    worse, better = (44.3, 44.1, 109.9, 110.7), (48.1, 48.2, 111.9, 112.3)
    index = next(i for i, a in enumerate(reference.anchors_of((160, 224))) if (a.stride, a.x, a.y) == (8, 80, 80))
    for boxes in ([worse, better], [better, worse]):
        owner = golden_cases.owners_of(assign_cases(Case("two", boxes)))[0]
        assert boxes[int(owner[index]) - 1] == better


def test_a_picture_in_a_batch_is_assigned_as_alone() -> None:
    cases = [case for case in CASES if case.canvas_hw == (160, 224) and not case.ignored]
    slots = max(len(case.boxes) for case in cases)
    together = assign_cases(*cases, slots=slots)
    for i, case in enumerate(cases):
        alone = assign_cases(case, slots=slots)
        for got, expected in zip(together, alone, strict=True):
            assert torch.equal(got[i : i + 1], expected), case.name


@pytest.mark.parametrize("topk", [1, 3, 9])
@pytest.mark.parametrize("canvas_hw", [(32, 32), (64, 96), (160, 224), (32, 1344), (800, 32)])
def test_the_window_holds_the_nearest_anchors(canvas_hw: tuple[int, int], topk: int) -> None:
    """The distances of the window's candidates are those of a top-k over all anchors, wherever the box lies."""
    grid = make_grid(canvas_hw)
    rng = np.random.default_rng(canvas_hw[0] + topk)
    sizes = np.array([canvas_hw, canvas_hw, (1, 1), (canvas_hw[0], 1), (canvas_hw[0] // 2 + 1, canvas_hw[1])])
    padded_hw = padded_sizes(torch.from_numpy(sizes.astype(np.int32)))
    spread = 2.0 * max(canvas_hw)  # far outside the canvas as well
    centres = torch.from_numpy(rng.uniform(-spread / 2, spread, (len(sizes), 50, 2)).astype(np.float32))
    centres[:, ::5] = torch.round(centres[:, ::5] / 4) * 4  # on anchors and halfway between them
    boxes = torch.cat([centres - 5, centres + 5], dim=2)
    inside = cells_inside(grid, padded_hw) > 0
    window, in_window = nearest_in_window(grid, padded_hw, boxes, topk)
    everywhere, exists = nearest_of_all(grid, inside, torch.zeros_like(inside), boxes, topk)

    def distances(anchors: Tensor, exist: Tensor) -> Tensor:
        squared = (grid.centres_px[anchors.long()] - centres.unsqueeze(2)).square().sum(dim=-1)
        return torch.where(exist, squared, torch.inf)

    for level, (rows, columns) in enumerate(grid.shapes_hw):
        count = min(topk, rows * columns)
        mine = slice(level * topk, (level + 1) * topk)
        theirs = slice(sum(min(topk, r * c) for r, c in grid.shapes_hw[:level]), None)
        got = distances(window[..., mine], in_window[..., mine]).sort(dim=2).values[..., :count]
        expected = distances(everywhere[..., theirs], exists[..., theirs])[..., :count].sort(dim=2).values
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-2)


def test_without_crowds_both_searches_give_the_same_assignment() -> None:
    for case in CASES:
        if not case.ignored:
            window, everywhere = assign_cases(case), assign_cases(case._replace(ignore_iof=0.5))
            expected = reference.atss(case.canvas_hw, case.padded_hw or case.canvas_hw, case.boxes)
            if not expected.doubtful:
                np.testing.assert_array_equal(golden_cases.owners_of(window), golden_cases.owners_of(everywhere))
            assert torch.equal(window.counted, everywhere.counted)

"""IoU, GIoU and edge distances."""

from __future__ import annotations

import pytest
import reference
import torch
from torch import Tensor

from gfl.tensors.boxes import (
    area,
    boxes_from_distances,
    distances_from_boxes,
    intersection,
    iou,
    iou_and_giou,
    pairwise_iou,
)


def box(*edges: float) -> Tensor:
    return torch.tensor(edges, dtype=torch.float32)


def random_boxes(count: int, seed: int, size: float = 100.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2, 2), generator=generator) * size
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0, 4000.0])
def test_iou_and_giou_agree_with_the_loops(size: float) -> None:
    a, b = random_boxes(20, 0, size), random_boxes(15, 1, size)
    overlap, generalised = iou_and_giou(a.unsqueeze(1), b)
    plain = iou(a.unsqueeze(1), b)
    shared = intersection(a.unsqueeze(1), b)
    for i, first in enumerate(a.tolist()):
        for j, second in enumerate(b.tolist()):
            # 1e-5: areas are differences of coordinates, which lose digits in float32
            assert float(shared[i, j]) == pytest.approx(reference.intersection(first, second), rel=1e-5, abs=1e-9)
            assert float(plain[i, j]) == pytest.approx(reference.iou(first, second), rel=1e-4, abs=1e-5)
            assert float(overlap[i, j]) == pytest.approx(reference.iou(first, second), rel=1e-4, abs=1e-5)
            assert float(generalised[i, j]) == pytest.approx(reference.giou(first, second), rel=1e-4, abs=1e-5)


def test_iou_of_all_pairs_has_the_bits_of_iou() -> None:
    boxes = torch.rand(2, 300, 4, generator=torch.Generator().manual_seed(0)) * 50
    boxes[..., 2:] += boxes[..., :2]
    boxes[:, 0] = 0.0  # an empty slot
    assert torch.equal(pairwise_iou(boxes), iou(boxes.unsqueeze(2), boxes.unsqueeze(1)))


def test_iou_of_a_box_with_itself_is_one() -> None:
    boxes = random_boxes(50, 2)
    overlap, generalised = iou_and_giou(boxes, boxes)
    assert torch.equal(overlap, torch.ones(50))
    assert torch.equal(generalised, torch.ones(50))


def test_iou_of_disjoint_and_of_touching_boxes_is_zero() -> None:
    a = box(0, 0, 10, 10)
    assert float(iou(a, box(20, 0, 30, 10))) == 0.0
    assert float(iou(a, box(10, 0, 20, 10))) == 0.0


def test_giou_of_disjoint_boxes_is_negative_and_falls_with_their_distance() -> None:
    a = box(0, 0, 10, 10)
    near, far = (iou_and_giou(a, box(x, 0, x + 10, 10))[1] for x in (20.0, 200.0))
    assert -1.0 < float(far) < float(near) < 0.0


def test_giou_of_a_box_inside_another_is_their_iou() -> None:
    overlap, generalised = iou_and_giou(box(0, 0, 10, 10), box(2, 2, 6, 6))
    assert float(overlap) == float(generalised) == pytest.approx(0.16)


def test_iou_and_giou_are_symmetric() -> None:
    a, b = random_boxes(50, 3), random_boxes(50, 4)
    for forth, back in zip(iou_and_giou(a, b), iou_and_giou(b, a), strict=True):
        assert torch.equal(forth, back)


def test_areas_are_floored_by_a_maximum_not_by_an_addition() -> None:
    small = box(0, 0, 1e-2, 1e-2)  # area 1e-4, a hundred floors
    assert float(iou(small, small)) == 1.0
    below = box(0, 0, 1e-4, 1e-4)  # area 1e-8, a hundredth of the floor
    assert float(iou(below, below)) == pytest.approx(1e-2, rel=1e-4)


@pytest.mark.parametrize("other", [(5.0, 5.0, 5.0, 5.0), (0.0, 0.0, 10.0, 0.0), (7.0, 3.0, 7.0, 9.0)])
def test_boxes_without_area_have_no_iou_and_finite_gradients(other: tuple[float, ...]) -> None:
    flat = box(*other).requires_grad_()
    overlap, generalised = iou_and_giou(flat, box(5, 5, 5, 5))
    (overlap + generalised).backward()
    assert float(overlap.detach()) == 0.0
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_area_of_a_box_turned_inside_out_is_not_clamped() -> None:
    """Predicted boxes are never inside out: the integral of a distribution over bins from 0 is not negative."""
    assert float(area(box(0, 0, 3, 2))) == 6.0
    assert float(area(box(3, 0, 0, 2))) == -6.0


def test_distances_and_boxes_are_inverse() -> None:
    boxes = random_boxes(100, 5)
    centres = torch.rand((100, 2), generator=torch.Generator().manual_seed(6)) * 100
    back = boxes_from_distances(centres, distances_from_boxes(centres, boxes))
    torch.testing.assert_close(back, boxes, rtol=0, atol=2e-5)  # one rounding of a number up to 100


def test_distances_are_left_top_right_bottom() -> None:
    assert distances_from_boxes(box(10, 20), box(8, 15, 13, 29)).tolist() == [2, 5, 3, 9]
    assert boxes_from_distances(box(10, 20), box(2, 5, 3, 9)).tolist() == [8, 15, 13, 29]


def test_distances_of_a_centre_outside_are_negative() -> None:
    assert float(distances_from_boxes(box(0, 0), box(1, 1, 2, 2)).amin()) == -1.0

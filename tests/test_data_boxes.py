"""NumPy boxes that follow their pictures, and how far they overlap."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gfl.data import boxes
from gfl.tensors.boxes import iou


@given(st.integers(0, 2**32), st.sampled_from([(20, 30), (7, 90), (64, 64)]))
def test_scaled_boxes_stay_on_the_picture(seed: int, to_hw: tuple[int, int]) -> None:
    corners = np.sort(np.random.default_rng(seed).uniform(-5, 60, (6, 2, 2)), axis=1).astype(np.float32)
    boxes_xyxy = boxes.scale_boxes(corners.reshape(6, 4), (40, 50), to_hw)
    assert boxes_xyxy.dtype == np.float32
    assert (boxes_xyxy >= 0).all()
    assert (boxes_xyxy <= [to_hw[1], to_hw[0], to_hw[1], to_hw[0]]).all()
    assert (boxes_xyxy[:, 2:] >= boxes_xyxy[:, :2]).all()


def test_no_boxes_stay_no_boxes() -> None:
    none = np.zeros((0, 4), np.float32)
    assert boxes.scale_boxes(none, (4, 4), (8, 8)).shape == (0, 4)
    assert boxes.flip_boxes_horizontal(none, 8).shape == boxes.flip_boxes_vertical(none, 8).shape == (0, 4)


def test_pairwise_iou_is_that_of_the_model() -> None:
    corners = np.random.default_rng(0).uniform(0, 60, (2, 7, 2, 2))
    a, b = np.sort(corners, axis=2).reshape(2, 7, 4)
    b[0], b[1] = a[0], [90, 90, 90, 99]  # equal, and without area
    expected = iou(torch.from_numpy(a)[:, None], torch.from_numpy(b)[None])
    np.testing.assert_allclose(boxes.pairwise_iou(a, b), expected, rtol=1e-12)
    assert boxes.pairwise_iou(a, b[:0]).shape == (7, 0)

"""Suppression with fixed shapes, held against greedy NMS in loops."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from gfl.model.nms import suppress


def keep_of(boxes: Tensor, labels: Tensor, rounds: int, threshold: float = 0.6) -> tuple[list[int], bool]:
    """Indices kept, and whether the rounds had settled."""
    valid = torch.ones((1, len(boxes)), dtype=torch.bool)
    keep, changed = suppress(boxes[None], labels[None].int(), valid, threshold, rounds)
    return torch.nonzero(keep[0]).flatten().tolist(), not changed[0]


def chain(length: int) -> Tensor:
    """Boxes each of which overlaps its neighbours alone, by an IoU of 2/3: every other one is kept."""
    left = torch.arange(length) * 2.0
    return torch.stack([left, torch.zeros(length), left + 10.0, torch.full((length,), 10.0)], dim=1)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 15, 17, 40])
def test_chains_of_suppression_settle_in_as_many_rounds_or_say_that_they_did_not(length: int) -> None:
    boxes, labels = chain(length), torch.zeros(length)
    greedy = reference.greedy_nms(boxes.tolist(), [-float(i) for i in range(length)], [0] * length, 0.6)
    assert greedy == list(range(0, length, 2))
    for rounds in (1, 2, 4, 16, 41):
        kept, settled = keep_of(boxes, labels, rounds)
        assert settled == (rounds >= length), (length, rounds)
        if settled:
            assert kept == greedy


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 10, 120])
def test_suppression_agrees_with_greedy_nms(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2)).astype(np.float32)
    sides = rng.uniform(8, 16, (count, 2)).astype(np.float32)
    boxes = torch.from_numpy(np.concatenate([corners, corners + sides], axis=1))
    labels = torch.from_numpy(rng.integers(0, 3, count))
    kept, settled = keep_of(boxes, labels, rounds=64, threshold=0.3)
    order = [-float(i) for i in range(count)]
    assert settled
    assert kept == reference.greedy_nms(boxes.tolist(), order, labels.tolist(), 0.3)


def test_of_identical_boxes_the_first_stays_in_each_class() -> None:
    boxes = torch.tensor([[1.0, 1.0, 9.0, 9.0]]).expand(6, 4)
    assert keep_of(boxes, torch.tensor([0, 1, 0, 1, 1, 2]), 16) == ([0, 1, 5], True)


def test_the_overlap_threshold_is_strict() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0], [0.0, 0.0, 10.0, 6.5]])
    assert keep_of(boxes, torch.zeros(3), 16, threshold=0.6)[0] == [0, 1]  # IoU 0.6 stays, 0.65 goes


def test_boxes_without_area_suppress_nothing() -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0]] * 3)
    assert keep_of(boxes, torch.zeros(3), 16)[0] == [0, 1, 2]


def test_what_is_not_valid_neither_stays_nor_suppresses() -> None:
    boxes = torch.tensor([[[1.0, 1.0, 9.0, 9.0]] * 3])
    valid = torch.tensor([[False, True, True]])
    keep, _ = suppress(boxes, torch.zeros((1, 3), dtype=torch.int32), valid, 0.6, 16)
    assert keep.tolist() == [[False, True, False]]

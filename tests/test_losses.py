"""QFL, DFL, GIoU and their normalisation, held against the loops of reference.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import golden_cases
import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from gfl.model import detector
from gfl.model.anchors import make_grid, padded_sizes
from gfl.model.assign import ATSSConfig, assign
from gfl.model.detector import DetectorConfig
from gfl.model.losses import dfl, qfl
from gfl.model.structures import Batch, Outputs

CANVAS_HW = (96, 128)
CLASSES = 5
CONFIG = DetectorConfig(num_classes=CLASSES)
GRID = make_grid(CANVAS_HW)


class Picture(NamedTuple):
    """The size of a picture on the canvas, and its boxes."""

    size_hw: tuple[int, int]
    boxes: Sequence[Sequence[float]]


def random_boxes(seed: int, count: int, smallest: float = 6.0, largest: float = 80.0) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(smallest), np.log(largest), (count, 2)))
    centres = rng.uniform((0, 0), (CANVAS_HW[1], CANVAS_HW[0]), (count, 2))
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return np.clip(corners, 0, [CANVAS_HW[1], CANVAS_HW[0]] * 2).astype(np.float32).tolist()


BLANK = Picture((0, 0), [])
CASES = {
    "no box": [Picture(CANVAS_HW, [])],
    "one box": [Picture(CANVAS_HW, [[20.3, 15.1, 77.9, 70.2]])],
    "many boxes": [Picture(CANVAS_HW, random_boxes(0, 30))],
    "two pictures, one without boxes": [Picture(CANVAS_HW, random_boxes(1, 6)), Picture(CANVAS_HW, [])],
    "identical boxes of different classes": [Picture(CANVAS_HW, [[20.3, 15.1, 77.9, 70.2]] * 3)],
    "tiny boxes": [Picture(CANVAS_HW, random_boxes(2, 20, 0.5, 4.0))],
    "boxes without area": [
        Picture(CANVAS_HW, [[24.5, 30.5, 24.5, 60.1], [8.3, 8.3, 8.3, 8.3], [40.1, 40.3, 60.7, 61.1]])
    ],
    "a box beyond the last bin": [Picture(CANVAS_HW, [[0.3, 0.1, 127.9, 95.8]])],
    "padded canvas": [Picture((60, 90), random_boxes(3, 5, 6, 50)), Picture(CANVAS_HW, random_boxes(4, 5))],
    "with a blank picture": [Picture(CANVAS_HW, random_boxes(5, 4)), BLANK],
    "blank pictures only": [BLANK, BLANK],
}


def batch_of(pictures: Sequence[Picture], slots: int | None = None) -> Batch:
    images = [np.zeros((*picture.size_hw, 3), np.uint8) for picture in pictures]
    boxes = [np.array(picture.boxes, np.float32).reshape(-1, 4) for picture in pictures]
    labels = [np.arange(len(b), dtype=np.int32) % CLASSES for b in boxes]
    return golden_cases.stack(images, boxes, labels, canvas_hw=CANVAS_HW, slots=slots)


def random_outputs(count: int, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((count, GRID.num_anchors, CLASSES + 1), generator=generator) * 2 - 2
    edges = torch.randn((count, GRID.num_anchors, 4, 17), generator=generator)
    return Outputs(logits.sigmoid(), edges)


def loss_of(outputs: Outputs, batch: Batch, **options: object) -> tuple[Tensor, dict[str, Tensor]]:
    return detector.loss_of_outputs(outputs, batch, padded_sizes(batch.image_sizes), GRID, CONFIG, **options)


def owners_of(batch: Batch) -> list[np.ndarray]:
    """Our own assignment, so that a tie between anchors is no difference of the losses."""
    assignment = assign(GRID, padded_sizes(batch.image_sizes), batch, ATSSConfig())
    return list(np.where(assignment.counted.numpy(), golden_cases.owners_of(assignment), reference.OUTSIDE))


def with_gradient(outputs: Outputs, dtype: torch.dtype = torch.float32) -> Outputs:
    return Outputs(*(part.detach().to(dtype).requires_grad_() for part in outputs[:2]))


@pytest.mark.parametrize("name", CASES)
def test_losses_and_their_gradients_agree_with_the_loops(name: str) -> None:
    pictures = CASES[name]
    batch = batch_of(pictures)
    ours, plain = (with_gradient(random_outputs(len(pictures)), dtype) for dtype in (torch.float32, torch.float64))
    total, parts = loss_of(ours, batch)
    labels = [(np.arange(len(picture.boxes)) % CLASSES).tolist() for picture in pictures]
    boxes = [picture.boxes for picture in pictures]
    expected = reference.losses(plain.scores, plain.edge_logits, owners_of(batch), boxes, labels, CANVAS_HW)
    if name == "with a blank picture":  # the loops count a picture without a positive as one, a blank is none
        expected = expected._replace(qfl=[x * expected.samples / (expected.samples - 1) for x in expected.qfl])
    for part in ("qfl", "dfl", "giou"):
        # 1e-5: sums of a few thousand float32 terms
        summed = float(torch.stack(getattr(expected, part)).sum().detach())
        assert float(parts[part]) == pytest.approx(summed, rel=1e-5, abs=1e-7), part
    total.backward()
    expected.total.backward()
    for got, wanted in zip(ours[:2], plain[:2], strict=True):
        assert got.grad is not None
        wanted_grad = torch.zeros_like(wanted) if wanted.grad is None else wanted.grad
        scale = max(float(wanted_grad.abs().max()), 1e-12)
        assert float((got.grad.double() - wanted_grad).abs().max()) <= 1e-5 * scale


@pytest.mark.parametrize("name", CASES)
def test_empty_slots_change_no_loss(name: str) -> None:
    pictures, outputs = CASES[name], random_outputs(len(CASES[name]))
    tight, roomy = loss_of(outputs, batch_of(pictures)), loss_of(outputs, batch_of(pictures, slots=50))
    # the same terms, summed in another order
    assert float(roomy[0]) == pytest.approx(float(tight[0]), rel=1e-6, abs=1e-9)


def test_blank_pictures_change_no_loss() -> None:
    pictures = [Picture(CANVAS_HW, random_boxes(6, 5)), Picture(CANVAS_HW, [])]
    outputs = random_outputs(4)
    alone, _ = loss_of(Outputs(*(part[:2] for part in outputs[:2])), batch_of(pictures))
    filled, _ = loss_of(outputs, batch_of([*pictures, BLANK, BLANK]))
    assert float(filled) == pytest.approx(float(alone), rel=1e-6)


def test_a_picture_without_a_positive_counts_as_one_sample() -> None:
    outputs = random_outputs(2)
    empty = batch_of([Picture(CANVAS_HW, [])])
    one, _ = loss_of(Outputs(*(part[:1] for part in outputs[:2])), empty)
    other, _ = loss_of(Outputs(*(part[1:] for part in outputs[:2])), empty)
    both, _ = loss_of(outputs, batch_of([Picture(CANVAS_HW, [])] * 2))
    assert float(both) == pytest.approx(float(one + other) / 2, rel=1e-6)


def test_normalisers_averaged_over_ranks_give_the_loss_of_the_whole_batch() -> None:
    """DDP averages gradients, so the mean of the ranks' losses must be the loss of one device with all pictures."""
    pictures = [Picture(CANVAS_HW, random_boxes(seed, count)) for seed, count in ((7, 9), (8, 1), (9, 3), (10, 0))]
    outputs = random_outputs(4)
    whole, _ = loss_of(outputs, batch_of(pictures))
    ranks = [(Outputs(*(part[i : i + 2] for part in outputs[:2])), batch_of(pictures[i : i + 2])) for i in (0, 2)]
    seen: list[Tensor] = []

    def remember(normalisers: Tensor) -> Tensor:
        seen.append(normalisers)
        return normalisers

    for rank in ranks:
        loss_of(*rank, reduce=remember)
    mean: Callable[[Tensor], Tensor] = lambda _: torch.stack(seen[:2]).mean(dim=0)  # noqa: E731
    losses = [loss_of(*rank, reduce=mean)[0] for rank in ranks]
    assert float(torch.stack(losses).mean()) == pytest.approx(float(whole), rel=1e-6)


def test_a_rank_without_a_positive_adds_no_box_loss() -> None:
    batch = batch_of([Picture(CANVAS_HW, [])])
    _, parts = loss_of(random_outputs(1), batch, reduce=lambda n: torch.stack([n[0], n[1] + 3.0]))
    assert float(parts["giou"]) == float(parts["dfl"]) == 0.0


def test_box_losses_are_divided_by_the_exact_weight_even_below_one() -> None:
    """Not by max(weight, 1): scaling all scores leaves the mean over the positives as it is."""
    batch, outputs = batch_of([Picture(CANVAS_HW, random_boxes(13, 3))]), random_outputs(1)
    _, parts = loss_of(outputs, batch)
    _, faint = loss_of(Outputs(outputs.scores * 1e-3, outputs.edge_logits), batch)
    for name in ("giou", "dfl"):
        assert float(faint[name]) == pytest.approx(float(parts[name]), rel=1e-5)


def test_scores_of_exactly_zero_and_one_give_finite_losses_and_gradients() -> None:
    """float32 sigmoids saturate."""
    batch = batch_of([Picture(CANVAS_HW, random_boxes(11, 8))])
    for value in (0.0, 1.0):
        outputs = random_outputs(1)
        outputs = with_gradient(Outputs(torch.full_like(outputs.scores, value), outputs.edge_logits))
        total, _ = loss_of(outputs, batch)
        total.backward()
        assert torch.isfinite(total)
        for part in outputs[:2]:
            assert part.grad is not None
            assert torch.isfinite(part.grad).all()


def test_extreme_edge_logits_give_finite_losses_and_gradients() -> None:
    batch = batch_of([Picture(CANVAS_HW, random_boxes(12, 8))])
    outputs = random_outputs(1)
    outputs = with_gradient(Outputs(outputs.scores, outputs.edge_logits * 1e4))
    total, _ = loss_of(outputs, batch)
    total.backward()
    assert torch.isfinite(total)
    assert outputs.edge_logits.grad is not None
    assert torch.isfinite(outputs.edge_logits.grad).all()


def test_crowds_that_are_ignored_leave_their_anchors_out_of_the_loss() -> None:
    picture = np.zeros((*CANVAS_HW, 3), np.uint8)
    none, crowd = np.zeros((0, 4), np.float32), np.array([[0, 0, 128, 96]], np.float32)
    batch = golden_cases.stack([picture], [none], [np.zeros(0, np.int32)], [crowd], CANVAS_HW)
    outputs = random_outputs(1)
    cfg = DetectorConfig(num_classes=CLASSES, assign=ATSSConfig(ignore_iof=0.5))
    _, counted = loss_of(outputs, batch)
    _, ignored = detector.loss_of_outputs(outputs, batch, padded_sizes(batch.image_sizes), GRID, cfg)
    assert float(ignored["qfl"]) < 0.5 * float(counted["qfl"])


def test_the_background_channel_takes_part_in_the_weights_of_the_boxes() -> None:
    batch = batch_of([Picture(CANVAS_HW, [[20.3, 15.1, 77.9, 70.2], [60.3, 50.1, 90.9, 80.2]])])
    outputs = random_outputs(1)
    loud = outputs.scores.clone()
    loud[..., CLASSES] = torch.linspace(0.1, 0.9, GRID.num_anchors)
    _, quiet_parts = loss_of(outputs, batch)
    _, loud_parts = loss_of(Outputs(loud, outputs.edge_logits), batch)
    assert float(loud_parts["giou"]) != pytest.approx(float(quiet_parts["giou"]), rel=1e-4)


# ---- the two focal losses by themselves ----


def test_qfl_is_zero_where_the_score_is_the_target() -> None:
    p = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert qfl(p, p, 2.0).tolist() == [0.0] * 4


def test_qfl_of_a_negative_is_the_focal_cross_entropy() -> None:
    p = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(qfl(p, torch.zeros(3), 2.0), -(1 - p).log() * p**2)


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_qfl_modulates_by_the_distance_and_its_gradient_does_too(beta: float) -> None:
    p = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.9, 0.1], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: qfl(p, target, beta), (p,))
    expected = -(target * p.log() + (1 - target) * (1 - p).log()) * (target - p).abs() ** beta
    torch.testing.assert_close(qfl(p, target, beta), expected)


def test_qfl_clamps_the_logarithm_at_minus_100() -> None:
    assert float(qfl(torch.tensor([1.0]), torch.tensor([0.0]), 2.0)) == 100.0


def test_dfl_at_a_whole_number_is_the_cross_entropy_of_its_bin() -> None:
    logits = torch.randn((17, 17), generator=torch.Generator().manual_seed(0))
    dist = torch.arange(16.0)
    torch.testing.assert_close(dfl(logits[:16], dist), -logits[:16].log_softmax(1).diagonal())


def test_dfl_between_two_bins_weighs_both() -> None:
    logits = torch.randn(17, generator=torch.Generator().manual_seed(1))
    logs = logits.log_softmax(0)
    assert float(dfl(logits, torch.tensor(4.3))) == pytest.approx(
        -0.7 * float(logs[4]) - 0.3 * float(logs[5]), rel=1e-5
    )


@pytest.mark.parametrize(("dist", "clamped"), [(-3.0, 0.0), (15.95, 15.9), (16.0, 15.9), (400.0, 15.9)])
def test_dfl_clamps_the_target_to_reg_max_less_a_tenth(dist: float, clamped: float) -> None:
    logits = torch.randn(17, generator=torch.Generator().manual_seed(2))
    assert float(dfl(logits, torch.tensor(dist))) == float(dfl(logits, torch.tensor(clamped)))


def test_dfl_is_least_where_the_distribution_sits_on_the_target() -> None:
    dist = torch.tensor(6.25)
    at = torch.full((17,), -30.0)
    at[6], at[7] = torch.tensor([0.75, 0.25]).log()
    away = at.roll(2)
    assert float(dfl(at, dist)) < float(dfl(away, dist))

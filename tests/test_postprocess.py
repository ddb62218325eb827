"""Detections with fixed shapes, held against full greedy NMS in loops."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import reference
import torch

from gfl.model.anchors import cells_inside, make_grid, padded_sizes
from gfl.model.postprocess import PredictConfig, decode, detect, select_candidates
from gfl.model.structures import Detections, Outputs

CANVAS_HW = (96, 128)
GRID = make_grid(CANVAS_HW)
CLASSES = 4  # and a background channel


class Case(NamedTuple):
    """The outputs of one picture, named after what is special about them."""

    name: str
    seed: int = 0
    level: float = -3.0  # mean of the class logits: how many pairs pass the threshold
    spread: float = 1.5  # of the class logits
    sharpness: float = 1.0  # of the edge logits: a small one gives boxes that overlap
    size_hw: tuple[int, int] = CANVAS_HW
    settings: PredictConfig = PredictConfig()


CASES = [
    Case("nothing passes", level=-20.0),
    Case("few pass", level=-6.0),
    *[Case(f"random, seed {seed}", seed=seed) for seed in range(1, 5)],
    Case("boxes that overlap", seed=5, sharpness=0.2),
    Case("more than K candidates", seed=6, level=0.0, settings=PredictConfig(candidates=200)),
    Case("more than K candidates, boxes that overlap", 7, 0.0, 1.5, 0.2, settings=PredictConfig(candidates=200)),
    Case("more than K candidates, all places filled", 6, 0.0, settings=PredictConfig(candidates=200, nms_iou=1.0)),
    Case("more than K candidates, few kept", 8, 0.0, 0.1, 0.0, settings=PredictConfig(candidates=100)),
    Case("a few more than K candidates", seed=18, level=-1.0, settings=PredictConfig(keep_background=True)),
    Case("too few rounds", seed=9, sharpness=0.2, settings=PredictConfig(rounds=1)),
    Case("two rounds", seed=10, sharpness=0.2, settings=PredictConfig(rounds=2)),
    Case("fewer places than detections", seed=11, level=-1.0, settings=PredictConfig(max_detections=10)),
    Case("all pass", seed=12, level=3.0, settings=PredictConfig(candidates=5000)),
    Case("a high threshold", seed=13, level=0.0, settings=PredictConfig(score_threshold=0.8)),
    Case("strict suppression", seed=14, sharpness=0.2, settings=PredictConfig(nms_iou=0.1)),
    Case("no suppression", seed=15, sharpness=0.2, settings=PredictConfig(nms_iou=1.0)),
    Case("padded canvas", seed=16, size_hw=(50, 70)),
    Case("padded canvas, cells in the padding", 17, size_hw=(50, 70), settings=PredictConfig(keep_padding_cells=True)),
    Case("background takes part", seed=18, level=-2.0, settings=PredictConfig(keep_background=True)),
    Case("a picture of one pixel", seed=19, size_hw=(1, 1)),
    Case("blank picture", seed=20, size_hw=(0, 0)),
]
BY_NAME = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def outputs_of(case: Case) -> Outputs:
    generator = torch.Generator().manual_seed(case.seed)
    logits = torch.randn((1, GRID.num_anchors, CLASSES + 1), generator=generator) * case.spread + case.level
    edges = torch.randn((1, GRID.num_anchors, 4, 17), generator=generator) * 2 * case.sharpness
    return Outputs(logits.sigmoid(), edges)


def detect_case(case: Case) -> Detections:
    sizes = torch.tensor([case.size_hw], dtype=torch.int32)
    return detect(outputs_of(case), sizes, GRID, CLASSES, case.settings)


def expected_of(case: Case) -> list[reference.Found]:
    """Full greedy NMS over every pair."""
    outputs, cfg = outputs_of(case), case.settings
    sizes = torch.tensor([case.size_hw], dtype=torch.int32)
    usable = cells_inside(GRID, padded_sizes(sizes))[0].bool() | cfg.keep_padding_cells
    return reference.detect(
        outputs.scores[0, :, : CLASSES + cfg.keep_background].numpy(),
        outputs.edge_logits[0].numpy(),
        case.size_hw,
        usable.tolist(),
        CANVAS_HW,
        cfg.score_threshold,
        cfg.nms_iou,
        cfg.max_detections,
    )


def equals(found: Detections, expected: list[reference.Found]) -> bool:
    count = int(found.num_detections[0])
    if count != len(expected) or found.labels[0, :count].tolist() != [e.label for e in expected]:
        return False
    pairs = (
        (found.scores, [e.score for e in expected], 1e-6),
        (found.boxes_xyxy, [e.box for e in expected], 1e-2),  # px: a float32 softmax times strides up to 128
        (found.edge_std, [e.edge_std for e in expected], 1e-2),
    )
    return all(
        np.allclose(got[0, :count].numpy(), np.array(wanted).reshape(got[0, :count].shape), rtol=0, atol=atol)
        for got, wanted, atol in pairs
    )


@BY_NAME
def test_a_result_that_claims_to_be_complete_is_full_greedy_nms(case: Case) -> None:
    found = detect_case(case)
    if int(found.complete[0]):
        assert equals(found, expected_of(case))


CUT_SHORT = (
    "more than K candidates",
    "more than K candidates, boxes that overlap",
    "more than K candidates, few kept",
    "a few more than K candidates",
    "too few rounds",
    "two rounds",
)


@BY_NAME
def test_only_what_was_cut_short_is_not_complete(case: Case) -> None:
    assert int(detect_case(case).complete[0]) == (case.name not in CUT_SHORT)


@pytest.mark.parametrize("name", CUT_SHORT)
def test_the_cases_that_are_cut_short_do_miss_something(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    assert not equals(detect_case(case), expected_of(case))


@BY_NAME
def test_detections_are_sorted_and_empty_slots_say_so(case: Case) -> None:
    found = detect_case(case)
    count, slots = int(found.num_detections[0]), case.settings.max_detections
    assert found.scores.shape == found.labels.shape == (1, slots)
    assert found.boxes_xyxy.shape == found.edge_std.shape == (1, slots, 4)
    assert (found.labels.dtype, found.num_detections.dtype, found.complete.dtype) == (torch.int32,) * 3
    assert torch.equal(found.scores[0], found.scores[0].sort(descending=True).values)
    assert (found.scores[0, :count] > case.settings.score_threshold).all()
    assert (found.labels[0, :count] >= 0).all()
    assert (found.labels[0, count:] == -1).all()
    for part in (found.scores, found.boxes_xyxy, found.edge_std):
        assert (part[0, count:] == 0).all()


@BY_NAME
def test_boxes_stay_within_the_picture(case: Case) -> None:
    high, wide = case.size_hw
    boxes = detect_case(case).boxes_xyxy[0]
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([wide, high, wide, high])).all()


def test_a_picture_in_a_batch_is_detected_as_alone() -> None:
    cases = [case for case in CASES if case.settings == PredictConfig()]
    outputs = Outputs(*(torch.cat([outputs_of(case)[field] for case in cases]) for field in range(2)))
    sizes = torch.tensor([case.size_hw for case in cases], dtype=torch.int32)
    together = detect(outputs, sizes, GRID, CLASSES, PredictConfig())
    for i, case in enumerate(cases):
        for got, alone in zip(together, detect_case(case), strict=True):
            torch.testing.assert_close(got[i : i + 1], alone, rtol=1e-6, atol=1e-5)


# ---- thresholds and selection ----


def quiet() -> Outputs:
    """No score anywhere, and boxes of one stride around each centre."""
    edges = torch.where(torch.arange(17) == 1, 200.0, 0.0).expand(1, GRID.num_anchors, 4, 17)
    return Outputs(torch.zeros((1, GRID.num_anchors, CLASSES + 1)), edges.clone())


def detect_outputs(outputs: Outputs, **settings: float | bool) -> Detections:
    sizes = torch.tensor([CANVAS_HW], dtype=torch.int32)
    cfg = dataclasses.replace(PredictConfig(), **settings)
    return detect(outputs, sizes, GRID, CLASSES, cfg)


def test_the_score_threshold_is_strict() -> None:
    outputs = quiet()
    outputs.scores[0, 20, 1] = 0.05
    outputs.scores[0, 40, 2] = float(np.nextafter(np.float32(0.05), np.float32(1)))
    assert detect_outputs(outputs).labels[0, :2].tolist() == [2, -1]


def test_one_anchor_may_be_found_in_several_classes() -> None:
    outputs = quiet()
    outputs.scores[0, 20, :3] = torch.tensor([0.3, 0.5, 0.4])
    found = detect_outputs(outputs)
    assert found.labels[0, :4].tolist() == [1, 2, 0, -1]
    assert found.boxes_xyxy[0, 0].tolist() == found.boxes_xyxy[0, 2].tolist()


def test_boxes_are_centre_and_distances_in_strides() -> None:
    outputs = quiet()
    index = GRID.starts[1] + 3 * GRID.shapes_hw[1][1] + 2  # row 3, column 2 of P4
    outputs.scores[0, index, 0] = 0.9
    outputs.edge_logits[0, index] = torch.where(torch.arange(17) == torch.tensor([[0], [1], [2], [3]]), 200.0, 0.0)
    found = detect_outputs(outputs)
    assert found.boxes_xyxy[0, 0].tolist() == [32 - 0, 48 - 16, 32 + 32, 96]  # 48 + 48 is the picture's edge
    assert found.edge_std[0, 0].tolist() == [0, 0, 0, 0]


def test_the_background_channel_takes_no_place_unless_asked_for() -> None:
    outputs = quiet()
    outputs.scores[0, :, CLASSES] = 0.9
    outputs.scores[0, 50, 0] = 0.3
    assert detect_outputs(outputs).labels[0, :2].tolist() == [0, -1]
    assert detect_outputs(outputs, keep_background=True).labels[0, 0] == CLASSES


def test_the_best_anchors_of_a_level_are_kept_before_selection() -> None:
    outputs = quiet()
    outputs.scores[0, :10, 0] = torch.linspace(0.5, 0.9, 10)  # ten of P3
    outputs.scores[0, GRID.starts[4], 1] = 0.1  # one of P7, which has fewer cells
    found = detect_outputs(outputs, nms_pre=3, nms_iou=1.0)
    assert found.labels[0, :5].tolist() == [0, 0, 0, 1, -1]


@pytest.mark.parametrize("candidates", [100, 300, 2000])
def test_candidates_are_the_best_pairs_of_all(candidates: int) -> None:
    outputs = outputs_of(Case("many", seed=21, level=0.0))
    sizes = torch.tensor([CANVAS_HW], dtype=torch.int32)
    cfg = PredictConfig(candidates=candidates)
    found = select_candidates(outputs, sizes, GRID, CLASSES, cfg)
    scores = outputs.scores[0, :, :CLASSES].numpy()
    pairs = reference.select(scores, [True] * len(scores), 0.0)[:candidates]
    assert found.labels[0].tolist() == [k for _, k in pairs]
    torch.testing.assert_close(found.scores[0], torch.tensor([scores[pair] for pair in pairs]), rtol=0, atol=0)
    boxes, _ = decode(outputs.edge_logits, torch.tensor([[a for a, _ in pairs]]), sizes, GRID)
    torch.testing.assert_close(found.boxes_xyxy, boxes)
    assert float(found.passing[0]) == (scores > np.float32(cfg.score_threshold)).sum()


def test_a_chain_longer_than_the_rounds_is_not_complete() -> None:
    """Through `detect`: one row of P3 with boxes that reach over the next."""
    for length, complete in ((8, 1), (12, 0)):
        outputs = quiet()
        # l, t, r, b = 4, 1, 4, 1 strides at a step of one stride: IoU 7/9 with a neighbour, 6/10 with the next but one
        outputs.edge_logits[0] = torch.where(torch.arange(17) == torch.tensor([[4], [1], [4], [1]]), 200.0, 0.0)
        outputs.scores[0, 16 + 4 : 16 + 4 + length, 0] = torch.linspace(0.9, 0.5, length)
        assert int(detect_outputs(outputs, rounds=8, nms_iou=0.65).complete[0]) == complete


def test_equal_scores_keep_one_of_each_cluster() -> None:
    """Which one is the implementation's; how many is not."""
    outputs = quiet()
    outputs.edge_logits[0] = torch.where(torch.arange(17) == 8, 200.0, 0.0)
    outputs.scores[0, [0, 1, 15 * 12 + 11], 0] = 0.5  # two neighbours overlap, one is far
    found = detect_outputs(outputs, nms_iou=0.5)
    assert int(found.num_detections[0]) == 2
    assert int(found.complete[0]) == 1


def test_a_small_canvas_fills_its_slots_with_empty_ones() -> None:
    grid, sizes = make_grid((64, 64)), torch.tensor([[64, 64]], dtype=torch.int32)
    outputs = Outputs(torch.full((1, grid.num_anchors, 1), 0.5), torch.zeros(1, grid.num_anchors, 4, 17))
    found = detect(outputs, sizes, grid, 1, PredictConfig())
    assert grid.num_anchors < 100
    assert found.boxes_xyxy.shape == (1, 100, 4)
    assert found.scores.shape == found.labels.shape == (1, 100)
    count = int(found.num_detections)
    assert 0 < count <= grid.num_anchors
    assert (found.labels[0, count:] == -1).all()
    assert not found.scores[0, count:].any()

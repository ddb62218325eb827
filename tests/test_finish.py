"""The choice of detections in NumPy equals that of the model, from the boxes and scores of all cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_onnx
import torch
from small_models import CANVAS_HW, lively, prepared_of, small

from export.graph import graph_of
from gfl.model.postprocess import PredictConfig
from gfl.runtime.description import Arrays, Thresholds
from gfl.runtime.finish import finish, finished
from gfl.tensors.variables import flatten

RULES = {
    "hard": PredictConfig(score_threshold=0.1, rounds=100),
    "hard, over all classes": PredictConfig(rounds=100, class_agnostic=True, nms_iou=0.9),
    "hard, all slots filled": PredictConfig(rounds=100, max_detections=7, candidates=100),
    "hard, candidates left out": PredictConfig(score_threshold=0.01, rounds=100, candidates=120, nms_iou=0.1),
    "soft_linear": PredictConfig(nms="soft_linear", nms_iou=0.3, score_threshold=0.1, candidates=300),
    "soft_gaussian": PredictConfig(nms="soft_gaussian", candidates=120, max_detections=60),
    "soft_linear, all classes": PredictConfig(nms="soft_linear", nms_iou=0.3, class_agnostic=True, max_detections=30),
    "nothing passes": PredictConfig(score_threshold=0.9),
}


def limits_of(cfg: PredictConfig) -> Thresholds:
    names = ("nms_iou", "max_detections", "candidates", "rounds", "nms", "class_agnostic", "soft_sigma")
    own = {name: getattr(cfg, name) for name in names}
    return Thresholds(score=cfg.score_threshold, soft_min_score=cfg.soft_min_score, **own)


def both(cfg: PredictConfig, form: str = "decoded") -> tuple[Arrays, Arrays]:
    """What the model itself finds on two pictures, and what is made of its decoded or raw outputs."""
    detector = replace(small("gn", frozen_stages=-1), predict=cfg)
    variables = lively(detector)
    bias = flatten(variables)["bbox_head.gfl_cls.bias"]
    bias += 2.5  # scores from 0 to 0.4
    tree = prepared_of(variables, detector).tree
    images = np.random.default_rng(0).integers(0, 256, (2, 3, *CANVAS_HW), dtype=np.uint8)
    sizes = np.array([CANVAS_HW, (50, 61)], np.int32)
    sides: list[Arrays] = []
    for outputs_of in ("detections", form):
        graph = graph_of(outputs_of, CANVAS_HW, detector)
        with torch.inference_mode():
            outputs = graph.function(tree, torch.from_numpy(images), torch.from_numpy(sizes))
        sides.append({name: array.numpy() for name, array in zip(graph.output_names, outputs, strict=True)})
    names = tuple(map(str, range(detector.num_classes)))
    about = replace(tiny_onnx.DESCRIPTION, outputs=form, size=CANVAS_HW, names=names, thresholds=limits_of(cfg))
    return sides[0], finished(sides[1], sizes, about)


@pytest.mark.parametrize("name", RULES)
def test_it_chooses_what_the_model_chooses(name: str) -> None:
    expected, found = both(RULES[name])
    for output in ("count", "labels", "complete", "scores", "boxes"):
        assert found[output].dtype == expected[output].dtype
        np.testing.assert_allclose(found[output], expected[output], rtol=0, atol=1e-6, err_msg=output)
    assert not found["edge_std"].any()
    assert bool(expected["count"].any()) == (name != "nothing passes")


def test_raw_outputs_give_what_the_model_gives_with_the_spread_of_the_edges() -> None:
    expected, found = both(RULES["hard"], "raw")
    assert expected["count"].all()
    for output in ("count", "labels", "complete", "scores", "boxes", "edge_std"):
        np.testing.assert_allclose(found[output], expected[output], rtol=1e-6, atol=2e-5, err_msg=output)


def test_pairs_that_were_left_out_are_told() -> None:
    expected, found = both(RULES["hard, candidates left out"])
    assert found["complete"].tolist() == expected["complete"].tolist() == [0, 0]


def test_the_spread_of_a_file_that_gives_it_goes_with_its_box() -> None:
    boxes = np.array([[[0, 0, 9, 9], [20, 20, 30, 30]]], np.float32)
    decoded: Arrays = {"boxes": boxes, "scores": np.array([[[0.4], [0.6]]], np.float32), "edge_std": boxes + 1}
    found = finish(decoded, limits_of(PredictConfig(max_detections=3)))
    assert found["count"].tolist() == [2]
    np.testing.assert_array_equal(found["edge_std"][0, :2], boxes[0, ::-1] + 1)

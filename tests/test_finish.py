"""The choice of detections in NumPy equals that of the model, from the boxes and scores of all cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_onnx
import torch
from numpy.typing import NDArray
from small_models import CANVAS_HW, lively, prepared_of, small

from export.graph import graph_of
from gfl.errors import InputError
from gfl.model.postprocess import PredictConfig
from gfl.runtime.description import Arrays, Description, Thresholds
from gfl.runtime.finish import FinishedFile, finish, finished
from gfl.runtime.providers import ProviderReport
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


@dataclass(frozen=True)
class OpenFile:
    """A file that gives what it is told to, whatever it says of itself."""

    description: Description
    outputs: Arrays
    path: Path = Path("best.xml")

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        return self.outputs

    def provider_report(self) -> ProviderReport:
        return ProviderReport("none", {}, ())


@pytest.mark.parametrize(
    ("form", "config", "part"),
    [
        ("decoded", "PredictConfig.nms_pre = 1000", "has nms_pre = 1000"),
        ("decoded", "PredictConfig.keep_background = True", "has keep_background = True"),
        ("raw", "PredictConfig.keep_padding_cells = True", "has keep_padding_cells = True"),
        ("boxes", "", "expected decoded or raw"),
    ],
)
def test_a_setting_that_is_not_followed_is_refused(form: str, config: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        FinishedFile(OpenFile(replace(tiny_onnx.DESCRIPTION, outputs=form, config=config), {}))


def test_settings_that_are_followed_are_taken() -> None:
    config = "PredictConfig.keep_padding_cells = True\nPredictConfig.nms_pre = 0\nPredictConfig.keep_background = False"
    FinishedFile(OpenFile(replace(tiny_onnx.DESCRIPTION, outputs="decoded", config=config), {}))


@pytest.mark.parametrize("form", ["decoded", "raw"])
@pytest.mark.parametrize("name", ["scores", "boxes"])
def test_outputs_of_another_form_are_told_in_one_sentence(form: str, name: str) -> None:
    file = FinishedFile(OpenFile(replace(tiny_onnx.DESCRIPTION, outputs=form), {name: np.zeros((2, 5))}))
    with pytest.raises(InputError, match=f"best.xml does not give the {form} outputs that it describes"):
        file.run(np.zeros((2, 3, 64, 96), np.uint8), np.full((2, 2), 64, np.int32))

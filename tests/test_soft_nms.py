"""Soft-NMS with fixed shapes: against the goldens, loops, and itself in exported files; class-agnostic NMS.

The goldens are those of the model family: `pytest tests/test_soft_nms.py [--goldens DIR]`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import golden_cases
import numpy as np
import pytest
import reference
import tiny_onnx
import torch
from test_postprocess import CANVAS_HW, CLASSES, GRID, Case, detect_case, expected_of, outputs_of
from tiny_export import H, W, export, trained_flags, write_model
from torch import Tensor

from export import torch as export_torch
from export.check import violations
from export.graph import trace
from export.translate import to_onnx
from export.untried import lower_program
from export.untried_onnx import lower_threshold
from gfl import evaluate
from gfl.engine.checkpoints import load_trained
from gfl.model.nms import suppress_softly
from gfl.model.postprocess import PredictConfig, detect
from gfl.model.structures import Outputs
from gfl.runtime.description import DETECTION_NAMES, Description
from gfl.runtime.on_torch.digest import digest_of
from gfl.runtime.on_torch.pt_file import describe
from gfl.runtime.onnx_session import open_session
from gfl.runtime.open import open_model
from gfl.tensors.variables import Variables

GOLDENS = "soft_nms.npz"
SOFT = ("soft_linear", "soft_gaussian")
EVERY_PAIR = {"nms_iou": 1.0, "max_detections": 10_000, "candidates": 10_000}  # above the threshold, best first


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case of the set that was asked for."""
    if "golden" in metafunc.fixturenames:
        folder = golden_cases.family_folder(metafunc.config.getoption("--goldens"))
        metafunc.parametrize("golden", golden_cases.names_before(folder, GOLDENS, ".keep"))


# ---- the rule ----


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_selections_and_decayed_scores_agree(
    golden: str, dtype: torch.dtype, tolerance: float, family_goldens: Path
) -> None:
    """Order exactly; the scores of the authors' float32 to 1e-4, of the same rule in float64 to `tolerance`."""
    arrays = golden_cases.read(family_goldens, GOLDENS)
    case = {key.removeprefix(f"{golden}."): value for key, value in arrays.items() if key.startswith(f"{golden}.")}
    labels = torch.from_numpy(case["labels"])
    indices, scores = suppress_softly(
        torch.from_numpy(case["boxes"])[None].to(dtype),
        torch.from_numpy(case["scores"])[None].to(dtype),
        (torch.zeros_like(labels) if case["class_agnostic"] else labels)[None],
        iou_threshold=float(case["iou_threshold"]),
        sigma=float(case["sigma"]) if case["method"] == "gaussian" else None,
        min_score=float(case["min_score"]),
        selections=len(labels),
    )
    kept = int((scores > 0).sum())
    np.testing.assert_array_equal(indices[0, :kept].numpy(), case["keep"])
    np.testing.assert_allclose(scores[0, :kept].numpy(), case["dets"][:, 4], rtol=1e-4)
    np.testing.assert_allclose(scores[0, :kept].numpy(), case["exact_scores"], rtol=tolerance)


def linear_from(threshold: float) -> Callable[[float], float]:
    return lambda overlap: 1.0 - overlap if overlap >= threshold else 1.0


def gaussian(sigma: float) -> Callable[[float], float]:
    return lambda overlap: math.exp(-(overlap**2) / sigma)


@pytest.mark.parametrize("sigma", [None, 0.4])
@pytest.mark.parametrize("selections", [1, 7, 60])
def test_the_first_selections_of_two_pictures_are_those_of_loops(sigma: float | None, selections: int) -> None:
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 30, (2, 60, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 16, (2, 60, 2))], axis=2)
    scores, labels = rng.uniform(0.05, 1, (2, 60)), rng.integers(0, 2, (2, 60))
    indices, decayed = suppress_softly(
        *(torch.from_numpy(array) for array in (boxes, scores, labels)),
        iou_threshold=0.3,
        sigma=sigma,
        min_score=0.1,
        selections=selections,
    )
    decay = linear_from(0.3) if sigma is None else gaussian(sigma)
    for i in range(2):
        kept = reference.soft_nms(boxes[i].tolist(), scores[i].tolist(), labels[i].tolist(), decay, 0.1)[:selections]
        assert len(kept) == selections or 30 < len(kept) < 60  # some decay below 0.1
        assert indices[i, : len(kept)].tolist() == [index for index, _ in kept]
        assert decayed[i].tolist() == pytest.approx([score for _, score in kept] + [0.0] * (selections - len(kept)))


def test_the_first_stays_below_the_least_score_and_its_overlap_at_the_threshold_decays() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0], [20.0, 0.0, 30.0, 10.0]]])
    scores, labels = torch.tensor([[0.4, 0.4, 0.2]]), torch.zeros((1, 3), dtype=torch.int32)
    for min_score, expected in ((0.5, [0.4, 0.0, 0.0]), (0.2, [0.4, 0.2, 0.0]), (0.0, [0.4, 0.2, 0.16])):
        settings = {"iou_threshold": 0.6, "sigma": None, "min_score": min_score, "selections": 3}
        indices, decayed = suppress_softly(boxes, scores, labels, **settings)  # type: ignore[arg-type]
        assert indices.tolist() == [[0, 2, 1]]
        assert decayed[0].tolist() == pytest.approx(expected)


# ---- in detection ----


@pytest.mark.parametrize("nms", SOFT)
def test_a_result_that_claims_to_be_complete_is_that_of_all_pairs(nms: str) -> None:
    claims = []
    for seed, level in ((1, -4.0), (2, -2.0), (3, 0.0), (4, 1.0)):
        for changes in (
            {},
            {"candidates": 400},
            {"score_threshold": 0.0, "soft_min_score": 0.6},
            {"max_detections": 9},
        ):
            cfg = PredictConfig(**{"nms": nms, "candidates": 150, **changes})  # type: ignore[arg-type]
            case = Case("", seed=seed, level=level, sharpness=0.3, settings=cfg)
            found = detect_case(case)
            whole = detect_case(case._replace(settings=dataclasses.replace(cfg, candidates=100_000)))
            claims.append(bool(found.complete[0]))
            if claims[-1]:
                for one, other in zip(found, whole, strict=True):
                    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert 4 <= sum(claims) < len(claims)


@pytest.mark.parametrize("nms", SOFT)
def test_soft_nms_of_detection_is_that_of_loops_and_of_one_class_when_agnostic(nms: str) -> None:
    for class_agnostic in (False, True):
        rule = {"nms": nms, "class_agnostic": class_agnostic, "nms_iou": 0.4, "soft_sigma": 0.3, "soft_min_score": 0.01}
        cfg = PredictConfig(**rule)  # type: ignore[arg-type]
        case = Case("", seed=6, level=-2.0, settings=cfg)
        found = detect_case(case)
        pairs = expected_of(case._replace(settings=PredictConfig(**EVERY_PAIR)))
        kept = reference.soft_nms(
            [pair.box for pair in pairs],
            [pair.score for pair in pairs],
            [0 if class_agnostic else pair.label for pair in pairs],
            linear_from(0.4) if nms == "soft_linear" else gaussian(0.3),
            cfg.soft_min_score,
        )
        count = int(found.num_detections[0])
        assert 5 < count < len(pairs)
        assert count == min(len(kept), 100)
        assert found.labels[0, :count].tolist() == [pairs[index].label for index, _ in kept[:count]]
        np.testing.assert_allclose(found.scores[0, :count], [score for _, score in kept[:count]], rtol=1e-4)
        assert (found.scores[0, count:] == 0).all()
        assert (found.labels[0, count:] == -1).all()


def test_class_agnostic_hard_nms_is_that_of_one_class() -> None:
    case = Case("", seed=7, level=-2.0, settings=PredictConfig(class_agnostic=True))
    found = detect_case(case)
    pairs = expected_of(case._replace(settings=PredictConfig(**EVERY_PAIR)))
    kept = reference.greedy_nms([p.box for p in pairs], [p.score for p in pairs], [0] * len(pairs), 0.6)
    count = int(found.num_detections[0])
    assert len(set(found.labels[0, :count].tolist())) == CLASSES
    assert found.labels[0, :count].tolist() == [pairs[index].label for index in kept[:100]]
    assert count < int(detect_case(case._replace(settings=PredictConfig())).num_detections[0])


# ---- exported ----


@pytest.mark.parametrize(("nms", "class_agnostic"), [("soft_linear", False), ("soft_gaussian", True)])
def test_exported_soft_nms_is_static_and_gives_the_detections_of_pytorch(nms: str, class_agnostic: bool) -> None:
    """The post-processing alone, as .onnx and as .pt2: what lies before it is the same for every NMS."""
    cfg = PredictConfig(nms=nms, class_agnostic=class_agnostic, max_detections=12, candidates=100)  # type: ignore[arg-type]
    outputs = outputs_of(Case("", seed=8, level=-1.0, sharpness=0.3))
    sizes = torch.tensor([CANVAS_HW], dtype=torch.int32)

    def found(_: Variables, scores: Tensor, edge_logits: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        return tuple(detect(Outputs(scores, edge_logits), image_sizes, GRID, CLASSES, cfg))

    inputs = (outputs.scores, outputs.edge_logits, sizes)
    program = trace(found, {}, inputs)
    names = ("scores_in", "edge_logits", "image_sizes")
    model = to_onnx(program, names, DETECTION_NAMES).model
    assert violations(model) == ()
    session = open_session(model.SerializeToString(), threads=1)
    of_onnx = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
    of_program = program.module()(*inputs)
    for name, array, same, expected in zip(DETECTION_NAMES, of_onnx, of_program, found({}, *inputs), strict=True):
        torch.testing.assert_close(same, expected, rtol=0, atol=0)
        atol = 1e-2 if name in ("boxes", "edge_std") else 1e-5
        np.testing.assert_allclose(np.asarray(array), expected.numpy(), rtol=0, atol=atol, err_msg=name)
    assert expected.shape == (1,)
    limits = dataclasses.replace(tiny_onnx.DESCRIPTION.thresholds, nms=nms)
    assert lower_threshold(model, limits)  # for pictures where nothing is above them
    assert lower_program(program, limits)


@pytest.mark.slow  # two exports with their comparison, and 87 pictures through three
@pytest.mark.parametrize("nms", SOFT)
def test_trained_model_with_soft_nms_agrees_with_its_exports_on_real_pictures(
    nms: str, test_data: Path, tmp_path: Path
) -> None:
    images, annotations = test_data / "bccd" / "val", test_data / "bccd" / "annotations" / "instances_val.json"
    flags = [*trained_flags(test_data), f"PredictConfig.nms = {nms!r}", "CANVASES = [[256, 320]]"]
    common = [*flags, "--annotations", str(annotations), "--images", str(images)]
    export(*common, "--output", tmp_path / "best.onnx")
    assert export_torch.main([*common, "--output", str(tmp_path / "best.pt2")]) == 0
    assert open_model(tmp_path / "best.onnx").description.thresholds.nms == nms
    found = []
    for name in ("best.onnx", "best.pt2"):
        report = json.loads((tmp_path / name).with_suffix(".parity.json").read_text())
        assert (report["failures"], report["excused"]) == ([], [])
        assert report["matched"] > 300
        assert report["largest"]["scores"] < 1e-5
    for name, source in (("onnx", ["--onnx", str(tmp_path / "best.onnx")]), ("pth", flags)):
        data = ["--annotations", str(annotations), "--images", str(images), "--workers", "0", "--no-report"]
        assert evaluate.main([*source, *data, "--output", str(tmp_path / name)]) == 0
        found.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    assert abs(found[0]["AP"] - found[1]["AP"]) <= 5e-4


def test_the_digest_of_a_model_is_also_of_its_nms(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "best.pt")
    changes = ([], ["PredictConfig.nms = 'soft_linear'"], ["PredictConfig.class_agnostic = True"])
    models = [load_trained(checkpoint, None, None, bindings=bindings) for bindings in changes]
    assert len({digest_of(model, outputs="detections", precision="fp32") for model in models}) == len(models)
    metadata = describe(models[0], size=(H, W), batch=1).to_metadata()
    limits = '{"score": 0.05, "nms_iou": 0.6, "max_detections": 100, "candidates": 1000, "rounds": 16}'
    old = Description.from_metadata({**metadata, "thresholds": limits}, "older.onnx").thresholds
    assert (old.nms, old.class_agnostic) == ("hard", False)


# ---- bad input ----


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nms": "soft"}, r"PredictConfig\.nms='soft': expected one of \['hard', 'soft_linear', 'soft_gaussian'\]"),
        ({"soft_sigma": 0.0}, r"PredictConfig\.soft_sigma=0\.0: expected a number from 0\.001 to 1000"),
        ({"soft_min_score": 1.5}, r"PredictConfig\.soft_min_score=1\.5: expected a number from 0 to 1"),
        ({"soft_sigma": math.nan}, r"PredictConfig\.soft_sigma=nan"),
    ],
)
def test_settings_that_are_no_rule_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PredictConfig(**changes)  # type: ignore[arg-type]

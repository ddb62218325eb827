"""Test-time augmentation: the authors' rule on the goldens of tta.npz, and a wrapped model on pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import golden_cases
import numpy as np
import pytest
import torch
from golden_checks import Model as GoldenModel
from golden_checks import make_model

from gfl.model import detector
from gfl.model.anchors import make_grid
from gfl.model.detector import DetectorConfig
from gfl.model.postprocess import PredictConfig, select_candidates
from gfl.model.structures import Outputs
from gfl.runtime.merging import Found, Merge, merge_found
from gfl.runtime.tta import to_picture

R50 = DetectorConfig()
FILE = "tta.npz"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case of the set that was asked for."""
    if "tta_case" in metafunc.fixturenames:
        folder = golden_cases.family_folder(metafunc.config.getoption("--goldens"))
        metafunc.parametrize("tta_case", golden_cases.names_before(folder, FILE, ".num_candidates"))


# ---- the authors' rule ----


@cache
def r50() -> GoldenModel:
    return make_model(R50, golden_cases.filled(detector.init(R50)))


def model_outputs(seed: int, size: tuple[int, int], canvas: tuple[int, int], *, flip: bool) -> Outputs:
    """The head's outputs on a picture of noise, which is mirrored before it is padded."""
    noise = np.random.default_rng(seed).standard_normal((3, *size)).astype(np.float32)
    padded = np.zeros((1, 3, *canvas), np.float32)
    padded[0, :, : size[0], : size[1]] = noise[:, :, ::-1] if flip else noise
    with torch.no_grad():
        return detector.forward(detector.prepare(r50().variables, r50().constants), torch.from_numpy(padded), R50)


def drawn_outputs(rng: np.random.Generator, canvas: tuple[int, int]) -> Outputs:
    """The head's outputs of the synth cases for one view."""
    offset = np.where(np.isin(np.arange(81), (0, 1, 2, 3, 80)), -3.0, -14.0)[:, None]
    scores, logits = [], []
    for rows, columns in make_grid(canvas).shapes_hw:
        z, z2 = rng.standard_normal((1, 81, rows, columns)), rng.standard_normal((1, 68, rows, columns))
        scores.append((1 / (1 + np.exp(-(offset + 2.2 * z.reshape(81, -1))))).astype(np.float32).T)
        logits.append((2 * z2).astype(np.float32).reshape(4, 17, -1).transpose(2, 0, 1))
    return Outputs(*(torch.from_numpy(np.concatenate(parts)).unsqueeze(0) for parts in (scores, logits)))


def candidates_of(outputs: Outputs, size: tuple[int, int], canvas: tuple[int, int], threshold: float) -> Found:
    """What a view sends to NMS, as the authors take it."""
    cfg = PredictConfig(
        score_threshold=threshold, candidates=6000, nms_pre=1000, keep_background=True, keep_padding_cells=True
    )
    best = select_candidates(outputs, torch.tensor([size], dtype=torch.int32), make_grid(canvas), 80, cfg)
    passing = best.scores[0].numpy() > threshold
    assert not passing.all()
    parts = (best.boxes_xyxy, best.scores, best.labels, best.edge_std)
    return Found(*(part[0].numpy()[passing] for part in parts))


def test_views_merge_to_the_authors_detections(tta_case: str, family_goldens: Path) -> None:
    arrays = golden_cases.read(family_goldens, FILE)
    case = {key.removeprefix(f"{tta_case}."): arrays[key] for key in arrays if key.startswith(f"{tta_case}.")}
    rng = np.random.default_rng(int(arrays["synth_seed"]))
    members = []
    shapes = zip(case["flips"], case["scales"], case["img_shapes"].tolist(), case["pad_shapes"].tolist(), strict=True)
    for flip, scales, size, canvas in shapes:
        if tta_case.startswith("model"):
            seed = int(arrays["input_seed"]) + (size != [256, 320])
            outputs = model_outputs(seed, tuple(size), tuple(canvas), flip=bool(flip))
        else:
            outputs = drawn_outputs(rng, tuple(canvas))
        found = candidates_of(outputs, tuple(size), tuple(canvas), float(case["score_thr"]))
        members.append(to_picture(found, size[1], scales, flip=bool(flip)))
    assert sum(len(member.scores) for member in members) == int(case["num_candidates"])
    soft = str(case["nms_type"]) == "soft_nms"
    rule = Merge("nms", float(case["iou_threshold"]))
    if soft:
        rule = replace(
            rule, method=f"soft_{case['method']}", sigma=float(case["sigma"]), min_score=float(case["min_score"])
        )
    merged = merge_found(members, rule, int(case["max_per_img"]))
    boxes = merged.boxes_xyxy if case["rescale"] else merged.boxes_xyxy * case["scales"][0].astype(np.float32)
    for name in ("det", "exact"):
        np.testing.assert_array_equal(merged.labels, case[f"{name}_labels"])
        np.testing.assert_allclose(boxes, case[f"{name}_bboxes"][:, :4], rtol=0, atol=2e-3)
        np.testing.assert_allclose(merged.scores, case[f"{name}_bboxes"][:, 4], rtol=0, atol=5e-5 if soft else 1e-5)

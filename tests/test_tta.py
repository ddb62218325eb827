"""Test-time augmentation: the authors' rule on the goldens of tta.npz, and a wrapped model on pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import golden_cases
import numpy as np
import pytest
import tiny
import tiny_export
import torch
from golden_checks import Model as GoldenModel
from golden_checks import make_model
from numpy.typing import NDArray

from gfl.errors import InputError
from gfl.model import detector
from gfl.model.anchors import make_grid
from gfl.model.detector import DetectorConfig
from gfl.model.postprocess import PredictConfig, select_candidates
from gfl.model.structures import Outputs
from gfl.runtime.merging import Found, Merge, found_in, merge_found
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from gfl.runtime.tta import View, parse_views, see, to_picture, with_views

Pictures = tuple[NDArray[np.uint8], NDArray[np.int32]]  # images, and their sizes on the canvas

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


# ---- a wrapped model ----

H, W = tiny.CANVAS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_export.write_model(tmp_path_factory.mktemp("tta") / "best.pt", surer=1.0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """A picture that fills the canvas, a smaller one, and a blank."""
    images = np.random.default_rng(0).integers(0, 256, (3, 3, H, W)).astype(np.uint8)
    images[1, :, 40:], images[1, :, :, 70:], images[2] = 0, 0, 0
    return images, np.array([[H, W], [40, 70], [0, 0]], np.int32)


def mirrored(images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> NDArray[np.uint8]:
    turned = images.copy()
    for i, (height, width) in enumerate(sizes.tolist()):
        turned[i, :, :height, :width] = images[i, :, :height, :width][..., ::-1]
    return turned


def opened(path: Path, *words: str | float) -> Model:
    views = parse_views(words)
    return with_views(open_model(path, batch=3, candidates=len(views) > 1), views, "nms")


def test_one_view_is_the_model_itself(checkpoint: Path, pictures: Pictures) -> None:
    plain = open_model(checkpoint, batch=3)
    same = opened(checkpoint, 1.0)
    assert (same.canvases, same.description) == (plain.canvases, plain.description)
    found, expected = same.run(*pictures), plain.run(*pictures)
    assert found.keys() == expected.keys()
    assert int(expected["count"][0]) > 8
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_picture_and_its_mirror_image_have_mirrored_detections(checkpoint: Path, pictures: Pictures) -> None:
    """Each sees both views; what the edges' spread says travels with the edges."""
    model, (images, sizes) = opened(checkpoint, "flip"), pictures
    one, other = model.run(images, sizes), model.run(mirrored(images, sizes), sizes)
    assert one["count"].tolist() == other["count"].tolist()
    assert one["count"][2] == 0
    assert one["scores"].shape == (3, 100)
    for i, width in enumerate((W, 70)):
        count = int(one["count"][i])
        assert count > 8
        sides = []
        for found, flip in ((one, False), (other, True)):
            turned = to_picture(found_in(found)[i], width, np.ones(4), flip=flip)
            order = np.lexsort((turned.boxes_xyxy[:, 1].round(1), turned.boxes_xyxy[:, 0].round(1), turned.labels))
            sides.append(turned.select(order))
        for a, b in zip(*sides, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)


def test_merged_candidates_are_complete_unless_one_may_be_missing(checkpoint: Path, pictures: Pictures) -> None:
    model, every = opened(checkpoint, "flip"), open_model(checkpoint, batch=3, candidates=True)
    assert (every.run(*pictures)["count"] <= 1000).all()
    assert model.run(*pictures)["complete"].tolist() == [1, 1, 1]
    few = open_model(checkpoint, batch=3, candidates=True, gin_bindings=["postprocess.PredictConfig.candidates = 101"])
    assert with_views(few, parse_views(["flip"]), "nms").run(*pictures)["complete"].tolist() == [0, 0, 1]


def test_a_view_is_resized_then_mirrored_then_padded(pictures: Pictures) -> None:
    images, sizes = pictures
    seen, seen_sizes = see(images, sizes, 0.5, flip=True)
    assert seen.shape == (3, 3, 32, 64)  # 32 x 48, in multiples of 32
    assert seen_sizes.tolist() == [[32, 48], [20, 35], [0, 0]]
    assert not seen[1, :, 20:].any()
    assert not seen[1, :, :, 35:].any()
    straight, _ = see(images, sizes, 0.5, flip=False)
    np.testing.assert_array_equal(mirrored(straight, seen_sizes), seen)
    np.testing.assert_array_equal(see(images, sizes, 1.0, flip=True)[0], mirrored(images, sizes))


def test_scales_ask_for_the_largest_picture_and_find_at_its_place(checkpoint: Path) -> None:
    """One even picture at each size gives candidates whose boxes lie on the same picture."""
    model = opened(checkpoint, 0.5, 2.0)
    plain = open_model(checkpoint)
    assert model.description.short_side == 2 * plain.description.short_side
    assert model.canvases == tuple((2 * height, 2 * width) for height, width in plain.canvases or ())
    canvas, size = model.canvas_for(H, W)
    found = model.run(np.full((1, 3, *canvas), 100, np.uint8), np.array([size], np.int32))
    boxes = found["boxes"][0, : int(found["count"][0])]
    assert boxes[:, 2].max() > 0.9 * size[1]
    assert boxes[:, [2, 3]].max(axis=0).tolist() <= [size[1], size[0]]


@pytest.mark.parametrize("words", [[], ["flip", "flip"], ["turn"], ["flip", "5"], ["0.05"], ["1", "1.0"], ["nan"]])
def test_views_that_are_none_are_told(words: list[str]) -> None:
    with pytest.raises(InputError, match="expected 'flip', different scales from"):
        parse_views(words)


def test_views_too_small_for_a_canvas_are_told(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="a short side of 6 px, expected at least 32; give a larger scale"):
        opened(checkpoint, 0.1)


def test_views_stand_in_the_authors_order() -> None:
    assert parse_views(["0.8", "flip", "1"]) == (View(0.8), View(0.8, True), View(1.0), View(1.0, True))
    assert parse_views(["flip"]) == (View(1.0), View(1.0, True))


def test_an_exported_file_is_flipped_and_not_scaled(
    tmp_path_factory: pytest.TempPathFactory, pictures: Pictures
) -> None:
    exported = open_model(tiny_export.lying_exports(tmp_path_factory))
    model = with_views(exported, parse_views(["flip"]), "nms")
    images, sizes = pictures
    one = [each.run(images[:1], sizes[:1]) for each in (model, exported)]
    assert int(one[0]["count"][0]) >= int(one[1]["count"][0]) > 0
    assert model.provider_report().notes[-1].startswith("the views are merged after the exported file's own NMS")
    with pytest.raises(InputError, match="which takes only its own canvases; give its checkpoint, or flip alone"):
        with_views(exported, parse_views([0.5]), "nms")

"""Resizing and mirroring pictures and their boxes, against the reference's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl.data import transforms
from gfl.data.boxes import flip_boxes_horizontal, flip_boxes_vertical, scale_boxes, scale_factors
from gfl.data.picture_files import read_picture

MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # RGB, as the authors' configuration
STD = np.array([58.395, 57.12, 57.375], np.float32)


def picture(height: int = 24, width: int = 40, seed: int = 0) -> transforms.Image:
    """A smooth random picture, so that JPEG keeps it nearly as it is."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def jittered(image: transforms.Image, brightness: float, contrast: float) -> transforms.Image:
    """The whole picture brighter, and then spread about its mean."""
    bright, mean = image * brightness, float(image.mean()) * brightness
    return np.clip(np.rint((bright - mean) * contrast + mean), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("place", range(4))
def test_pictures_and_boxes_equal_the_reference_pipeline(goldens: Path, test_data: Path, step: int, place: int) -> None:
    with np.load(goldens / "twin.npz") as golden:
        name = f"s{step}.i{place}."
        wanted = {key[len(name) :]: golden[key] for key in golden.files if key.startswith(name)}
    tables = json.loads((test_data / "bccd/annotations/instances_train.json").read_text())
    row = next(row for row in tables["images"] if row["id"] == int(wanted["image_id"]))
    boxes = [a["bbox"] for a in tables["annotations"] if a["image_id"] == row["id"] and min(a["bbox"][2:]) >= 1]
    boxes_xyxy = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], np.float32)

    image = read_picture(test_data / "bccd/train" / row["file_name"])
    from_hw = image.shape[0], image.shape[1]
    to_hw = transforms.resized_size(*from_hw, 240, 320)
    image, boxes_xyxy = transforms.resize(image, to_hw), scale_boxes(boxes_xyxy, from_hw, to_hw)
    if wanted["flip"]:
        image, boxes_xyxy = image[:, ::-1], flip_boxes_horizontal(boxes_xyxy, to_hw[1])

    assert to_hw == tuple(wanted["img_shape"])
    factor_h, factor_w = scale_factors(from_hw, to_hw)
    np.testing.assert_array_equal([factor_w, factor_h, factor_w, factor_h], wanted["scale_factor"])
    np.testing.assert_allclose(boxes_xyxy, wanted["boxes"], rtol=0, atol=1e-4)  # float32 rounding at 320 px
    padded = np.zeros((*wanted["pad_shape"], 3), np.float32)
    padded[: to_hw[0], : to_hw[1]] = (image.astype(np.float32) - MEAN) / STD
    np.testing.assert_allclose(padded[::37, ::41], wanted["pixels"], rtol=0, atol=1e-6)
    mean_std_sum = padded.mean(dtype=np.float64), padded.std(dtype=np.float64), padded.sum(dtype=np.float64)
    np.testing.assert_allclose(mean_std_sum, wanted["mean_std_sum"], rtol=1e-6)


@pytest.mark.parametrize(
    ("size_hw", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((427, 640), (800, 1199)), ((200, 1000), (267, 1333))],
)
def test_resized_size_follows_the_reference_rule(size_hw: tuple[int, int], expected: tuple[int, int]) -> None:
    assert transforms.resized_size(*size_hw, short_side=800, long_side=1333) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 1000), st.integers(0, 1000))
def test_resized_size_equals_plain_arithmetic(height: int, width: int, short: int, more: int) -> None:
    long = short + more
    scale = min(long / max(height, width), short / min(height, width))
    expected = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    assert transforms.resized_size(height, width, short, long) == expected
    assert max(expected) <= long


def test_a_mirrored_box_holds_the_mirrored_pixels() -> None:
    image = picture()
    boxes_xyxy = np.array([[3, 5, 11, 20]], np.float32)
    crop = image[5:20, 3:11]
    left, top, right, bottom = flip_boxes_horizontal(boxes_xyxy, 40)[0].astype(int)
    np.testing.assert_array_equal(image[:, ::-1][top:bottom, left:right], crop[:, ::-1])
    left, top, right, bottom = flip_boxes_vertical(boxes_xyxy, 24)[0].astype(int)
    np.testing.assert_array_equal(image[::-1][top:bottom, left:right], crop[::-1])


def test_jitter_of_one_changes_nothing_and_extremes_stay_in_range() -> None:
    levels = np.arange(256)
    np.testing.assert_array_equal(transforms.jitter_table(99.5, 1.0, 1.0), levels)
    assert transforms.jitter_table(99.5, 0.0, 1.0).max() == 0
    assert transforms.jitter_table(99.5, 100.0, 1.0)[3:].min() == 255
    assert set(transforms.jitter_table(99.6, 1.0, 0.0)) == {100}


@pytest.mark.parametrize("layout", ["usual", "mirrored", "read-only part"])
def test_a_picture_on_a_canvas_is_its_planes_with_zeros_beside(layout: str) -> None:
    image = picture()
    if layout != "usual":
        image = image[:, ::-1, ::-1] if layout == "mirrored" else image[2:20, 3:30]
        image.flags.writeable = False
    planes = np.full((3, 32, 64), 7, np.uint8)
    transforms.place_on_canvas(image, planes)
    expected = np.zeros_like(planes)
    expected[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    np.testing.assert_array_equal(planes, expected)


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([(1.0, 1.0), (0.8, 1.0), (1.0, 1.3), (1.2, 0.7)]),
    st.integers(0, 9),
)
def test_a_picture_changed_on_its_canvas_has_the_bytes_of_one_step_after_the_other(
    from_hw: tuple[int, int], size_hw: tuple[int, int], flips: tuple[bool, bool], jitter: tuple[float, float], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*from_hw, 3)).astype(np.uint8)
    changed = transforms.resize(image, size_hw)
    changed = changed[:, ::-1] if flips[0] else changed
    changed = changed[::-1] if flips[1] else changed
    expected = np.full((3, 96, 96), 7, np.uint8)
    transforms.place_on_canvas(jittered(changed, *jitter), expected)
    planes = np.full((3, 96, 96), 9, np.uint8)
    before = image.copy()
    transforms.change_onto(
        image, size_hw, planes, flip=flips[0], flip_vertical=flips[1], brightness=jitter[0], contrast=jitter[1]
    )
    np.testing.assert_array_equal(planes, expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("alike", [True, False])
def test_a_large_picture_is_enlarged_to_the_same_bytes_by_colours_or_not(
    alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, size_hw = picture(240, 333), (401, 557)
    monkeypatch.setattr(transforms, "resizes_colours_alike", lambda: alike)
    planes, expected = np.empty((2, 3, 416, 576), np.uint8)
    transforms.change_onto(image, size_hw, planes, flip=True)
    transforms.place_on_canvas(transforms.resize(image, size_hw)[:, ::-1], expected)
    np.testing.assert_array_equal(planes, expected)

"""Reading, resizing and mirroring pictures and boxes, against the reference's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfl.data import transforms
from gfl.errors import InputError

MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # reference.md, Recipe: RGB
STD = np.array([58.395, 57.12, 57.375], np.float32)
# An APP1 segment with one EXIF entry: orientation 6, to be shown turned 90 degrees clockwise.
TIFF = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
EXIF = b"\xff\xe1" + (8 + len(TIFF)).to_bytes(2, "big") + b"Exif\x00\x00" + TIFF


def picture(height: int = 24, width: int = 40, seed: int = 0) -> transforms.Image:
    """A smooth random picture, so that JPEG keeps it nearly as it is."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def encoded(kind: str, image: transforms.Image | None = None) -> bytes:
    """The bytes of a file of that kind."""
    source = picture() if image is None else image
    done, data = cv2.imencode(kind, cv2.cvtColor(source, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


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

    image = transforms.read_picture(test_data / "bccd/train" / row["file_name"])
    from_hw = image.shape[0], image.shape[1]
    to_hw = transforms.resized_size(*from_hw, 240, 320)
    image, boxes_xyxy = transforms.resize(image, to_hw), transforms.scale_boxes(boxes_xyxy, from_hw, to_hw)
    if wanted["flip"]:
        image, boxes_xyxy = transforms.flip_horizontal(image), transforms.flip_boxes_horizontal(boxes_xyxy, to_hw[1])

    assert to_hw == tuple(wanted["img_shape"])
    factor_h, factor_w = transforms.scale_factors(from_hw, to_hw)
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


@given(st.integers(0, 2**32), st.sampled_from([(20, 30), (7, 90), (64, 64)]))
def test_scaled_boxes_stay_on_the_picture(seed: int, to_hw: tuple[int, int]) -> None:
    corners = np.sort(np.random.default_rng(seed).uniform(-5, 60, (6, 2, 2)), axis=1).astype(np.float32)
    boxes_xyxy = transforms.scale_boxes(corners.reshape(6, 4), (40, 50), to_hw)
    assert boxes_xyxy.dtype == np.float32
    assert (boxes_xyxy >= 0).all()
    assert (boxes_xyxy <= [to_hw[1], to_hw[0], to_hw[1], to_hw[0]]).all()
    assert (boxes_xyxy[:, 2:] >= boxes_xyxy[:, :2]).all()


def test_no_boxes_stay_no_boxes() -> None:
    none = np.zeros((0, 4), np.float32)
    assert transforms.scale_boxes(none, (4, 4), (8, 8)).shape == (0, 4)
    assert transforms.flip_boxes_horizontal(none, 8).shape == transforms.flip_boxes_vertical(none, 8).shape == (0, 4)


def test_a_mirrored_box_holds_the_mirrored_pixels() -> None:
    image = picture()
    boxes_xyxy = np.array([[3, 5, 11, 20]], np.float32)
    crop = image[5:20, 3:11]
    left, top, right, bottom = transforms.flip_boxes_horizontal(boxes_xyxy, 40)[0].astype(int)
    np.testing.assert_array_equal(transforms.flip_horizontal(image)[top:bottom, left:right], crop[:, ::-1])
    left, top, right, bottom = transforms.flip_boxes_vertical(boxes_xyxy, 24)[0].astype(int)
    np.testing.assert_array_equal(transforms.flip_vertical(image)[top:bottom, left:right], crop[::-1])


def test_jitter_of_one_changes_nothing_and_extremes_stay_in_range() -> None:
    image = picture()
    np.testing.assert_array_equal(transforms.jitter(image, 1.0, 1.0), image)
    assert transforms.jitter(image, 0.0, 1.0).max() == 0
    assert transforms.jitter(image, 100.0, 1.0)[image > 2].min() == 255
    flat = transforms.jitter(image, 1.0, 0.0)
    assert flat.min() == flat.max() == round(float(image.mean()))


def test_a_png_is_read_as_rgb(tmp_path: Path) -> None:
    image = picture()
    np.testing.assert_array_equal(transforms.read_picture(write(tmp_path / "a.png", encoded(".png", image))), image)


def test_grey_pictures_become_three_channels(tmp_path: Path) -> None:
    done, data = cv2.imencode(".png", np.arange(48, dtype=np.uint8).reshape(6, 8))
    assert done
    image = transforms.read_picture(write(tmp_path / "grey.png", data.tobytes()))
    assert image.shape == (6, 8, 3)
    assert (image == image[..., :1]).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    data = encoded(".jpg")
    upright = transforms.read_picture(write(tmp_path / "upright.jpg", data))
    turned = transforms.read_picture(write(tmp_path / "turned.jpg", data[:2] + EXIF + data[2:]))
    np.testing.assert_array_equal(turned, np.rot90(upright, k=-1))


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_an_input_error_naming_it(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    path = write(tmp_path / f"cut{kind}", data[: int(len(data) * share)])
    with pytest.raises(InputError, match=f"cut{kind}"):
        transforms.read_picture(path)


@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]])
def test_whole_jpegs_of_every_kind_are_not_called_truncated(flags: list[int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    done, array = cv2.imencode(".jpg", noise, flags)
    assert done
    data = array.tobytes()
    assert not transforms.is_truncated(data)
    assert not transforms.is_truncated(data + b"\xff\xda trailer \xff\xda")  # what some phones append
    assert all(transforms.is_truncated(data[:end]) for end in range(2, len(data), 97))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    data = encoded(".jpg")
    segment = b"\xff\xe1" + (2 + len(data)).to_bytes(2, "big") + data
    whole = data[:2] + segment + data[2:]
    assert not transforms.is_truncated(whole)
    assert transforms.is_truncated(whole[:-10])


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xd9", b"BM" + bytes(20)])
def test_a_file_that_is_no_picture_is_an_input_error_naming_it(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match=r"notes\.jpg"):
        transforms.read_picture(write(tmp_path / "notes.jpg", data))


def test_a_missing_file_is_an_input_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jpg"):
        transforms.read_picture(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=tmp_path.name):
        transforms.read_picture(tmp_path)

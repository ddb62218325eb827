"""Pictures of another size than their annotations say: what is mended for the whole set, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pictures import Content, assert_told, box, content, image
from PIL import Image

from gfl.data.coco import CocoData, read_coco
from gfl.data.fill import read_annotated
from gfl.data.source.frames import turn_boxes

MARK_XYWH = (30.0, 10.0, 60.0, 20.0)  # a bright rectangle in a stored picture of 100 x 200 px


def write_picture(path: Path, *, orientation: int = 1, scale: float = 1.0, grow: int = 0) -> None:
    """A dark picture, 100 high and 200 wide as it is stored, with a bright mark."""
    stored = np.zeros((100 + grow, 200, 3), np.uint8)
    x, y, width, height = map(int, MARK_XYWH)
    stored[y : y + height, x : x + width] = 255
    picture = Image.fromarray(stored)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, quality=95)


def read(folder: Path, rows: Sequence[dict[str, object]], *, keep_empty: bool = False, **size: object) -> CocoData:
    """A data set of the pictures in the folder, all annotated with one size (100x200 if none is given)."""
    names = sorted(path.name for path in folder.glob("*.jpg"))
    data: Content = content(*rows)
    data["images"] = [{**image(i), "file_name": name, **size} for i, name in enumerate(names, start=1)]
    (folder / "a.json").write_text(json.dumps(data), encoding="utf-8")
    return read_coco(folder / "a.json", folder, keep_empty=keep_empty)


def brightness_in_box(data: CocoData) -> float:
    """Mean brightness inside the first picture's first box, as it would be trained on; and it is dark outside."""
    picture = data.pictures[0]
    pixels = read_annotated(picture)
    x1, y1, x2, y2 = picture.boxes_xyxy[0].round().astype(int)
    inside = float(pixels[y1:y2, x1:x2].mean())
    pixels[y1:y2, x1:x2] = 0
    assert pixels.mean() < 10
    return inside


@pytest.mark.parametrize("size", [{"width": None}, {"height": 0}, {"height": "", "width": "0"}], ids=str)
def test_sizes_that_the_file_lacks_are_read_from_the_pictures(tmp_path: Path, size: dict[str, object]) -> None:
    write_picture(tmp_path / "1.jpg", orientation=6)
    data = read(tmp_path, [box(1, [70, 30, 20, 60])], **size)
    assert (data.pictures[0].height, data.pictures[0].width) == (200, 100)
    assert brightness_in_box(data) > 245
    assert "without a height or width" in data.notes[0]


@pytest.mark.parametrize("scale", [0.5, 1.37, 2.0])
def test_boxes_follow_pictures_that_were_resized_since(tmp_path: Path, scale: float) -> None:
    write_picture(tmp_path / "1.jpg", scale=scale)
    data = read(tmp_path, [box(1, list(MARK_XYWH), area=1200)])
    assert brightness_in_box(data) > 225
    assert data.truth.boxes_xywh[0] == pytest.approx(np.array(MARK_XYWH) * scale, abs=0.5)  # detections' frame
    assert data.truth.areas[0] == pytest.approx(1200 * scale**2, rel=0.02)
    assert "their boxes were scaled" in data.notes[0]


def test_boxes_that_fit_a_resized_picture_stay_as_they_are(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.jpg", scale=2.0)
    data = read(tmp_path, [box(1, [60, 20, 120, 40]), box(2, [300, 20, 50, 40])])
    assert brightness_in_box(data) > 225
    assert "the boxes fit the pictures" in data.notes[0]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_from_before_exif_turned_the_picture_are_turned(tmp_path: Path, orientation: int) -> None:
    write_picture(tmp_path / "1.jpg", orientation=orientation)
    data = read(tmp_path, [box(1, list(MARK_XYWH)), box(2, [150, 5, 40, 10])])  # the second ends beyond 100 px
    assert brightness_in_box(data) > 245
    assert "their boxes were turned too" in data.notes[0]


def test_upright_boxes_under_a_size_from_before_exif_stay_as_they_are(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.jpg", orientation=6)
    data = read(tmp_path, [box(1, [70, 30, 20, 60]), box(2, [10, 150, 20, 40])])
    assert brightness_in_box(data) > 245
    assert "the boxes fit the pictures" in data.notes[0]


def test_boxes_that_may_be_from_before_or_after_exif_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.jpg", orientation=6)
    assert_told(
        lambda: read(tmp_path, [box(1, [40, 20, 30, 40])]),
        ["1.jpg is 100x200, the file says 200x100", "EXIF turns them upright", "exiftool", "auto-orient"],
    )


def test_exchanged_height_and_width_without_exif_are_put_right(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.jpg")
    data = read(tmp_path, [box(1, list(MARK_XYWH))], height=200, width=100)
    assert (data.pictures[0].height, data.pictures[0].width) == (100, 200)
    assert brightness_in_box(data) > 245


def test_a_few_pictures_of_another_size_are_said_to_be_passed_over(tmp_path: Path) -> None:
    for i in range(4):
        write_picture(tmp_path / f"{i}.jpg", grow=30 * (i == 3))
    data = read(tmp_path, [box(i, list(MARK_XYWH), image=i) for i in range(1, 5)])
    assert len(data.pictures) == 4
    (note,) = data.notes
    assert "pictures of another size than a.json says (1:" in note
    assert "3.jpg is 200x130" in note


def test_pictures_that_are_not_those_annotated_are_refused(tmp_path: Path) -> None:
    for i in range(3):
        write_picture(tmp_path / f"{i}.jpg", grow=30)
    assert_told(
        lambda: read(tmp_path, [box(1, list(MARK_XYWH))]), ["another size than a.json says (3:", "check the folder"]
    )


def test_a_picture_that_cannot_be_read_stays_for_the_loader_to_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    data = read(tmp_path, [box(i, list(MARK_XYWH), image=i) for i in (1, 2)], height=0)
    assert [picture.file_name for picture in data.pictures] == ["1.jpg", "2.jpg"]
    assert (data.pictures[1].boxes_xyxy == [30, 10, 90, 30]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_box_covers_the_same_pixels(tmp_path: Path, orientation: int) -> None:
    write_picture(tmp_path / "1.jpg", orientation=orientation)
    turned = turn_boxes(np.array([MARK_XYWH]), np.array([[100, 200]]), np.array([orientation]))
    data = read(tmp_path, [box(1, turned[0].tolist())], height=0)
    assert brightness_in_box(data) > 245

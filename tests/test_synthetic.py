"""The generated data set: the same everywhere, in COCO's layout, and worth learning from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gfl.data import synthetic
from gfl.data.coco import CocoData, read_coco
from gfl.data.synthetic import draw_scene, main, write_synthetic
from gfl.errors import InputError


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(folder: Path, split: str) -> CocoData:
    return read_coco(folder / "annotations" / f"instances_{split}.json", folder / split, keep_empty=False)


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    bgr = cv2.imread(str(path))
    assert bgr is not None
    return np.asarray(bgr[:, :, ::-1], dtype=np.uint8)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 + 5 pictures."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_synthetic(folder, train=12, val=5, seed=3)
    return folder


def test_it_reads_as_coco_with_nothing_dropped_or_clipped(shapes: Path) -> None:
    train, val = read(shapes, "train2017"), read(shapes, "val2017")
    assert (len(train.pictures), len(val.pictures)) == (12, 5)
    assert train.names == val.names == synthetic.SHAPES
    for data in (train, val):
        assert (data.without_boxes, data.dropped_boxes, data.clipped_boxes) == (0, 0, 0)


def test_category_ids_have_gaps_so_that_a_demo_exercises_the_mapping(shapes: Path) -> None:
    category_ids = read(shapes, "train2017").category_ids
    assert category_ids != tuple(range(1, len(category_ids) + 1))


def test_files_have_the_sizes_that_the_annotations_say_and_every_fourth_is_upright(shapes: Path) -> None:
    pictures = read(shapes, "train2017").pictures
    for index, picture in enumerate(pictures):
        expected = (256, 192) if index % 4 == 3 else (192, 256)
        assert (picture.height, picture.width) == expected
        assert read_rgb(picture.path).shape == (*expected, 3)


def test_the_file_holds_the_drawn_pixels(shapes: Path) -> None:
    drawn = draw_scene(3, "val2017", 0).image
    np.testing.assert_array_equal(read_rgb(shapes / "val2017" / "000000000001.png"), drawn)


def test_the_same_seed_gives_the_same_bytes(shapes: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "again", train=12, val=5, seed=3)
    assert digests(tmp_path / "again") == digests(shapes)


def test_a_smaller_set_is_the_beginning_of_a_larger_one(shapes: Path, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "few", train=3, val=1, seed=3)
    few, many = read(tmp_path / "few", "train2017").pictures, read(shapes, "train2017").pictures
    for one, other in zip(few, many[:3], strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_seeds_and_splits_give_different_pictures() -> None:
    first = draw_scene(0, "train2017", 0).image
    assert (first != draw_scene(1, "train2017", 0).image).any()
    assert (first != draw_scene(0, "val2017", 0).image).any()
    assert (first != draw_scene(0, "train2017", 1).image).any()


def test_another_size_is_drawn_at_that_size() -> None:
    assert draw_scene(0, "train2017", 0, (128, 160)).image.shape == (128, 160, 3)
    assert draw_scene(0, "train2017", 3, (128, 160)).image.shape == (160, 128, 3)


def test_scenes_have_at_most_nine_shapes_of_every_class_inside_the_picture() -> None:
    labels: list[int] = []
    for index in range(60):
        scene = draw_scene(0, "train2017", index)
        height, width = scene.image.shape[:2]
        assert 2 <= len(scene.labels) <= 9  # not all find room
        labels += scene.labels
        for (x, y, w, h), area in zip(scene.boxes_xywh, scene.areas, strict=True):
            assert min(w, h) >= synthetic.SMALLEST_SIDE
            assert min(x, y) >= 0
            assert x + w <= width + 1e-9  # sums of numbers with two decimals
            assert y + h <= height + 1e-9
            assert 0 < area <= w * h * 1.05  # soft edges reach a fraction of a pixel beyond the outline
    assert (np.bincount(labels, minlength=len(synthetic.SHAPES)) >= 20).all()


def test_no_shape_is_hidden_more_than_a_tenth() -> None:
    for index in range(40):
        placed = synthetic.place_shapes(np.random.default_rng(index), 192, 256)
        covered = np.zeros((192, 256), dtype=np.float32)
        for shape in placed[::-1]:  # from the front
            mask = np.zeros_like(covered)
            synthetic.under_patch(mask, shape)[:] = synthetic.mask_inside(shape, 192, 256)
            assert (mask * (1 - covered)).sum() >= 0.299 * shape.alpha.sum()
            covered = np.maximum(covered, mask)


@pytest.mark.parametrize("label", range(len(synthetic.SHAPES)), ids=synthetic.SHAPES)
def test_a_box_is_tight_around_the_pixels_of_its_shape(label: int) -> None:
    rng = np.random.default_rng(7)
    shape = synthetic.random_shape(rng, 400, 400)
    while shape.label != label or min(shape.left, shape.top) < 0:
        shape = synthetic.random_shape(rng, 400, 400)
    rows, columns = np.nonzero(shape.alpha)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)
    found += [shape.left, shape.top, shape.left, shape.top]
    x, y, w, h = synthetic.box_xywh(shape, 1000, 1000)  # so large that nothing is clipped
    # Whole pixels around an outline: less than a pixel off, and a sharp tip may leave its last pixel uncovered.
    np.testing.assert_allclose([x, y, x + w, y + h], found, atol=1.3)


def test_writing_again_does_no_work(shapes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shapes.rglob("*")}
    write_synthetic(shapes, train=12, val=5, seed=3)
    assert {path: path.stat().st_mtime_ns for path in shapes.rglob("*")} == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    write_synthetic(tmp_path, train=1, val=1)
    assert (tmp_path / "annotations" / "instances_val2017.json").is_file()


def test_a_folder_with_other_settings_is_left_alone(shapes: Path) -> None:
    before = digests(shapes)
    with pytest.raises(InputError, match=r'other settings .*"seed": 3.*"seed": 4'):
        write_synthetic(shapes, train=12, val=5, seed=4)
    assert digests(shapes) == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"not a generated data set .*new or empty folder"):
        write_synthetic(tmp_path, train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "imencode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "shapes", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_at_once_the_slower_takes_the_other_one_s_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def overtaken(draft: Path, folder: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        write_synthetic(folder, train=1, val=1)
        rename(draft, folder)

    monkeypatch.setattr(os, "rename", overtaken)
    write_synthetic(tmp_path / "shapes", train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize(
    ("train", "val", "seed", "words"), [(0, 1, 0, "got 0 training"), (1, -2, 0, "-2 validation"), (1, 1, -1, "seed -1")]
)
def test_numbers_out_of_range_are_told(tmp_path: Path, train: int, val: int, seed: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_synthetic(tmp_path / "shapes", train=train, val=val, seed=seed)
    assert not (tmp_path / "shapes").exists()


def test_pictures_too_small_for_shapes_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="63x256"):
        write_synthetic(tmp_path / "shapes", train=1, val=1, size_hw=(63, 256))


def test_the_smallest_pictures_still_have_shapes() -> None:
    assert all(len(draw_scene(0, "train2017", index, (64, 64)).labels) >= 1 for index in range(30))


def test_the_command_writes_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--output", str(tmp_path / "shapes"), "--train", "2", "--val", "1", "--seed", "5"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert str(tmp_path / "shapes") in said.out
    assert "drawing " in said.err  # before the work, so that nobody wonders what takes so long
    manifest = json.loads((tmp_path / "shapes" / synthetic.MANIFEST).read_text(encoding="utf-8"))
    assert (manifest["train"], manifest["val"], manifest["seed"]) == (2, 1, 5)


def test_the_command_tells_a_mistake_in_one_line_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "shapes"), "--train", "0"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "at least 1" in captured.err

"""The folders that DATA_ROOT takes, and where the pictures of an annotation file are found."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import tool_exports
from pictures import assert_told, box, content
from tool_exports import Drawn

from gfl.data.coco import read_coco
from gfl.data.paths import split_paths
from gfl.data.source.layouts import SplitPaths, split_of
from gfl.errors import InputError
from gfl.settings import DataConfig


def write(path: Path, data: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content() if data is None else data), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("train", "val", "folders"),
    [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", ("train2017", "val2017")),
        ("annotations/instances_train.json", "annotations/instances_val.json", ("train", "val")),
        ("annotations/instances_train.json", "annotations/instances_val.json", ("images/train", "images/val")),
        ("annotations/instances_Train.json", "annotations/instances_Validation.json", ("images/Train", "images")),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", ("train", "valid")),
    ],
)
def test_splits_of_every_layout_are_found(tmp_path: Path, train: str, val: str, folders: tuple[str, str]) -> None:
    write(tmp_path / train), write(tmp_path / val)
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    found = [split_of(tmp_path, split) for split in ("train", "val")]
    assert found == [(tmp_path / train, tmp_path / folders[0]), (tmp_path / val, tmp_path / folders[1])]


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json", "labels_my-project.json"])
def test_one_file_without_a_split_is_trained_on_whole_or_names_the_split(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    (tmp_path / "images").mkdir()
    assert split_of(tmp_path, "train", without_val=True) == (tmp_path / name, tmp_path / "images")
    for split in ("train", "val"):
        told = [name, f"python -m gfl.data split {tmp_path / name} --val 0.2", "EVAL_EVERY = 0"]
        assert_told(lambda split=split: split_of(tmp_path, split), told)


@pytest.mark.parametrize("name", ["annotations/instances_val.json", "valid/_annotations.coco.json"])
def test_validation_data_alone_is_not_taken_for_a_whole_to_split(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    for without_val in (False, True):
        told = [f"validation data ({name}) and none to train on", "instances_train.json", "TRAIN_JSON"]
        assert_told(lambda without_val=without_val: split_of(tmp_path, "train", without_val=without_val), told)


def test_training_data_alone_names_what_to_do_about_validation(tmp_path: Path) -> None:
    write(tmp_path / "train" / "_annotations.coco.json")
    assert_told(
        lambda: split_of(tmp_path, "val"), ["none to validate on", "gfl.data split", "VAL_JSON", "EVAL_EVERY = 0"]
    )


@pytest.mark.parametrize(
    ("name", "text", "tool"),
    [
        ("data.yaml", "nc: 1", "yolo"),
        ("labels/1.txt", "0 .5 .5 .1 .1", "yolo"),
        ("Annotations/1.xml", "<annotation/>", "voc"),
        ("annotations.xml", "<annotations/>", "cvat"),
        ("via_project.json", '{"_via_settings": {}}', "via"),
        ("a.json", '{"shapes": [], "imagePath": "a.jpg"}', "labelme"),
        ("project-1.json", '[{"annotations": [], "data": {}}]', "labelstudio"),
    ],
)
def test_other_formats_name_the_conversion(tmp_path: Path, name: str, text: str, tool: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert_told(lambda: split_of(tmp_path, "train"), [f"python -m gfl.data convert --from {tool} {tmp_path}"])


def test_no_folder_and_an_empty_one_are_told(tmp_path: Path) -> None:
    assert_told(lambda: split_of(tmp_path / "no", "train"), ["no such folder", "DATA_ROOT"])
    assert_told(
        lambda: split_of(tmp_path, "train"), ["instances_train2017.json", "_annotations.coco.json", "TRAIN_JSON"]
    )


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine" / "annotations" / "instances_train.json", content(box(1, [0, 0, 9, 9])))
    (tmp_path / "mine" / "train").mkdir()
    (tmp_path / "mine" / "train" / "1.jpg").touch()
    annotations, images = split_paths(DataConfig(root="~/mine"), "train")
    assert (annotations, images) == (tmp_path / "mine/annotations/instances_train.json", tmp_path / "mine/train")
    given = split_paths(DataConfig(root=None, train_json="~/a.json", train_images="~/i"), "train")
    assert given == (tmp_path / "a.json", tmp_path / "i")
    assert len(read_coco("~/mine/annotations/instances_train.json", "~/mine/train", keep_empty=False).pictures) == 1


@pytest.mark.parametrize(
    ("file_name", "picture", "told"),
    [
        ("1.jpg", "a/images/1.jpg", False),
        ("sub/1.jpg", "a/images/sub/1.jpg", False),
        ("sub\\1.jpg", "a/images/sub/1.jpg", False),
        ("sub\\1.jpg", "a/images/sub\\1.jpg", False),
        ("images/1.jpg", "a/images/1.jpg", True),
        ("images\\1.jpg", "a/images/1.jpg", True),
        ("1.jpg", "a/1.jpg", True),
        ("/data/upload/3/1.jpg", "a/images/1.jpg", True),
        ("C:\\Users\\me\\1.jpg", "a/images/1.jpg", True),
    ],
)
def test_file_names_may_start_from_other_folders(tmp_path: Path, file_name: str, picture: str, told: bool) -> None:
    (tmp_path / "a" / "images").mkdir(parents=True)
    (tmp_path / picture).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / picture).touch()
    data = content(box(1, [0, 0, 9, 9]))
    data["images"][0]["file_name"] = file_name
    read = read_coco(write(tmp_path / "a" / "result.json", data), tmp_path / "a" / "images", keep_empty=False)
    assert read.pictures[0].path.resolve() == (tmp_path / picture).resolve()
    assert bool(read.notes) == told


# ---- exports as tools write them, by DATA_ROOT itself ----


def assert_drawn(paths: SplitPaths, pictures: Sequence[Drawn]) -> None:
    """That these pictures with these boxes are read; a picture is known by its size."""
    data = read_coco(*paths, keep_empty=True)
    assert data.names == tool_exports.CLASSES
    read = {
        (picture.width, picture.height): sorted(
            (data.names[label], (box[0], box[1], box[2] - box[0], box[3] - box[1]))
            for label, box in zip(picture.labels.tolist(), picture.boxes_xyxy.tolist(), strict=True)
        )
        for picture in data.pictures
    }
    assert read == {(drawn.width, drawn.height): sorted(drawn.boxes) for drawn in pictures}
    assert data.unreadable == frozenset()


def test_roboflows_export_is_read_as_it_is_without_its_root_category(tmp_path: Path) -> None:
    root = tool_exports.write_roboflow(tmp_path)
    assert_drawn(split_of(root, "train"), tool_exports.TRAIN)
    assert_drawn(split_of(root, "val"), tool_exports.VAL)
    notes = read_coco(*split_of(root, "train"), keep_empty=False).notes
    assert notes == ("the category 'animals' only groups the others and has no box: left out",)


def test_label_studios_export_is_read_as_it_is(tmp_path: Path) -> None:
    root = tool_exports.write_labelstudio_coco(tmp_path)
    assert_drawn(split_of(root, "train", without_val=True), tool_exports.PICTURES)


def test_cvats_export_is_read_as_it_is_but_for_crowds(tmp_path: Path) -> None:
    root = tool_exports.write_cvat_coco(tmp_path)
    paths = split_of(root, "train", without_val=True)
    assert_told(lambda: read_coco(*paths, keep_empty=False), ["marked 'iscrowd'", "set iscrowd to 0"])
    text = paths.annotations.read_text(encoding="utf-8")
    paths.annotations.write_text(text.replace('"iscrowd": 1', '"iscrowd": 0'), encoding="utf-8")  # boxes, not masks
    assert_drawn(paths, tool_exports.PICTURES)


def test_a_split_that_lies_beside_its_file_is_named(tmp_path: Path) -> None:
    """Where `gfl.data split` puts it by itself: to make it again would be refused."""
    write(tmp_path / "annotations" / "instances_train.json")
    beside = tmp_path / "annotations" / "instances_train_split"
    for split in ("train", "val"):
        write(beside / "annotations" / f"instances_{split}.json")
        (beside / split).mkdir()
    with pytest.raises(InputError, match=re.escape(f"set DATA_ROOT = {str(beside)!r}")):
        split_of(tmp_path, "val")

"""Other tools' annotations converted: every format to the same boxes, and nothing left out without a word."""

from __future__ import annotations

import argparse
import base64
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import tool_exports
from pictures import assert_told
from tool_exports import CLASSES, PICTURES, TRAIN, VAL, Drawn, draw

from gfl.data.coco import read_coco
from gfl.data.convert import write as write_module
from gfl.data.convert.command import add_flags, run
from gfl.data.convert.labelstudio_shapes import decode_runs
from gfl.errors import InputError

# The format, what writes an export of it, whether it has a split, and whether the order of the classes is the source's.
EXPORTS: list[tuple[str, Callable[[Path], Path], bool, bool]] = [
    ("voc", tool_exports.write_voc, True, False),
    ("yolo", tool_exports.write_yolo, True, True),
    ("yolo", tool_exports.write_roboflow_yolo, True, True),
    ("yolo", tool_exports.write_yolo_darknet, True, True),
    ("yolo", tool_exports.write_yolo_folders, False, True),
    ("roboflow", tool_exports.write_roboflow, True, True),
    ("cvat", tool_exports.write_cvat, False, True),
    ("cvat", tool_exports.write_cvat_video, False, True),
    ("cvat", tool_exports.write_cvat_coco, False, True),
    ("labelstudio", tool_exports.write_labelstudio, False, False),
    ("labelstudio", tool_exports.write_labelstudio_min, False, False),
    ("labelstudio", tool_exports.write_labelstudio_coco, False, True),
    ("labelme", tool_exports.write_labelme, False, False),
    ("via", tool_exports.write_via, False, True),
    ("via", tool_exports.write_via_annotations, False, False),
    ("via", tool_exports.write_via_csv, False, False),
    ("via", tool_exports.write_via_3, False, True),
]
ONE = Drawn("a.png", 100, 50, ())  # for tests of one shape

Boxes = list[tuple[str, list[float]]]


def convert(name: str, source: Path, output: Path, *flags: str) -> None:
    """As the command line does; it must go well."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert run(parser.parse_args(["--from", name, str(source), "--output", str(output), *flags])) == 0


def boxes_by_size(output: Path, split: str) -> dict[tuple[int, int], Boxes]:
    """(width, height) of each picture -> its boxes, read as a training run reads them."""
    data = read_coco(output / "annotations" / f"instances_{split}.json", output / split, keep_empty=True)
    found: dict[tuple[int, int], Boxes] = {}
    for picture in data.pictures:
        assert picture.path.is_file()
        xyxy = picture.boxes_xyxy.astype(float)
        xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).round(2).tolist()
        names = [data.names[label] for label in picture.labels]
        found[picture.width, picture.height] = list(zip(names, xywh, strict=True))
    return found


def truth(pictures: tuple[Drawn, ...]) -> dict[tuple[int, int], Boxes]:
    return {(each.width, each.height): [(name, [*map(float, box)]) for name, box in each.boxes] for each in pictures}


def only_boxes(output: Path) -> Boxes:
    """Of a data set of one picture."""
    (boxes,) = boxes_by_size(output, "train").values()
    return boxes


def class_names(output: Path) -> list[str]:
    content = json.loads((output / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    return [category["name"] for category in content["categories"]]


@pytest.mark.parametrize(
    ("name", "write_export", "is_split", "ordered"), EXPORTS, ids=[export[1].__name__[6:] for export in EXPORTS]
)
def test_every_format_becomes_the_same_boxes(
    tmp_path: Path, name: str, write_export: Callable[[Path], Path], is_split: bool, ordered: bool
) -> None:
    convert(name, write_export(tmp_path / "source"), tmp_path / "out")
    if is_split:
        assert boxes_by_size(tmp_path / "out", "train") == truth(TRAIN)
        assert boxes_by_size(tmp_path / "out", "val") == truth(VAL)
    else:
        assert boxes_by_size(tmp_path / "out", "train") == truth(PICTURES)
        assert not (tmp_path / "out" / "val").exists()
    assert class_names(tmp_path / "out") == (list(CLASSES) if ordered else sorted(CLASSES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


# ---- the folder that is written ----


def test_a_converted_data_set_trains_with_the_command_that_is_printed_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert("yolo", tool_exports.write_yolo(tmp_path / "source"), tmp_path / "out")
    command_line = capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")
    words = shlex.split(command_line)
    assert words[:6] == ["python", "-m", "gfl.train", "--gin_file", "scratch_small.gin", "--gin_bindings"]
    assert words[6:] == [f"DATA_ROOT = {str(tmp_path / 'out')!r}"]
    run_folder = tiny.run_training(tmp_path / "out", tmp_path / "run")
    assert (run_folder / "best.pt").is_file()


def test_what_has_no_split_says_how_to_split_it_and_trains_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert("cvat", tool_exports.write_cvat(tmp_path / "source"), tmp_path / "out")
    *_, split, train = capsys.readouterr().out.splitlines()
    file = tmp_path / "out" / "annotations" / "instances_train.json"
    assert split.endswith(f"python -m gfl.data split {file} --val 0.2")
    assert train.endswith(f'"DATA_ROOT = {str(tmp_path / "out")!r}" "EVAL_EVERY = 0"')


def test_pictures_are_linked_and_with_copy_copied(tmp_path: Path) -> None:
    source = tool_exports.write_yolo(tmp_path / "source")
    convert("yolo", source, tmp_path / "linked")
    convert("yolo", source, tmp_path / "copied", "--copy")
    linked, copied = tmp_path / "linked" / "train" / "one.jpg", tmp_path / "copied" / "train" / "one.jpg"
    assert linked.samefile(source / "images" / "train" / "one.jpg")
    assert not copied.samefile(linked)
    assert copied.read_bytes() == linked.read_bytes()


def test_pictures_of_one_name_in_two_folders_both_come_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, drawn in zip(("left", "right"), PICTURES, strict=False):
        image = tmp_path / "source" / "images" / folder / "Same.png"
        label = tmp_path / "source" / "labels" / folder / "Same.txt"
        tool_exports.write_yolo_pair(image, label, drawn)
    (tmp_path / "source" / "classes.txt").write_text("\n".join(CLASSES))
    convert("yolo", tmp_path / "source", tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == truth(PICTURES[:2])
    assert "renamed, because another has the same name: 1" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [KeyboardInterrupt, InputError, OSError(28, "No space left on device")])
def test_a_conversion_that_is_stopped_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    source = tool_exports.write_yolo(tmp_path / "source")

    def fail(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr(write_module, "to_json", fail)
    with pytest.raises(KeyboardInterrupt if stop is KeyboardInterrupt else InputError):
        convert("yolo", source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    source = tool_exports.write_yolo(tmp_path / "source")
    (tmp_path / "empty").mkdir()
    convert("yolo", source, tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    assert_told(lambda: convert("yolo", source, tmp_path / "empty"), ["already there", "choose another"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_split_of_other_classes_is_merged_into_one_list(tmp_path: Path) -> None:
    source = tool_exports.write_roboflow(tmp_path / "source")
    file = source / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": 5 - row["id"], "name": row["name"]} for row in content["categories"]]
    content["categories"].append({"id": 9, "name": "owl"})
    for row in content["annotations"]:
        row["category_id"] = 5 - row["category_id"]
    file.write_text(json.dumps(content))
    convert("roboflow", source, tmp_path / "out")
    assert class_names(tmp_path / "out") == [*CLASSES, "owl"]
    assert boxes_by_size(tmp_path / "out", "val") == truth(VAL)


# ---- pictures ----


def turned_jpeg(path: Path, width: int, height: int) -> Path:
    """A picture stored as width x height that its EXIF orientation, 6, turns upright to height x width."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 90, 90)).save(path, exif=exif)
    return path


def test_shares_are_of_the_picture_as_it_is_seen_upright(tmp_path: Path) -> None:
    turned_jpeg(tmp_path / "source" / "images" / "a.jpg", 120, 60)
    (tmp_path / "source" / "labels").mkdir()
    (tmp_path / "source" / "labels" / "a.txt").write_text("0 0.5 0.25 0.5 0.5\n")
    (tmp_path / "source" / "classes.txt").write_text("cat\n")
    convert("yolo", tmp_path / "source", tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == {(60, 120): [("cat", [15.0, 0.0, 30.0, 60.0])]}


def test_boxes_drawn_before_exif_turned_the_picture_are_turned_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned_jpeg(tmp_path / "source" / "a.jpg", 120, 60)
    shapes = [tool_exports.labelme_shape("cat", [[80, 10], [110, 30]])]
    content = tool_exports.labelme(Drawn("a.jpg", 120, 60, ()), shapes)
    tool_exports.write_json(tmp_path / "source" / "a.json", content)
    convert("labelme", tmp_path / "source", tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == {(60, 120): [("cat", [30.0, 80.0, 20.0, 30.0])]}
    assert "their boxes were turned too" in capsys.readouterr().out


def test_pictures_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tool_exports.write_yolo(tmp_path / "source")
    (source / "images" / "train" / "one.jpg").write_bytes(b"no picture")
    (source / "images" / "train" / "two.jpg").unlink()
    convert("yolo", source, tmp_path / "out")
    said = capsys.readouterr().out
    assert boxes_by_size(tmp_path / "out", "train") == truth(TRAIN[2:])
    assert "pictures that cannot be read, left out: 1 (one.jpg)" in said
    assert "label files without a picture, left out: 1 (two.txt)" in said


def test_boxes_over_the_border_are_clipped_and_those_without_area_or_outside_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "source" / "a.png", ONE)
    corners = [[[90, 40], [130, 60]], [[20, 20], [20, 30]], [[200, 10], [220, 20]], [[30, 30], [10, 10]]]
    shapes = [tool_exports.labelme_shape(f"class {n}", [*map(list, both)]) for n, both in enumerate(corners)]
    tool_exports.write_json(tmp_path / "source" / "a.json", tool_exports.labelme(ONE, shapes))
    convert("labelme", tmp_path / "source", tmp_path / "out")
    said = capsys.readouterr().out
    assert only_boxes(tmp_path / "out") == [
        ("class 0", [90.0, 40.0, 10.0, 10.0]),
        ("class 3", [10.0, 10.0, 20.0, 20.0]),
    ]
    assert "over the border of their pictures, clipped: 1 (a.png (class 0))" in said
    assert "without an area, left out: 1 (a.png (class 1))" in said
    assert "wholly outside their pictures, left out: 1 (a.png (class 2))" in said


def test_pictures_that_the_annotations_do_not_name_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tool_exports.write_cvat(tmp_path / "source")
    draw(source / "images" / "new.png", ONE)
    (source / "images" / "two.jpg").unlink()
    convert("cvat", source, tmp_path / "out")
    said = capsys.readouterr().out
    assert "pictures without an annotation, left out: 1 (new.png)" in said
    assert "annotated pictures that were not found, left out: 1 (two.jpg)" in said


# ---- Pascal VOC ----


def voc_of(folder: Path, *objects: str) -> Path:
    draw(folder / "a.png", ONE)
    tool_exports.write_voc_xml(folder / "a.xml", ONE, list(objects))
    return folder


def test_voc_marks_and_objects_without_a_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    difficult = tool_exports.voc_object("cat", (10, 10, 20, 20), "<difficult>1</difficult><truncated>1</truncated>")
    plain = tool_exports.voc_object("dog", (50, 10, 20, 20), "<difficult>0</difficult>")
    convert("voc", voc_of(tmp_path / "source", difficult, plain, "<object><name>owl</name></object>"), tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())["annotations"]
    assert [(row["bbox"], row["iscrowd"]) for row in rows] == [([10, 10, 20, 20], 1), ([50, 10, 20, 20], 0)]
    said = capsys.readouterr().out
    assert "marked difficult: kept as crowds, neither learned nor counted: 1" in said
    assert "marked truncated: boxes like any other: 1" in said
    assert "objects without a box, left out: 1 (a.xml (owl))" in said


def test_voc_with_a_box_from_0_or_with_fractions_counts_pixels_from_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, xywh in (("zero", (0, 10, 20, 20)), ("fractions", (4.5, 10, 20, 20))):
        objects = [tool_exports.voc_object("cat", each, start=0) for each in (xywh, (50, 10, 20, 20))]
        convert("voc", voc_of(tmp_path / name, *objects), tmp_path / f"{name}_out")
        assert only_boxes(tmp_path / f"{name}_out")[1] == ("cat", [50.0, 10.0, 20.0, 20.0])
        assert "counted from 0" in capsys.readouterr().out


def test_voc_finds_a_renamed_picture_by_the_name_of_its_xml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = voc_of(tmp_path / "source", tool_exports.voc_object("cat", (10, 10, 20, 20)))
    text = (source / "a.xml").read_text()
    (source / "a.xml").write_text(text.replace("a.png", "C:\\photos\\IMG_1.JPG"))
    convert("voc", source, tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [("cat", [10.0, 10.0, 20.0, 20.0])]
    assert "found by the name of their .xml" in capsys.readouterr().out


def test_voc_files_that_expand_entities_or_are_broken_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = voc_of(tmp_path / "source", tool_exports.voc_object("cat", (10, 10, 20, 20)))
    entity = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<annotation><filename>&x;</filename></annotation>'
    (source / "b.xml").write_text(entity)
    (source / "c.xml").write_bytes(f'<?xml version="1.0" encoding="utf-16"?>{entity}'.encode("utf-16"))
    (source / "d.xml").write_text("<annotation>")
    convert("voc", source, tmp_path / "out")
    said = capsys.readouterr().out
    assert "annotation files that cannot be read, left out: 3" in said
    assert said.count("declares a document type") == 2


def test_voc_pictures_in_no_list_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tool_exports.write_voc(tmp_path / "source")
    (source / "ImageSets" / "Main" / "train.txt").write_text("one\nseven\n")
    convert("voc", source, tmp_path / "out")
    said = capsys.readouterr().out
    assert boxes_by_size(tmp_path / "out", "train") == truth(TRAIN[:1])
    assert "in no list of ImageSets/Main, left out: 3 (four.jpg, three.png, two.jpg)" in said
    assert "names in train.txt without an annotated picture, left out: 1 (seven)" in said


# ---- YOLO ----


def yolo_of(folder: Path, lines: str, names: str = "cat\ndog\n") -> Path:
    draw(folder / "images" / "a.png", ONE)
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(lines)
    (folder / "classes.txt").write_text(names)
    return folder


def test_yolo_lines_with_a_score_of_polygons_and_of_oriented_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "0 0.5 0.5 0.2 0.4 0.9\n1.0 0.1 0.2 0.3 0.2 0.2 0.6\n1 .5 .2 .7 .4 .6 .6 .4 .4\n"
    convert("yolo", yolo_of(tmp_path / "source", lines), tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [
        ("cat", [40.0, 15.0, 20.0, 20.0]),
        ("dog", [10.0, 10.0, 20.0, 20.0]),
        ("dog", [40.0, 10.0, 30.0, 20.0]),
    ]
    said = capsys.readouterr().out
    assert "boxes with a score, which was left out: 1" in said
    assert "polygons that became their bounding boxes: 1" in said
    assert "oriented boxes or polygons of four corners that became their bounding boxes: 1" in said


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("cat 0.5 0.5 0.2 0.2", "are not numbers"),
        ("0 0.5 0.5 0.2", "3 numbers after the class"),
        ("0 0.5 0.5 0.2 nan", "are not numbers"),
        ("2 0.5 0.5 0.2 0.2", "class 2, expected 0 to 1"),
        ("-1 0.5 0.5 0.2 0.2", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5"),
        ("0 50 20 10 10", "no shares of the picture"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "7 numbers after the class"),
    ],
)
def test_yolo_lines_that_are_no_box_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, reason: str
) -> None:
    convert("yolo", yolo_of(tmp_path / "source", f"0 0.5 0.5 0.2 0.4\n\n{line}\n"), tmp_path / "out")
    said = capsys.readouterr().out
    assert only_boxes(tmp_path / "out") == [("cat", [40.0, 15.0, 20.0, 20.0])]
    assert "lines of label files that are no box, left out: 1 (a.txt:3: " in said
    assert reason in said


@pytest.mark.parametrize(
    "paths",
    [
        "path: ../source\ntrain: images/train\nval: [images/val]",
        "path: /content/elsewhere/source\ntrain: images/train/\nval: images/val",
        "path: datasets/source\ntrain: ./images/train\nvalid: images/val",
        "train: /content/source/images/train\nval: C:\\data\\source\\images\\val",
        "train: train.txt\nval: lists/val.txt",
    ],
)
def test_yolo_paths_of_every_kind_are_found(tmp_path: Path, paths: str) -> None:
    source = tool_exports.write_yolo(tmp_path / "source")
    (source / "lists").mkdir()
    (source / "train.txt").write_text("".join(f"./images/train/{drawn.name}\n" for drawn in TRAIN))
    (source / "lists" / "val.txt").write_text("".join(f"/home/me/images/val/{drawn.name}\n" for drawn in VAL))
    (source / "data.yaml").write_text(f"{paths}\nnames: {list(CLASSES)}\n")
    convert("yolo", source / "data.yaml", tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == truth(TRAIN)
    assert boxes_by_size(tmp_path / "out", "val") == truth(VAL)


def test_yolo_without_names_calls_classes_by_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = yolo_of(tmp_path / "source", "10 0.5 0.5 0.2 0.4\n2 0.5 0.5 0.2 0.4\n")
    (source / "classes.txt").unlink()
    convert("yolo", source, tmp_path / "out")
    assert class_names(tmp_path / "out") == ["2", "10"]
    assert "classes that no file names, called by their numbers: 1 (2, 10)" in capsys.readouterr().out


def test_yolo_poses_give_their_boxes(tmp_path: Path) -> None:
    source = yolo_of(tmp_path / "source", "0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.2 0.2 1\n")
    (source / "data.yaml").write_text("train: images\nkpt_shape: [2, 3]\nnames: [cat, dog]\n")
    convert("yolo", source, tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [("cat", [40.0, 15.0, 20.0, 20.0])]


# ---- CVAT ----

CVAT_SHAPES = """
<box label="cat" xtl="40" ytl="20" xbr="60" ybr="30" rotation="90.0"></box>
<polygon label="cat" points="10.0,5.0;30.0,5.0;20.0,25.0"></polygon>
<ellipse label="cat" cx="50" cy="25" rx="20" ry="10"></ellipse>
<mask label="dog" rle="1, 8" left="70" top="30" width="3" height="4"></mask>
<cuboid label="dog" xtl1="1" ytl1="2" xbl1="1" ybl1="9" xtr1="8" ytr1="2" xbr1="8" ybr1="9" xtl2="3" ytl2="4"
  xbl2="3" ybl2="11" xtr2="12" ytr2="4" xbr2="12" ybr2="11"></cuboid>
<polyline label="cat" points="1,1;2,2"></polyline>
<points label="cat" points="1,1"></points>
<tag label="cat"></tag>
<skeleton label="cat"><points label="eye" points="3,3"></points></skeleton>
<box label="cat" xtl="ten" ytl="20" xbr="60" ybr="30"></box>
"""


def test_cvat_shapes_become_boxes_or_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    draw(source / "images" / "a.png", ONE)
    tool_exports.write_cvat_xml(source, tool_exports.cvat_image(0, ONE, CVAT_SHAPES))
    convert("cvat", source, tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [
        ("cat", [45.0, 15.0, 10.0, 20.0]),
        ("cat", [10.0, 5.0, 20.0, 20.0]),
        ("cat", [30.0, 15.0, 40.0, 20.0]),
        ("dog", [70.0, 30.0, 3.0, 4.0]),
        ("dog", [1.0, 2.0, 11.0, 9.0]),
    ]
    said = capsys.readouterr().out
    for kind in ("polygon", "ellipse", "mask", "cuboid"):
        assert f"{kind}s that became their bounding boxes: 1 (a.png (" in said
    for kind in ("polylines", "points", "tags", "skeletons"):
        assert f"{kind} without an area, left out: 1 (a.png (cat))" in said
    assert "turned boxes that became the boxes around them: 1" in said
    assert "shapes whose numbers cannot be read, left out: 1" in said


def test_cvat_subsets_are_splits(tmp_path: Path) -> None:
    source = tmp_path / "source"
    images = ""
    for number, drawn in enumerate(PICTURES):
        subset = "Train" if drawn in TRAIN else "Validation"
        draw(source / "images" / subset / drawn.name, drawn)
        images += tool_exports.cvat_image(number, drawn).replace("<image ", f'<image subset="{subset}" ')
    convert("cvat", tool_exports.write_cvat_xml(source, images), tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == truth(TRAIN)
    assert boxes_by_size(tmp_path / "out", "val") == truth(VAL)


# ---- Label Studio ----


def labelstudio_of(folder: Path, *results: dict[str, object], **task: object) -> Path:
    draw(folder / "a.png", ONE)
    tool_exports.write_json(folder / "tasks.json", [tool_exports.task(1, ONE, list(results)) | task])
    return folder


def region(kind: str, more: dict[str, object], **value: object) -> dict[str, object]:
    size = {"original_width": 100, "original_height": 50}
    return {"type": kind, "id": "r", "value": {**value, kind: ["cat"]}, **size, **more}


def rle_of(mask: np.ndarray) -> list[int]:
    """Label Studio's run-length code of a mask: each pixel's four values as one run."""
    values = np.repeat(np.where(mask, 255, 0).reshape(-1), 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at]:
            end += 1
        bits += f"1{3:02b}{end - at - 1:016b}{values[at]:08b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_labelstudio_shapes_become_boxes_or_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((50, 100), bool)
    mask[10:15, 20:29] = True
    turned = {"x": 50.0, "y": 20.0, "width": 20.0, "height": 20.0, "rotation": 90}
    source = labelstudio_of(
        tmp_path / "source",
        region("rectanglelabels", {}, **turned),
        region("rectanglelabels", {"original_width": None, "original_height": None}, **turned),
        region("polygonlabels", {}, points=[[10, 10], [30, 10], [20, 50]]),
        region("ellipselabels", {}, x=50, y=50, radiusX=10, radiusY=10, rotation=90),
        region("brushlabels", {}, format="rle", rle=rle_of(mask)),
        region("brushlabels", {}, format="rle", rle=[1, 2, 3]),
        region("keypointlabels", {}, x=50, y=50, width=0.5),
        {"type": "choices", "value": {"choices": ["blurred"]}, "from_name": "c"},
        {"type": "rectangle", "id": "pair", "value": {"x": 0, "y": 0, "width": 10, "height": 20}},
        {
            "type": "labels",
            "id": "pair",
            "value": {"x": 0, "y": 0, "width": 10, "height": 20, "labels": ["dog", "owl"]},
        },
        {"type": "rectangle", "id": "alone", "value": {"x": 0, "y": 0, "width": 10, "height": 20}},
    )
    convert("labelstudio", source, tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [
        ("cat", [40.0, 10.0, 10.0, 20.0]),
        ("cat", [40.0, 10.0, 10.0, 20.0]),
        ("cat", [10.0, 5.0, 20.0, 20.0]),
        ("cat", [45.0, 15.0, 10.0, 20.0]),
        ("cat", [20.0, 10.0, 9.0, 5.0]),
        ("dog", [0.0, 0.0, 10.0, 10.0]),
        ("owl", [0.0, 0.0, 10.0, 10.0]),
    ]
    said = capsys.readouterr().out
    assert "turned boxes that became the boxes around them: 2" in said
    for kind in ("polygon", "ellipse", "brush mask"):
        assert f"{kind}s that became their bounding boxes: 1" in said
    assert "regions whose numbers cannot be read, left out: 1" in said
    assert "results of the type keypointlabels without an area, left out: 1" in said
    assert "results of the type choices without an area, left out: 1" in said
    assert "regions with several labels, each of which has a box: 1 (a.png (dog, owl))" in said
    assert "regions without a label, left out: 1" in said


def test_labelstudio_takes_the_ground_truth_or_the_newest_annotation_that_was_not_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def annotation(name: str, day: int, **more: object) -> dict[str, object]:
        return {
            "result": [tool_exports.rectangle(name, (10, 10, 20, 20), ONE)],
            "created_at": f"2025-01-0{day}T00:00:00Z",
            **more,
        }

    skipped = annotation("skipped", 9, was_cancelled=True)
    newest, old = annotation("newest", 5), annotation("old", 1)
    for number, (kept, label) in enumerate(
        [([old, newest, skipped], "newest"), ([{**old, "ground_truth": True}, newest], "old")]
    ):
        source = labelstudio_of(tmp_path / f"source{number}", annotations=kept, predictions=[old])
        convert("labelstudio", source, tmp_path / f"out{number}")
        assert [name for name, _ in only_boxes(tmp_path / f"out{number}")] == [label]
    said = capsys.readouterr().out
    assert "tasks of several annotations" in said
    assert "predictions of a model" in said


def test_labelstudio_tasks_without_an_annotation_are_left_out_and_named(tmp_path: Path) -> None:
    for number, (kept, reason) in enumerate(
        [([], "without an annotation, left out: 1 (task 1)"), ([{"was_cancelled": True}], "skipped, left out: 1")]
    ):
        source = labelstudio_of(tmp_path / f"source{number}", annotations=kept)
        assert_told(lambda source=source: convert("labelstudio", source, tmp_path / "out"), [reason])


# ---- LabelMe ----


def test_labelme_shapes_become_boxes_or_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = tool_exports.labelme_shape
    shapes = [
        shape("cat", [[10, 5], [30, 5], [20, 25]], "polygon"),
        shape("cat", [[50, 25], [50, 35]], "circle"),
        shape("dog", [[70, 20], [80, 10], [90, 20], [80, 30]], "oriented_rectangle"),
        shape("dog", [[1, 2], [4, 6]], "mask"),
        shape("cat", [[1, 1], [2, 2]], "linestrip"),
        shape("cat", [[1, 1]], "point"),
        shape("cat", [[1, 1]], "circle"),
        shape("cat", [[1, 1]], "star"),
    ]
    draw(tmp_path / "source" / "a.png", ONE)
    draw(tmp_path / "source" / "new.png", ONE)
    content = tool_exports.labelme(ONE, shapes, flags={"blurred": True, "dark": False})
    tool_exports.write_json(tmp_path / "source" / "a.json", content)
    tool_exports.write_json(tmp_path / "source" / "settings.json", {"theme": "dark"})
    convert("labelme", tmp_path / "source", tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [
        ("cat", [10.0, 5.0, 20.0, 20.0]),
        ("cat", [40.0, 15.0, 20.0, 20.0]),
        ("dog", [70.0, 10.0, 20.0, 20.0]),
        ("dog", [1.0, 2.0, 3.0, 4.0]),
    ]
    said = capsys.readouterr().out
    assert "linestrips without an area, left out: 1" in said
    assert "shapes whose points cannot be read, left out: 1" in said
    assert "shapes of the kind star, left out: 1" in said
    assert "flags of whole pictures, left out: 1 (a.json (blurred))" in said
    assert "files that are not LabelMe's, left out: 1 (settings.json)" in said
    assert "pictures without an annotation, left out: 1 (new.png)" in said


@pytest.mark.parametrize("name", ["a.png", "C:\\photos\\a.png", "", "a\0b", "9" * 400])
def test_labelme_writes_the_picture_that_is_only_in_the_json(tmp_path: Path, name: str) -> None:
    data = draw(tmp_path / "a.png", ONE).read_bytes()
    shapes = [tool_exports.labelme_shape("cat", [[10, 10], [30, 30]])]
    content = tool_exports.labelme(ONE, shapes, imagePath=name, imageData=base64.b64encode(data).decode())
    tool_exports.write_json(tmp_path / "source" / "a.json", content)
    convert("labelme", tmp_path / "source", tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [("cat", [10.0, 10.0, 20.0, 20.0])]
    assert (tmp_path / "out" / "train" / "a.png").read_bytes() == data


# ---- VIA ----


def via_of(folder: Path, *regions: tuple[dict[str, object], dict[str, object]]) -> Path:
    draw(folder / "a.png", ONE)
    rows = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in regions]
    return tool_exports.write_json(folder / "via.json", {"a.png9": {"filename": "a.png", "size": 9, "regions": rows}})


def test_via_shapes_become_boxes_or_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cat: dict[str, object] = {"kind": "cat"}
    source = via_of(
        tmp_path / "source",
        ({"name": "circle", "cx": 50, "cy": 25, "r": 10.0}, cat),
        ({"name": "ellipse", "cx": 50, "cy": 25, "rx": 20, "ry": 10, "theta": np.pi / 2}, cat),
        (
            {"name": "polygon", "all_points_x": [10, 30, 20], "all_points_y": [5, 5, 25]},
            {"kind": {"dog": True, "owl": True}},
        ),
        ({"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}, cat),
        ({"name": "point", "cx": 1, "cy": 1}, cat),
        ({"name": "rect", "x": 1, "y": 1, "width": 5, "height": None}, cat),
        ({"name": "rect", "x": 1, "y": 1, "width": 5, "height": 5}, {}),
    )
    convert("via", source, tmp_path / "out")
    assert only_boxes(tmp_path / "out") == [
        ("cat", [40.0, 15.0, 20.0, 20.0]),
        ("cat", [40.0, 5.0, 20.0, 40.0]),
        ("dog", [10.0, 5.0, 20.0, 20.0]),
        ("owl", [10.0, 5.0, 20.0, 20.0]),
    ]
    said = capsys.readouterr().out
    assert "polylines without an area, left out: 1" in said
    assert "points without an area, left out: 1" in said
    assert "regions whose numbers cannot be read, left out: 1" in said
    assert "regions without a value of 'kind', left out: 1" in said


def test_via_asks_which_attribute_is_the_class(tmp_path: Path) -> None:
    rect: dict[str, object] = {"name": "rect", "x": 10, "y": 10, "width": 20, "height": 20}
    source = via_of(
        tmp_path / "source", (rect, {"kind": "cat", "colour": "red"}), (rect, {"kind": "dog", "colour": ""})
    )
    words = ["kind (2 of 2 regions), colour (1 of 2 regions)", "--attribute"]
    assert_told(lambda: convert("via", source, tmp_path / "out"), words)
    assert_told(lambda: convert("via", source, tmp_path / "out", "--attribute", "size"), ["'size'", "'kind'"])
    convert("via", source, tmp_path / "out", "--attribute", "kind")
    assert class_names(tmp_path / "out") == ["cat", "dog"]


# ---- what a user gets wrong ----


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


MISTAKES: list[tuple[str, str, str, list[str]]] = [
    ("voc", "empty/readme", "", ["no .xml file"]),
    ("yolo", "empty/readme", "", ["no pictures"]),
    ("yolo", "a/data.yaml", "train: [", ["not YAML"]),
    ("yolo", "a/data.yaml", "- train", ["no names and values"]),
    ("yolo", "a/data.yaml", "a: &a [x, x]\ntrain: .\nnames: [*a, *a]", ["got references"]),
    ("yolo", "a/data.yaml", "train: images\nnames: [cat]", ["none of its train, val and test", "`path`"]),
    ("yolo", "a/data.yaml", "train: .\nnc: 2\nnames: [cat]", ["nc = 2 and 1 names"]),
    ("yolo", "a/data.yaml", "train: .\nnames: {cat: 0}", ["expected 0: name, 1: name"]),
    ("yolo", "a/data.yaml", f"train: .\nnames: {{{10**9}: cat}}", ["expected 0: name, 1: name"]),
    ("roboflow", "a/readme", "", ["no train/_annotations.coco.json"]),
    ("roboflow", "a/data.yaml", "", ["--from yolo"]),
    ("cvat", "a/readme", "", ["no annotations.xml"]),
    ("cvat", "a/annotations.xml", "<annotation></annotation>", ["<annotation> at its root"]),
    ("cvat", "a/annotations.xml", "<annotations><track label='cat'></track></annotations>", ["without its frames"]),
    ("labelstudio", "a/result.json", "{", ["not JSON"]),
    ("labelstudio", "a/result.json", "{}", ["no list of tasks"]),
    ("labelstudio", "a/result.json", "[]", ["no picture could be converted"]),
    ("labelme", "a/readme", "", ["no .json"]),
    ("via", "a/via.json", "{}", ["no pictures with regions"]),
    ("via", "a/via.csv", "name,size\n", ["no column filename"]),
]


@pytest.mark.parametrize(("name", "path", "text", "words"), MISTAKES)
def test_a_source_of_another_kind_is_told_in_one_sentence(
    tmp_path: Path, name: str, path: str, text: str, words: list[str]
) -> None:
    file = write(tmp_path / path, text)
    if "train: ." in text:
        draw(file.parent / "a.png", ONE)
    assert_told(lambda: convert(name, file.parent, tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    archive = write(tmp_path / "export.zip", "")
    for source, words in ((tmp_path / "none", ["no such file"]), (archive, ["unpack it"])):
        assert_told(lambda source=source: convert("voc", source, tmp_path / "out"), words)
    assert_told(lambda: convert("voc", tmp_path, tmp_path / "out", "--attribute", "kind"), ["only VIA's"])


def test_pictures_elsewhere_are_found_with_images(tmp_path: Path) -> None:
    for name, write_export, file in (
        ("cvat", tool_exports.write_cvat, "annotations.xml"),
        ("labelstudio", tool_exports.write_labelstudio_coco, "result.json"),
        ("via", tool_exports.write_via, "via_project.json"),
    ):
        source = write_export(tmp_path / name)
        alone = (source / file).rename(tmp_path / f"{name}_{file}")
        convert(name, alone, tmp_path / f"{name}_out", "--images", str(source))
        assert boxes_by_size(tmp_path / f"{name}_out", "train") == truth(PICTURES)
    source = tool_exports.write_yolo_folders(tmp_path / "yolo")
    (source / "images").rename(tmp_path / "moved")
    convert("yolo", source, tmp_path / "yolo_out", "--images", str(tmp_path / "moved"))
    assert boxes_by_size(tmp_path / "yolo_out", "train") == truth(PICTURES)


def test_a_run_length_code_of_literal_values_is_read() -> None:
    bits = f"{3:032b}{7:05b}" + f"{0:04b}" * 4 + "0" + "00" + "1" + f"{7:08b}{8:08b}" + "1" + "00" + "0" + f"{9:08b}"
    bits += "0" * (-len(bits) % 8)
    assert decode_runs([int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)], 3) == bytes([7, 8, 9])


# ---- pictures by their names ----


def test_roboflow_paths_lead_into_the_export_though_a_neighbour_has_such_folders(tmp_path: Path) -> None:
    draw(tmp_path / "train" / "images" / "a.png", ONE)
    convert("yolo", tool_exports.write_roboflow_yolo(tmp_path / "source"), tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == truth(TRAIN)


def test_pictures_of_one_name_are_told_apart_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, images = tmp_path / "source", ""
    for number, (folder, drawn) in enumerate(zip(("left", "right"), PICTURES, strict=False)):
        draw(source / "images" / folder / "same.png", drawn)
        images += tool_exports.cvat_image(number, drawn._replace(name=f"{folder}/same.png"))
    images += tool_exports.cvat_image(9, ONE._replace(name="same.png"))
    convert("cvat", tool_exports.write_cvat_xml(source, images), tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == truth(PICTURES[:2])
    assert "of which several have the name, left out: 1 (same.png)" in capsys.readouterr().out


def test_a_picture_that_is_annotated_twice_comes_over_once_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tool_exports.write_labelstudio(tmp_path / "source")
    tasks = [tool_exports.task(1, PICTURES[0]), tool_exports.task(2, PICTURES[0], [])]
    tool_exports.write_json(source / "result.json", tasks)
    convert("labelstudio", source, tmp_path / "out")
    assert boxes_by_size(tmp_path / "out", "train") == truth(PICTURES[:1])
    assert "more than once in the source, the later ones left out: 1 (one.jpg)" in capsys.readouterr().out


def test_a_picture_that_is_in_two_splits_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tool_exports.write_yolo(tmp_path / "source")
    (source / "data.yaml").write_text(f"train: images\nval: images/val\nnames: {list(CLASSES)}\n")
    convert("yolo", source, tmp_path / "out")
    said = capsys.readouterr().out
    assert "pictures that are both in train and in val: 2 (five.jpg, six.png)" in said
    assert "its AP says nothing of new ones; next: python -m gfl.data split" in said
    assert "gfl.train" not in said

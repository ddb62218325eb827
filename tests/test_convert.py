"""Other tools' annotations converted: every format to the same boxes, and nothing left out without a word."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tool_exports
from tool_exports import CLASSES, PICTURES, TRAIN, VAL, Drawn

from gfl.data.coco import read_coco
from gfl.data.convert.command import add_flags, run

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

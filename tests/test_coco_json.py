"""COCO's JSON: what a bad file says, whoever reads it, and what evaluation takes beyond training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pictures import assert_told, box, content, image

from gfl.data.coco_json import (
    GroundTruth,
    class_names,
    coco_detections,
    ground_truth,
    image_ids_by_name,
    read_coco_file,
)
from gfl.errors import InputError


def write(folder: Path, data: object) -> Path:
    path = folder / "a.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def read(folder: Path, data: object, *, strict: bool = True) -> GroundTruth:
    return ground_truth(read_coco_file(write(folder, data)), strict=strict)


# ---- bad files ----


def with_rows(key: str, *rows: object) -> dict[str, object]:
    return {**content(box(1, [0, 0, 9, 9])), key: list(rows)}


BAD_FILES: list[tuple[str, object, list[str]]] = [
    ("not JSON", '{"images": [],\n"annotations": [1,,2]}', ["line 2", "not JSON"]),
    ("empty file", "", ["line 1", "not JSON"]),
    (
        "results",
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
        ["detection results", "score"],
    ),
    ("a list", [1, 2, 3], ["list of 3", "images, annotations, categories"]),
    ("a number", "7", ["got 7"]),
    ("other keys", {"shapes": [], "version": "5.0"}, ["shapes", "images, annotations, categories"]),
    ("no annotations", {"images": [], "categories": []}, ["add annotations"]),
    ("a row of another type", with_rows("annotations", 5), ["annotations[0] is 5"]),
    ("no categories", with_rows("categories"), ["categories"]),
    ("NaN", content(box(5, [1, math.nan, 3, 4])), ["annotation 5", "[1, nan, 3, 4]", "four finite numbers"]),
    ("infinity", content(box(5, [1, 2, math.inf, 4])), ["annotation 5", "inf"]),
    ("three numbers", content(box(5, [1, 2, 3])), ["annotation 5", "[1, 2, 3]"]),
    ("texts", with_rows("annotations", {**box(5, []), "bbox": ["1", "2", "3", "x"]}), ["annotation 5", "'x'"]),
    ("a crowd perhaps", content(box(5, [1, 2, 3, 4], iscrowd="maybe")), ["annotation 5", "'maybe'", "0 or 1"]),
    ("no box", with_rows("annotations", {"id": 5, "image_id": 1, "category_id": 1}), ["annotation 5", "no value"]),
    ("bad area", content(box(5, [1, 2, 3, 4], area="large")), ["annotation 5", "'large'", "'area'"]),
    ("image id of text", content({**box(5, [1, 2, 3, 4]), "image_id": "a"}), ["annotation 5", "'a'", "an integer"]),
    ("an id that is true", content({**box(5, [1, 2, 3, 4]), "image_id": True}), ["annotation 5", "True"]),
    ("half an id", content({**box(5, [1, 2, 3, 4]), "image_id": 1.5}), ["annotation 5", "1.5"]),
    ("no image id", with_rows("annotations", {"bbox": [1, 2, 3, 4]}), ["annotation number 1", "'image_id'"]),
    ("annotation twice", content(box(5, [1, 2, 3, 4]), box(5, [1, 2, 3, 4])), ["annotation id 5 is used 2 times"]),
    ("image twice", with_rows("images", image(1), image(2), image(1)), ["image id 1 is used 2 times"]),
    ("category twice", with_rows("categories", *2 * [{"id": 1, "name": "a"}]), ["category id 1 is used 2 times"]),
    ("no name", with_rows("categories", {"id": 1}), ["category 1", "'name'"]),
]


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES])
def test_a_bad_file_is_told_in_one_sentence_with_its_values(tmp_path: Path, data: object, words: list[str]) -> None:
    assert_told(lambda: read(tmp_path, data), [str(tmp_path / "a.json"), *words])


@pytest.mark.parametrize(
    ("name", "fault"),
    [("nowhere.json", "no such annotation file"), (".", "cannot be read"), ("zip", "not a text file")],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "zip").write_bytes(b"PK\x03\x04\xff\xfe\xb1")
    with pytest.raises(InputError, match=f"{tmp_path / name}: {fault}"):
        read_coco_file(tmp_path / name)


# ---- good ones ----


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_may_start_with_a_mark_of_its_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content()), encoding=encoding)  # Windows tools write one
    assert class_names(read_coco_file(path)) == {1: "cat"}


def test_truth_is_what_the_file_says_neither_clipped_nor_left_out(tmp_path: Path) -> None:
    rows = box(4, [-5, 1, 0.5, 8], area=3, iscrowd=1), box(0, [0, 0, 900, 2.5], image=7, category=9, ignore=1)
    truth = read(tmp_path, content(*rows))
    assert truth.boxes_xywh.tolist() == [[-5, 1, 0.5, 8], [0, 0, 900, 2.5]]
    assert truth.areas.tolist() == [3, 2250]
    assert truth.crowd.tolist() == [True, False]
    assert (truth.image_id.tolist(), truth.category_id.tolist()) == ([1, 7], [1, 9])


def test_evaluation_takes_boxes_without_ids_rows_without_boxes_and_classes_without_names(tmp_path: Path) -> None:
    whole = box(5, [1, 2, 3, 4])
    nameless = {key: value for key, value in whole.items() if key != "id"}
    rows = [whole, whole, nameless, {**whole, "bbox": []}, {key: whole[key] for key in ("id", "image_id")}]
    data = {"images": [{"id": -3}], "annotations": rows, "categories": [{"id": 8}, {"id": 1, "name": "cat"}]}
    truth = read(tmp_path, data, strict=False)
    assert truth.boxes_xywh.tolist() == [[1, 2, 3, 4]] * 3
    assert list(truth.class_names.items()) == [(1, "cat"), (8, "8")]
    with pytest.raises(InputError, match="annotation id 5 is used 4 times"):
        read(tmp_path, data)


def test_numbers_written_as_text_are_numbers(tmp_path: Path) -> None:
    row = {"id": "5", "image_id": "1", "category_id": " 1 ", "bbox": ["1", "2.5", 3, "4"], "area": "7", "iscrowd": "0"}
    more = {**row, "id": None, "area": "", "iscrowd": "1"}, {**row, "id": None, "area": 0, "iscrowd": "true"}
    data = content(row, *more)
    data["images"] = [{**image(1), "id": "1", "width": "200"}]
    data["categories"] = [{"id": "1", "name": "cat"}]
    truth = read(tmp_path, data)
    assert (truth.image_id.tolist(), truth.category_id.tolist()) == ([1, 1, 1], [1, 1, 1])
    assert truth.boxes_xywh[0].tolist() == [1, 2.5, 3, 4]
    assert truth.areas.tolist() == [7, 12, 12]
    assert truth.crowd.tolist() == [False, True, True]


def test_a_root_category_without_boxes_is_no_class(tmp_path: Path) -> None:
    root = {"id": 0, "name": "cells", "supercategory": "none"}
    classes = [{"id": i, "name": name, "supercategory": "cells"} for i, name in enumerate("ab", start=1)]
    data = {**content(box(1, [0, 0, 9, 9])), "categories": [root, *classes]}
    assert class_names(read_coco_file(write(tmp_path, data))) == {1: "a", 2: "b"}
    assert read(tmp_path, data).root_class == "cells"
    data["annotations"] = [box(1, [0, 0, 9, 9], category=0)]
    assert class_names(read_coco_file(write(tmp_path, data))) == {0: "cells", 1: "a", 2: "b"}


def test_a_reader_asks_for_the_lists_that_it_needs(tmp_path: Path) -> None:
    classes = read_coco_file(
        write(tmp_path, {"categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]}), ["categories"]
    )
    assert list(class_names(classes).items()) == [(1, "a"), (2, "b")]
    assert len(classes.images.rows) == 0
    names = read_coco_file(write(tmp_path, {"images": [image(3), image(1)]}), ["images"])
    assert image_ids_by_name(names) == {"3.jpg": 3, "1.jpg": 1}


def test_detections_are_written_as_corner_and_size() -> None:
    boxes_xyxy, scores = np.array([[1, 2, 4, 8.5]], np.float32), np.array([0.5], np.float32)
    assert coco_detections(7, boxes_xyxy, scores, [3]) == [
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 6.5], "score": 0.5}
    ]

"""Detections as columns: the same as dicts, and the same sentences about wrong ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gfl.data.coco_columns import DetectionColumns, checked_columns, join_columns, sorted_by_image
from gfl.errors import InputError

ROWS: list[Any] = [
    {"image_id": 2**63 - 1, "category_id": 0, "bbox": [1.0, 2.0, 3.0, 4.5], "score": 0.1},
    {"image_id": 3, "category_id": 90, "bbox": [0.1, 0.2, 0.3, 0.4], "score": 1.0},
    {"image_id": 3, "category_id": 7, "bbox": [5.0, 6.0, 7.0, 8.0], "score": 0.5},
]


def columns() -> DetectionColumns:
    return checked_columns(ROWS)


def test_columns_and_rows_are_the_same() -> None:
    assert columns().rows() == ROWS
    assert [column.dtype for column in columns()[:4]] == [np.int64, np.int64, np.float64, np.float64]
    assert columns().edge_std is None
    assert checked_columns(columns()).rows() == ROWS


def test_no_detections_are_columns_too() -> None:
    for none in (checked_columns([]), join_columns([]), join_columns([checked_columns([])])):
        assert none.rows() == []
        assert none.boxes_xywh.shape == (0, 4)
        dtypes = [None if column is None else column.dtype for column in none]
        assert dtypes == [np.int64, np.int64, np.float64, np.float64, np.float64]
        assert sorted_by_image(none).rows() == []


def test_joined_and_sorted_columns_keep_the_order_within_a_picture() -> None:
    joined = join_columns([columns(), columns()])
    assert joined.rows() == [*ROWS, *ROWS]
    assert sorted_by_image(joined).rows() == sorted([*ROWS, *ROWS], key=lambda row: row["image_id"])


def test_the_spread_of_the_edges_is_kept_where_every_detection_has_it() -> None:
    rows: list[Any] = [{**row, "edge_std": [1.0, 0.5, 2.125, 3.0]} for row in ROWS]
    known = checked_columns(rows)
    assert known.rows() == rows
    assert sorted_by_image(known).rows() == sorted(rows, key=lambda row: row["image_id"])
    assert join_columns([known, known]).rows() == [*rows, *rows]
    assert join_columns([known, columns()]).edge_std is None
    for wrong in ([1.0, 2.0], "wide", [1.0, 2.0, 3.0, float("nan")], [1.0, 2.0, -3.0, 4.0]):
        assert checked_columns([*rows, {**rows[0], "edge_std": wrong}]).edge_std is None


def test_numbers_in_other_forms_are_read_as_what_they_mean() -> None:
    usual = {"image_id": 3, "category_id": 7, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    others: list[Any] = [
        {**usual, "image_id": "3", "score": "0.5"},
        {**usual, "image_id": np.int64(3), "bbox": np.array([1, 2, 3, 4], np.float32), "score": np.float32(0.5)},
        {**usual, "category_id": 7.0, "bbox": ("1", "2", "3", "4")},
        {**usual, "bbox": (1, 2, 3, 4), "area": None},
    ]
    assert checked_columns(others).rows() == [usual] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1.0, 2.0, 3.0]}, r"detection 1 has bbox \[1.0, 2.0, 3.0\] and score 1.0; expected finite"),
        ({"bbox": [1.0, 2.0, float("inf"), 4.0]}, "detection 1 has bbox .*inf"),
        ({"score": float("nan")}, "detection 1 has .* score nan; expected finite"),
        ({"score": None}, "detection 1 is not in COCO results form .TypeError"),
        ({"bbox": [None, 2.0, 3.0, 4.0]}, "detection 1 is not in COCO results form .TypeError"),
        ({"bbox": 3.0}, "detection 1 is not in COCO results form .TypeError"),
        ({"image_id": None}, "detection 1 is not in COCO results form .TypeError"),
        ({"image_id": "a.jpg"}, "detection 1 is not in COCO results form .ValueError"),
        ({"category_id": float("nan")}, "detection 1 is not in COCO results form .ValueError"),
        ({"image_id": 2**63}, "detection 1 is not in COCO results form .OverflowError"),
    ],
)
def test_the_first_wrong_detection_is_told(change: dict[str, object], message: str) -> None:
    rows: list[Any] = [ROWS[0], {**ROWS[1], **change}, {**ROWS[2], "score": float("nan")}]
    with pytest.raises(InputError, match=message):
        checked_columns(rows)


def test_what_is_no_dict_or_lacks_a_key_is_told() -> None:
    wrong: list[Any] = [{"image_id": 1}, None, [1, 2], "text"]
    for row in wrong:
        with pytest.raises(InputError, match="detection 3 is not in COCO results form"):
            checked_columns([*ROWS, row])


def test_columns_that_are_not_finite_are_told_as_dicts_are() -> None:
    scores = np.array([0.1, np.nan, 0.5])
    with pytest.raises(InputError, match=r"detection 1 has bbox \[0.1, 0.2, 0.3, 0.4\] and score nan; expected finite"):
        checked_columns(columns()._replace(scores=scores))

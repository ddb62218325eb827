"""Numbers and lists as people read them."""

from __future__ import annotations

import math

import pytest

from gfl.words import class_shares, counted, duration, headline, memory, short_number


def test_head_lines_share_a_column_and_drop_empty_parts() -> None:
    assert headline("data", "train 1,204", "", "val 150") == "data    train 1,204 | val 150"
    assert headline("shapes", "800x1344") == "shapes  800x1344"


def test_counts_agree_in_number() -> None:
    assert [counted(1, "box", "boxes"), counted(8310, "box", "boxes"), counted(0, "image")] == [
        "1 box",
        "8,310 boxes",
        "0 images",
    ]


def test_class_shares_rank_and_cut() -> None:
    assert class_shares({"dog": 30, "cat": 61, "fox": 9}) == "3 classes (cat 61%, dog 30%, fox 9%)"
    assert class_shares({"dog": 30, "cat": 61, "fox": 9}, most=1) == "3 classes (cat 61%, 2 more)"
    assert class_shares({"dog": 0}) == "1 class (dog)"
    assert class_shares({}) == "0 classes"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (2470, "41:10"), (3600, "1:00:00"), (7500, "2:05:00")),
        *((266700, "3d 02:05"), (math.inf, "?"), (math.nan, "?")),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_memory_in_megabytes_below_one_gigabyte() -> None:
    assert [memory(740 * 1024**2), memory(1024**3), memory(9_771_050_598)] == ["740 MB", "1.0 GB", "9.1 GB"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.412, ".41"), (0.0, ".00"), (-0.5, "-.50"), (0.996, "1.00"), (1.234, "1.23"), (10.06, "10.1")),
        *((45.67, "45.7"), (1234.4, "1234"), (1e-5, "1e-05"), (3e7, "3e+07"), (math.nan, "nan"), (math.inf, "inf")),
    ],
)
def test_losses_are_short(value: float, text: str) -> None:
    assert short_number(value) == text

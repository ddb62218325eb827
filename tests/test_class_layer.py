"""The class layer of a file: its rows go where their classes are in the run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gfl.engine.class_layer import CLASS_LAYER, ClassRows, place_rows

WEIGHT, BIAS = CLASS_LAYER + "weight", CLASS_LAYER + "bias"


def layer(rows: int, start: float, channels: int = 2) -> dict[str, Tensor]:
    """A class layer whose row r holds start + r everywhere."""
    values = torch.arange(rows) + start
    return {WEIGHT: values.view(-1, 1, 1, 1).repeat(1, channels, 3, 3), BIAS: values}


def placed(wanted: str, offered: str | None, in_model: int, in_file: int) -> ClassRows:
    found = place_rows(
        layer(in_model, 100.0), layer(in_file, 0.0), wanted.split(), offered.split() if offered else None
    )
    assert found is not None
    return found


def rows_of(found: ClassRows) -> list[float]:
    assert torch.equal(found.leaves[WEIGHT][:, 0, 0, 0], found.leaves[BIAS])
    return found.leaves[BIAS].tolist()


def test_rows_follow_their_classes_and_the_others_stay_initial() -> None:
    found = placed("b new a", "a b c", 3, 3)
    assert rows_of(found) == [1.0, 101.0, 0.0]
    assert not found.complete
    assert found.text == "class layer: 2 of 3 rows kept by name (b, a), new: new; not used from the file: c"


@pytest.mark.parametrize(
    ("in_model", "in_file", "rows", "said"),
    [
        (3, 3, [1.0, 0.0, 2.0], "; background: kept"),
        (3, 2, [1.0, 0.0, 102.0], "; background: new"),
        (2, 3, [1.0, 0.0], "rows kept by name (b, a)"),
    ],
    ids=["both", "model", "file"],
)
def test_background_comes_after_the_classes(in_model: int, in_file: int, rows: list[float], said: str) -> None:
    found = placed("b a", "a b", in_model, in_file)
    assert rows_of(found) == rows
    assert found.text.endswith(said)
    assert found.complete == (102.0 not in rows)


def test_classes_that_the_file_does_not_have_leave_the_layer_new() -> None:
    """Though it has as many rows, which would all fit."""
    found = placed("x y", "a b", 2, 2)
    assert (found.leaves, found.complete) == ({}, False)
    assert found.text == "class layer: 0 of 2 rows kept by name, new: x, y; not used from the file: a, b"


def test_file_without_names_is_taken_on_trust_where_its_rows_are_as_many() -> None:
    found = placed("x y", None, 2, 2)
    assert rows_of(found) == [0.0, 1.0]
    assert "the file does not name its classes, so that they are in this order is taken on trust" in found.text
    found = placed("x y", None, 2, 3)
    assert not found.leaves
    assert found.text == "class layer: new, 3 -> 2 rows; the file does not name its classes"


def test_names_that_are_not_the_layers_are_not_used() -> None:
    found = placed("a b", "a b", 2, 7)
    assert not found.leaves
    assert found.text.endswith("the file names 2 classes and has 7 rows")


def test_names_that_differ_in_case_are_told() -> None:
    assert placed("RBC", "rbc", 1, 1).text.endswith("; case and blanks ignored: 'RBC' from 'rbc'")


def test_layer_of_another_width_is_no_matter_of_names() -> None:
    assert place_rows(layer(2, 0.0), layer(2, 0.0, channels=3), ["a", "b"], ["a", "b"]) is None
    assert place_rows(layer(2, 0.0), {}, ["a", "b"], None) is None

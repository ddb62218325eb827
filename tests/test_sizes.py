"""The sizes of a run: canvases that hold every picture, slots that hold every box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import data_of_sizes as data_of

from gfl.data.canvas import pick_canvases
from gfl.data.sizes import box_slots, canvases_for, eval_short_side, ignored_slots
from gfl.data.transforms import resized_size
from gfl.errors import InputError
from gfl.settings import DataConfig

FIXED = DataConfig(short_side=64, long_side=128)
MULTI = replace(FIXED, short_side=(32, 96))


@given(st.integers(32, 96))
def test_auto_canvases_hold_every_short_side_that_may_be_drawn(short: int) -> None:
    train, val = data_of(40), data_of(20, seed=1)
    canvases = canvases_for(train, MULTI, val=val)
    assert canvases is not None
    assert len(canvases) <= 4
    for pictures, side in ((train.pictures, short), (val.pictures, 96)):
        sizes_hw = np.array([resized_size(p.height, p.width, side, 128) for p in pictures])
        assert (pick_canvases(sizes_hw, canvases) >= 0).all()


def test_canvases_are_a_choice_of_three() -> None:
    data = data_of(3)
    assert canvases_for(data, replace(FIXED, canvases="own")) is None
    assert canvases_for(data, replace(FIXED, canvases=((256, 256), (64, 128)))) == ((64, 128), (256, 256))
    with pytest.raises(InputError, match="no pictures"):
        canvases_for(replace(data, pictures=()), FIXED)


def test_evaluation_takes_the_upper_short_side_unless_told() -> None:
    assert eval_short_side(MULTI) == 96
    assert eval_short_side(replace(MULTI, eval_short_side=48)) == 48


@pytest.mark.parametrize(("boxes", "slots"), [(0, 8), (1, 8), (8, 8), (9, 16), (60, 64)])
def test_box_slots_are_the_maximum_rounded_up_to_8(boxes: int, slots: int) -> None:
    assert box_slots(data_of(3, boxes=boxes), "auto") == slots


def test_more_boxes_than_max_boxes_are_an_input_error_naming_the_picture() -> None:
    data = data_of(3, boxes=9)
    assert box_slots(data, 9) == 9
    with pytest.raises(InputError, match=r"MAX_BOXES = 8.*at least 9.*0\.jpg"):
        box_slots(data, 8)


@pytest.mark.parametrize(("crowds", "slots"), [(0, 1), (1, 4), (4, 4), (5, 8)])
def test_ignored_slots_are_the_maximum_rounded_up_to_4(crowds: int, slots: int) -> None:
    assert ignored_slots(data_of(3, crowds=crowds)) == slots

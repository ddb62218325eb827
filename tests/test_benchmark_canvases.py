"""The padding benchmark compares like with like: one epoch of the same pictures, padded in three ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import data_set

from benchmarks.canvases import FORMS, GROUPED, OURS, SQUARE, Setting, pixels_of, plans_of
from benchmarks.measure import Gemm
from gfl.data.canvas import own_canvas
from gfl.data.pictures import Picture
from gfl.data.plan import BLANK, BatchPlan, PlannedPicture
from gfl.data.sizes import canvases_for
from gfl.settings import DataConfig, RunConfig

SIZES_HW = [(480, 640), (427, 640), (640, 480), (640, 427), (500, 375), (333, 500), (480, 640), (640, 640), (480, 641)]


def picture(index: int, height: int, width: int) -> Picture:
    boxes = np.array([[1.0, 1.0, 20.0, 30.0]], np.float32)
    labels, crowds = np.zeros(1, np.int32), np.zeros((0, 4), np.float32)
    return Picture(index + 1, f"{index}.jpg", Path(f"{index}.jpg"), height, width, boxes, labels, crowds)


@pytest.fixture
def setting() -> Setting:
    """Nine pictures of COCO's shapes at the paper's sizes, in batches of two."""
    data = data_set([picture(i, *size) for i, size in enumerate(SIZES_HW)])
    run = replace(RunConfig(data=DataConfig()), batch_size=2)
    return Setting("r50", run, data, canvases_for(data, run.data) or (), 1, Gemm(64))


def test_three_forms_hold_the_same_pictures_resized_and_flipped_alike(setting: Setting) -> None:
    plans, chosen = plans_of(setting), {}
    assert set(plans) == set(FORMS)
    for form in FORMS:
        planned = [picture for plan in plans[form] for picture in plan.pictures if picture.picture != BLANK]
        chosen[form] = set(planned)  # a picture that comes twice comes alike
        assert sorted(picture.picture for picture in chosen[form]) == list(range(len(SIZES_HW)))
        assert all(
            np.less_equal(picture.size_hw, plan.canvas).all() for plan in plans[form] for picture in plan.pictures
        )
    assert chosen[OURS] == chosen[SQUARE] == chosen[GROUPED]
    assert {picture.flip for picture in chosen[OURS]} == {True, False}


def test_the_square_is_the_ports_and_a_grouped_batch_has_its_own_maximum(setting: Setting) -> None:
    plans = plans_of(setting)
    assert {plan.canvas for plan in plans[SQUARE]} == {(1344, 1344)}
    for plan in plans[GROUPED]:
        shown = [setting.data.pictures[planned.picture] for planned in plan.pictures]
        assert len({picture.width > picture.height for picture in shown}) == 1
        assert plan.canvas == own_canvas(*np.max([planned.size_hw for planned in plan.pictures], axis=0).tolist())
    pixels = {form: pixels_of(plans[form]) for form in FORMS}
    assert pixels[GROUPED].spare_slots == 1  # five are wider than high, four are not
    assert len({epoch.real for epoch in pixels.values()}) == 1
    assert max(pixels[OURS].canvas, pixels[GROUPED].canvas) < 0.65 * pixels[SQUARE].canvas


def test_pixels_are_counted_once_for_a_picture_and_for_every_slot_of_a_canvas() -> None:
    plans = (
        BatchPlan(0, 0, (64, 96), (PlannedPicture(0, (60, 90)), PlannedPicture(1, (64, 80)))),
        BatchPlan(0, 1, (96, 64), (PlannedPicture(2, (90, 60)), PlannedPicture(BLANK))),
        BatchPlan(0, 2, (64, 96), (PlannedPicture(0, (60, 90)), PlannedPicture(3, (32, 32)))),
    )
    real = 60 * 90 + 64 * 80 + 90 * 60 + 32 * 32
    pixels = pixels_of(plans)
    assert pixels == (real, 6 * 64 * 96, 2, 2 * 64 * 96, 2)
    assert pixels.filled_share == real / (4 * 64 * 96)

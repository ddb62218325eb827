"""The padding benchmark compares like with like: one epoch of the same pictures, padded in three ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import canvases, measure, program
from benchmarks.canvases import FORMS, GROUPED, OURS, SQUARE, Setting, grouped_plan, pixels_of, plans_of
from gfl.data.canvas import own_canvas
from gfl.data.coco import CocoData, Picture
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
    pictures = tuple(picture(i, *size) for i, size in enumerate(SIZES_HW))
    data = CocoData(Path("a.json"), Path("images"), pictures, ("thing",), (1,), 0, 0, 0)
    run = replace(RunConfig(data=DataConfig()), batch_size=2)
    return Setting("r50", run, data, canvases_for(data, run.data) or (), 1, measure.Gemm(64))


def places(plans: tuple[BatchPlan, ...]) -> dict[int, PlannedPicture]:
    """The place of each picture; a picture that comes twice comes alike."""
    found: dict[int, PlannedPicture] = {}
    for place in (place for plan in plans for place in plan.pictures if place.picture != BLANK):
        assert found.setdefault(place.picture, place) == place
    return found


def test_three_forms_hold_the_same_pictures_resized_and_flipped_alike(setting: Setting) -> None:
    plans = plans_of(setting)
    assert set(plans) == set(FORMS)
    ours = places(plans[OURS])
    assert sorted(ours) == list(range(len(SIZES_HW)))
    assert all(places(plans[form]) == ours for form in FORMS)
    assert any(place.flip for place in ours.values())
    assert not all(place.flip for place in ours.values())


def test_every_picture_fits_its_canvas_in_every_form(setting: Setting) -> None:
    for plans in plans_of(setting).values():
        for plan in plans:
            assert len(plan.pictures) == 2
            assert all(np.less_equal(place.size_hw, plan.canvas).all() for place in plan.pictures)


def test_square_of_the_papers_sizes_is_the_ports(setting: Setting) -> None:
    assert {plan.canvas for plan in plans_of(setting)[SQUARE]} == {(1344, 1344)}


def test_a_grouped_batch_lies_or_stands_and_is_padded_to_its_own_maximum(setting: Setting) -> None:
    for plan in grouped_plan(setting.data.pictures, setting.run.data, 2, seed=0):
        shown = [setting.data.pictures[place.picture] for place in plan.pictures]
        assert len({picture.width > picture.height for picture in shown}) == 1
        assert plan.canvas == own_canvas(*np.max([place.size_hw for place in plan.pictures], axis=0).tolist())


def test_a_grouped_last_batch_is_filled_with_pictures_of_its_group(setting: Setting) -> None:
    plans = grouped_plan(setting.data.pictures, setting.run.data, 2, seed=0)
    assert sum(len(plan.pictures) for plan in plans) == 10  # five lie, four do not
    assert pixels_of(plans).spare_places == 1


def test_pixels_are_counted_once_for_a_picture_and_for_every_place_of_a_canvas() -> None:
    plans = (
        BatchPlan(0, 0, (64, 96), (PlannedPicture(0, (60, 90)), PlannedPicture(1, (64, 80)))),
        BatchPlan(0, 1, (96, 64), (PlannedPicture(2, (90, 60)), PlannedPicture(BLANK))),
        BatchPlan(0, 2, (64, 96), (PlannedPicture(0, (60, 90)), PlannedPicture(3, (32, 32)))),
    )
    real = 60 * 90 + 64 * 80 + 90 * 60 + 32 * 32
    found = pixels_of(plans)
    assert found == (real, 6 * 64 * 96, 2, 2 * 64 * 96, 2)
    assert found.filled_share == real / (4 * 64 * 96)


def test_square_takes_the_most_pixels_for_the_same_pictures(setting: Setting) -> None:
    pixels = {form: pixels_of(plans) for form, plans in plans_of(setting).items()}
    assert len({found.real for found in pixels.values()}) == 1
    assert pixels[OURS].canvas < 0.65 * pixels[SQUARE].canvas
    assert pixels[GROUPED].canvas < 0.65 * pixels[SQUARE].canvas
    assert pixels[OURS].shapes <= 4


def test_benchmark_runs_on_generated_pictures_and_writes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GFL_TEST_DATA", raising=False)
    monkeypatch.setattr(canvases, "GENERATED_HW", (64, 96))
    monkeypatch.setattr(program, "QUICK_GEMM_SIDE", 64)
    monkeypatch.setattr(measure, "LEAST_S", 0.0)
    flags = ["--quick", "--config", "small", "--repeats", "1", "--pictures", "4", "--json", str(tmp_path / "a.json")]
    arguments = canvases.parser().parse_args(flags)
    monkeypatch.setattr("sys.argv", ["canvases", *flags])
    assert program.run_program(canvases.parser(), canvases.measure) == 0
    figures = json.loads((tmp_path / "a.json").read_text())["benchmarks"][0]["figures"]
    assert figures["pictures"] == arguments.pictures == 4
    assert figures["pixels"].keys() == set(FORMS)
    assert figures["seconds"].keys() == {*FORMS, measure.GEMM}
    assert figures["pixels"][SQUARE]["canvas"] == 4 * 160 * 160


def test_one_of_two_paths_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["canvases", "--images", str(tmp_path)])
    assert program.run_program(canvases.parser(), canvases.measure) == 2

"""An epoch's plan: every picture once, few blanks, the same from the same numbers, split evenly over ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import data_of_sizes as data_of

from gfl.data.canvas import by_area, own_canvas
from gfl.data.coco import CocoData
from gfl.data.pictures import sizes_of
from gfl.data.plan import (
    BLANK,
    BatchPlan,
    draw_changes,
    eval_plan,
    eval_shrinkage,
    fill_batches,
    join_leftovers,
    train_plan,
    uniform_draws,
)
from gfl.data.sizes import canvases_for
from gfl.data.transforms import resized_size
from gfl.errors import InputError
from gfl.settings import DataConfig
from gfl.shapes import Canvas

FIXED = DataConfig(short_side=64, long_side=128)
MULTI = replace(FIXED, short_side=(32, 96), brightness=0.2, contrast=0.4, flip_vertical=0.25)
SETTINGS = st.sampled_from([FIXED, MULTI, replace(MULTI, canvases="own"), replace(FIXED, canvases=((128, 128),))])


def plan_of(
    data: CocoData, cfg: DataConfig, batch_size: int, *, seed: int = 0, epoch: int = 0
) -> tuple[BatchPlan, ...]:
    canvases = canvases_for(data, cfg)
    return tuple(train_plan(data.pictures, cfg, canvases, batch_size=batch_size, seed=seed, epoch=epoch))


def pictures_in(plan: Sequence[BatchPlan]) -> list[int]:
    return [planned.picture for batch in plan for planned in batch.pictures if planned.picture != BLANK]


@settings(max_examples=60, deadline=None)
@given(SETTINGS, st.integers(1, 60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_every_picture_comes_once_on_a_canvas_that_holds_it(
    cfg: DataConfig, count: int, batch_size: int, seed: int, epoch: int
) -> None:
    data = data_of(count, seed)
    plan = plan_of(data, cfg, batch_size, seed=seed, epoch=epoch)
    assert sorted(pictures_in(plan)) == list(range(count))
    assert [batch.index for batch in plan] == list(range(len(plan)))
    for batch in plan:
        assert len(batch.pictures) == batch_size
        assert batch.pictures[0].picture != BLANK
        for planned in batch.pictures:
            assert planned.size_hw[0] <= batch.canvas[0]
            assert planned.size_hw[1] <= batch.canvas[1]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([FIXED, MULTI]), st.integers(1, 60), st.integers(1, 9))
def test_at_most_one_batch_of_a_canvas_has_blanks(cfg: DataConfig, count: int, batch_size: int) -> None:
    plan = plan_of(data_of(count), cfg, batch_size)
    with_blanks = Counter(batch.canvas for batch in plan if batch.pictures[-1].picture == BLANK)
    assert max(with_blanks.values(), default=0) <= 1
    blanks = sum(planned.picture == BLANK for batch in plan for planned in batch.pictures)
    assert blanks == len(plan) * batch_size - count


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 9))
def test_leftovers_that_move_up_never_cost_pixels(count: int, batch_size: int) -> None:
    data = data_of(count)
    canvases = canvases_for(data, FIXED)
    sizes_hw = np.array([resized_size(p.height, p.width, 64, 128) for p in data.pictures])
    pixels = []
    for move_up in (False, True):
        batches = fill_batches(np.arange(count), sizes_hw, canvases, batch_size, move_up)
        pixels.append(sum(height * width for (height, width), _ in batches))
    assert pixels[1] <= pixels[0]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([FIXED, MULTI]), st.integers(0, 60), st.integers(1, 9), st.booleans(), st.integers(0, 9))
def test_batches_are_those_of_going_through_the_pictures(
    cfg: DataConfig, count: int, batch_size: int, move_up: bool, seed: int
) -> None:
    data = data_of(count + 1, seed)
    sizes_hw = sizes_of(data.pictures)[:count]
    order = np.random.default_rng(seed).permutation(count)
    for canvases in (None, ((64, 192), (192, 192), (160, 160))):
        groups: dict[Canvas, list[int]] = {}
        for picture in order.tolist():
            height, width = sizes_hw[picture].tolist()
            fitting = [each for each in canvases or () if height <= each[0] and width <= each[1]]
            canvas = own_canvas(height, width) if canvases is None else min(fitting, key=by_area)
            groups.setdefault(canvas, []).append(picture)
        cut = {canvas: len(members) - len(members) % batch_size for canvas, members in groups.items()}
        left = {canvas: members[cut[canvas] :] for canvas, members in groups.items() if members[cut[canvas] :]}
        if move_up and canvases is not None:
            left = join_leftovers(left, sizes_hw, batch_size)
        expected = []
        for canvas in sorted(groups, key=by_area):
            members = groups[canvas][: cut[canvas]] + left.get(canvas, [])
            members += [BLANK] * (-len(members) % batch_size)
            expected += [(canvas, members[at : at + batch_size]) for at in range(0, len(members), batch_size)]
        batches = fill_batches(order, sizes_hw, canvases, batch_size, move_up)
        assert [(canvas, members.tolist()) for canvas, members in batches] == expected


def test_leftovers_of_a_small_canvas_fill_the_blanks_of_a_large_one() -> None:
    left = {(32, 32): [0, 1], (64, 64): [2, 3]}
    sizes_hw = np.array([[20, 20], [30, 30], [60, 60], [50, 64]])
    assert join_leftovers(left, sizes_hw, batch_size=4) == {(64, 64): [2, 3, 0, 1]}
    assert join_leftovers(left, sizes_hw, batch_size=3) == left


def test_own_canvases_are_the_pictures_own() -> None:
    data = data_of(30)
    for batch in plan_of(data, replace(MULTI, canvases="own"), 4):
        for planned in batch.pictures:
            if planned.picture != BLANK:
                assert batch.canvas == tuple(-(-side // 32) * 32 for side in planned.size_hw)


def test_a_plan_is_a_function_of_seed_and_epoch() -> None:
    data = data_of(50)
    plan = plan_of(data, MULTI, 4, seed=1, epoch=2)
    assert plan == plan_of(data, MULTI, 4, seed=1, epoch=2)
    assert pictures_in(plan) != pictures_in(plan_of(data, MULTI, 4, seed=1, epoch=3))
    assert pictures_in(plan) != pictures_in(plan_of(data, MULTI, 4, seed=2, epoch=2))


def test_a_pictures_changes_depend_on_no_other_picture() -> None:
    data = data_of(40)
    some = replace(data, pictures=data.pictures[10:20])
    all_planned = {p.picture: p for batch in plan_of(data, MULTI, 4) for p in batch.pictures}
    for batch in plan_of(some, MULTI, 3):
        for planned in batch.pictures:
            if planned.picture != BLANK:
                assert planned._replace(picture=planned.picture + 10) == all_planned[planned.picture + 10]


@settings(max_examples=30, deadline=None)
@given(SETTINGS, st.integers(1, 60), st.integers(1, 4), st.integers(1, 4))
def test_ranks_together_are_one_device_with_their_batches(
    cfg: DataConfig, count: int, batch_size: int, world: int
) -> None:
    data = data_of(count)
    canvases = canvases_for(data, cfg)
    whole = plan_of(data, cfg, batch_size * world)
    parts = [
        train_plan(data.pictures, cfg, canvases, batch_size=batch_size, seed=0, epoch=0, rank=rank, world=world)
        for rank in range(world)
    ]
    for part in parts:
        assert [(batch.index, batch.canvas) for batch in part] == [(batch.index, batch.canvas) for batch in whole]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert Counter(batch.pictures) == Counter(planned for share in shares for planned in share.pictures)
        blanks = [sum(planned.picture == BLANK for planned in share.pictures) for share in shares]
        assert max(blanks) - min(blanks) <= 1


def test_draws_are_uniform_and_independent() -> None:
    draws = uniform_draws(7, 3, np.arange(20_000), 5)
    assert draws.shape == (20_000, 5)
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)  # 5 standard errors of a mean of 20,000
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(5), atol=0.035)
    neighbour = uniform_draws(7, 4, np.arange(20_000), 5)
    np.testing.assert_allclose([np.corrcoef(draws[:, i], neighbour[:, i])[0, 1] for i in range(5)], 0, atol=0.035)
    np.testing.assert_allclose([np.corrcoef(draws[1:, i], draws[:-1, i])[0, 1] for i in range(5)], 0, atol=0.035)


def test_draws_of_any_integer_id_exist() -> None:
    assert np.isfinite(uniform_draws(0, 0, np.array([-1, 0, 2**62]), 5)).all()


def test_multi_scale_draws_every_short_side_and_half_are_flipped() -> None:
    drawn = draw_changes(data_of(4000).pictures, MULTI, seed=0, epoch=0)
    wide = replace(MULTI, long_side=1000)
    sizes = [min(planned.size_hw) for planned in draw_changes(data_of(4000).pictures, wide, 0, 0)]
    assert (min(sizes), max(sizes)) == (32, 96)
    assert set(sizes) == set(range(32, 97))
    assert abs(np.mean([planned.flip for planned in drawn]) - 0.5) < 0.04
    assert abs(np.mean([planned.flip_vertical for planned in drawn]) - 0.25) < 0.04
    assert all(0.8 <= planned.brightness <= 1.2 and 0.6 <= planned.contrast <= 1.4 for planned in drawn)


def test_training_refuses_a_picture_that_fits_no_canvas_in_any_epoch() -> None:
    data = data_of(10)
    with pytest.raises(InputError, match=r"\.jpg.*fit no canvas.*add \("):
        plan_of(data, replace(MULTI, canvases=((64, 64),)), 2)


def test_training_refuses_no_pictures() -> None:
    with pytest.raises(InputError, match="no pictures to train on"):
        train_plan((), FIXED, ((128, 128),), batch_size=2, seed=0, epoch=0)


@settings(max_examples=30, deadline=None)
@given(SETTINGS, st.integers(0, 40), st.integers(1, 5), st.integers(1, 3))
def test_evaluation_sees_every_picture_once_over_all_ranks(
    cfg: DataConfig, count: int, batch_size: int, world: int
) -> None:
    data = data_of(count)
    canvases = ((96, 96), (64, 128)) if cfg is FIXED else None
    plans = [
        eval_plan(data.pictures, cfg, canvases, batch_size=batch_size, rank=rank, world=world) for rank in range(world)
    ]
    assert sorted(picture for plan in plans for picture in pictures_in(plan)) == list(range(count))
    assert len({tuple(batch.canvas for batch in plan) for plan in plans}) == 1
    for batch in plans[0]:
        for planned in batch.pictures:
            assert planned.size_hw[0] <= batch.canvas[0]
            assert planned.size_hw[1] <= batch.canvas[1]


def test_in_evaluation_a_pictures_canvas_does_not_depend_on_the_batch() -> None:
    data = data_of(30)
    canvases = canvases_for(data, FIXED)
    homes = []
    for batch_size in (1, 4, 7):
        plan = eval_plan(data.pictures, FIXED, canvases, batch_size=batch_size)
        homes.append(
            {planned.picture: batch.canvas for batch in plan for planned in batch.pictures if planned.picture >= 0}
        )
        assert not any(planned.flip or planned.flip_vertical for batch in plan for planned in batch.pictures)
    assert homes[0] == homes[1] == homes[2]


@pytest.mark.parametrize(("batch_size", "rank", "world"), [(0, 0, 1), (1, 1, 1), (1, -1, 2)])
def test_a_split_that_cannot_be_is_refused(batch_size: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        eval_plan((), FIXED, None, batch_size=batch_size, rank=rank, world=world)


def test_pictures_that_evaluation_shrinks_are_those_that_its_plan_makes_smaller() -> None:
    data = data_of(40)
    canvases = ((64, 96),)
    whole = eval_plan(data.pictures, FIXED, None, batch_size=1)
    shrunk = eval_plan(data.pictures, FIXED, canvases, batch_size=1)
    sizes = [{row.picture: row.size_hw for batch in plan for row in batch.pictures} for plan in (whole, shrunk)]
    different = sum(sizes[0][picture] != sizes[1][picture] for picture in sizes[0])
    assert different == eval_shrinkage(data.pictures, FIXED, canvases).pictures > 0
    assert eval_shrinkage(data.pictures, FIXED, None).pictures == 0

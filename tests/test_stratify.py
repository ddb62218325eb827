"""Which pictures validate: the number asked for, each class on both sides, groups whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfl.data.split.stratify import choose_val


def sides(groups: Sequence[Sequence[int]], classes: Sequence[Sequence[int]], val: int, seed: int = 0) -> list[bool]:
    """Of each picture, whether it validates."""
    chosen = choose_val(groups, classes, val, seed).tolist()
    return [
        bool(side) for _, side in sorted((at, side) for group, side in zip(groups, chosen, strict=True) for at in group)
    ]


def alone(count: int) -> list[list[int]]:
    return [[at] for at in range(count)]


def share_errors(in_val: Sequence[bool], classes: Sequence[Sequence[int]], share: float) -> float:
    """The mean over the classes of how far their share in validation is off."""
    has = np.zeros((len(classes), 1 + max(map(max, classes))), dtype=bool)
    for at, kinds in enumerate(classes):
        has[at, list(kinds)] = True
    return float(np.abs((has & np.array(in_val)[:, None]).sum(0) / has.sum(0).clip(min=1) - share).mean())


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=2, max_size=40),
    share=st.floats(0.01, 0.99),
    cuts=st.sets(st.integers(1, 39)),
    seed=st.integers(0, 9),
)
def test_share_is_met_to_half_of_the_largest_group(
    classes: list[list[int]], share: float, cuts: set[int], seed: int
) -> None:
    starts = [0, *sorted(cut for cut in cuts if cut < len(classes)), len(classes)]
    groups = [list(range(start, stop)) for start, stop in pairwise(starts)]
    val = min(max(round(share * len(classes)), 1), len(classes) - 1)
    in_val = sides(groups, classes, val, seed)
    largest = max(map(len, groups))
    if len(groups) > 1:
        assert 0 < sum(in_val) < len(classes)
        assert abs(sum(in_val) - val) < largest
    assert all(len({in_val[at] for at in group}) == 1 for group in groups)


def test_single_pictures_meet_the_share_exactly() -> None:
    classes = [[at % 7, at % 3] for at in range(101)]
    assert [sum(sides(alone(101), classes, val)) for val in (1, 20, 50, 100)] == [1, 20, 50, 100]


def test_every_class_of_two_pictures_is_on_both_sides() -> None:
    classes = [[at // 2] if at < 20 else [10] for at in range(100)]
    in_val = sides(alone(100), classes, 20)
    assert all(in_val[2 * kind] != in_val[2 * kind + 1] for kind in range(10))
    assert sum(in_val[20:]) == 10


def test_a_class_of_a_single_picture_trains() -> None:
    classes = [[at] if at < 10 else [10] for at in range(100)]
    assert not any(sides(alone(100), classes, 50)[:10])


def test_a_common_class_is_not_crowded_out_by_rare_ones() -> None:
    classes = [[at // 2] if at < 10 else [5] for at in range(30)]
    in_val = sides(alone(30), classes, 3)
    assert sum(in_val) == 3
    assert any(in_val[10:])


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_closer_than_those_of_a_random_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    odds = 1 / np.arange(1, 13)
    classes = [rng.choice(12, rng.integers(1, 4), p=odds / odds.sum()).tolist() for _ in range(300)]
    ours = share_errors(sides(alone(300), classes, 60, seed), classes, 0.2)
    random = [share_errors((rng.permutation(300) < 60).tolist(), classes, 0.2) for _ in range(20)]
    assert ours < min(random)


def test_pictures_without_boxes_are_shared_out_likewise() -> None:
    classes: list[list[int]] = [[0], [], [1], [], [0]] * 20
    in_val = sides(alone(100), classes, 20)
    assert sum(side for side, kinds in zip(in_val, classes, strict=True) if not kinds) == 8


def test_pictures_without_any_box_are_split_by_number() -> None:
    assert sum(sides(alone(10), [[] for _ in range(10)], 3)) == 3


def test_a_group_larger_than_the_share_trains() -> None:
    groups = [list(range(60)), *([at] for at in range(60, 100))]
    in_val = sides(groups, [[0]] * 100, 20)
    assert not any(in_val[:60])
    assert sum(in_val) == 20


def test_two_groups_are_one_on_each_side_whatever_the_share() -> None:
    assert sum(sides([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], [[0]] * 10, 1)) == 5


def test_seed_decides() -> None:
    classes = [[at % 3] for at in range(60)]
    first, again, other = (sides(alone(60), classes, 12, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other

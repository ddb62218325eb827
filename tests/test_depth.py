"""Deep pictures into 8 bits: never black, never wrapped, by a stated rule."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gfl.data.depth import SAMPLED, check_depth, to_uint8
from gfl.errors import InputError


def ramp(white: int, dtype: type[np.generic] = np.uint16) -> NDArray[np.generic]:
    """(16,16): from 0 to white in equal steps."""
    return np.linspace(0, white, 256).reshape(16, 16).round().astype(dtype)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sensors_of_any_bits_come_out_alike(bits: int) -> None:
    levels = to_uint8(ramp(2**bits - 1))
    np.testing.assert_array_equal(levels, to_uint8(ramp(2**bits - 1, np.float32)))
    assert np.abs(levels.astype(int).reshape(-1) - np.arange(256)).max() <= 1


def test_sixteen_bits_are_shifted_as_opencv_does() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (40, 50, 3)).astype(np.uint16)
    np.testing.assert_array_equal(to_uint8(values), values >> 8)
    np.testing.assert_array_equal(to_uint8(values, "16"), values >> 8)
    np.testing.assert_array_equal(to_uint8(values, "full"), values >> 8)


def test_a_hot_pixel_does_not_make_the_others_black() -> None:
    values = np.full((50, 50), 4000, np.uint16)
    values[7, 7] = 65535
    levels = to_uint8(values)
    assert levels[0, 0] == 4000 >> 4
    assert levels[7, 7] == 255


@pytest.mark.parametrize("depth", ["auto", "range", "full", "8", "12"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.uint32, np.float16, np.float32, float])
def test_no_rule_wraps_around_or_turns_the_order(depth: str, dtype: type[np.generic]) -> None:
    levels = to_uint8(np.linspace(0, 100, 64).reshape(8, 8).astype(dtype), depth).astype(int).reshape(-1)
    assert (np.diff(levels) >= 0).all()


def test_floats_within_one_are_multiplied_by_255() -> None:
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert to_uint8(values).tolist() == [[0, 128, 255]]
    assert to_uint8(values, "full").tolist() == [[0, 128, 255]]


def test_a_few_great_floats_do_not_make_the_others_black() -> None:
    values = np.random.default_rng(0).random((100, 100)).astype(np.float32) * 3
    values[0, :5] = 1e6
    assert 100 < to_uint8(values).mean() < 160


def test_negative_numbers_are_scaled_from_the_pictures_own_range() -> None:
    values = np.linspace(-1024, 3071, 400).reshape(20, 20).astype(np.int16)
    levels = to_uint8(values)
    assert levels[0, 0] == 0
    assert levels[-1, -1] == 255
    assert 120 < levels.mean() < 135


def test_numbers_that_are_not_finite_decide_nothing() -> None:
    values = np.array([[np.nan, 0.0, 0.5, 1.0, np.inf, -np.inf]])
    assert to_uint8(values).tolist() == [[0, 0, 128, 255, 255, 0]]
    assert to_uint8(np.full((2, 2), np.nan)).tolist() == [[0, 0], [0, 0]]


def test_constant_pictures_are_no_division_by_zero() -> None:
    assert to_uint8(np.full((2, 2), -3.0)).max() == 0
    assert to_uint8(np.full((2, 2), 700, np.uint16), "range").min() == 255
    assert to_uint8(np.zeros((0, 3), np.uint16)).shape == (0, 3)


def test_eight_bits_stay_as_they_are() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert to_uint8(values, "range") is values or np.shares_memory(to_uint8(values, "range"), values)
    assert to_uint8(np.array([[True, False]])).tolist() == [[255, 0]]


def test_large_pictures_are_scaled_by_a_sample() -> None:
    values = np.full((4, SAMPLED), 1023, np.uint16)
    assert to_uint8(values).min() == 255


@pytest.mark.parametrize("depth", ["", "7", "33", "12.0", "-8", "auto ", "²", "AUTO"])
def test_unknown_rules_are_refused(depth: str) -> None:
    with pytest.raises(InputError, match="expected auto, full, range or the bits"):
        check_depth(depth)


def test_numbers_that_are_not_real_are_refused() -> None:
    with pytest.raises(InputError, match="complex128"):
        to_uint8(np.zeros((2, 2), complex))

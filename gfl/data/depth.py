"""Pictures of more than 8 bits a channel, or of floats, into the 8 bits that a model takes. NumPy only.

`--depth` and `gfl.load` name the rule by one of these words:

- auto: whole numbers from 0 on are shifted from the fewest of 8, 10, 12, 14 or 16 bits that hold all but one value in
  a thousand, so that a sensor's 12 bits in a 16-bit file are not read as black; floats within 0 to 1 are multiplied by
  255; all else is as 'range'. Full 16 bits come out as the reference's reader has them (OpenCV's IMREAD_COLOR of PNG).
- full: from the least and the greatest number that the type holds; floats from 0 to 1.
- range: from the values of the picture that only one in a hundred is below or above: these become 0 and 255.
- 8 to 32: from so many bits, the same for all pictures, as a sensor has them; 12 makes 4095 white.

Values beyond what becomes 0 and 255 are cut off there, never wrapped around. Pictures of 8 bits are never changed.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError

DEPTHS = ("auto", "full", "range")
FEWEST_BITS, MOST_BITS = 8, 32
SENSOR_BITS = 16  # the most that a sensor's numbers have
SAMPLED = 1_000_000  # values, about, that the rules 'auto' and 'range' look at in a large picture
BLOCK = 4_000_000  # values that are scaled at a time: temporary copies are of float64
BRIGHTEST = 0.999  # share of the values that 'auto' keeps below white; a sensor's hot pixels are fewer
DARK, LIGHT = 0.01, 0.99  # shares of the values that 'range' makes 0 and 255

Numbers = NDArray[np.float64]


def check_depth(depth: str) -> str:
    """The name of a rule; raises InputError for anything else."""
    is_bits = isinstance(depth, str) and re.fullmatch("[0-9]{1,2}", depth) and FEWEST_BITS <= int(depth) <= MOST_BITS
    if depth not in DEPTHS and not is_bits:
        raise InputError(
            f"got the depth {depth!r}, expected {', '.join(DEPTHS)} or the bits of a channel ('{FEWEST_BITS}' to "
            f"'{MOST_BITS}', as text); omit it for the default (auto)"
        )
    return depth


def to_uint8(array: NDArray[np.generic], depth: str = "auto") -> NDArray[np.uint8]:
    """The values of a picture, of any shape and real type, scaled to uint8 by a rule of this file's head.

    An array of uint8 is returned as it is; of booleans, True is 255. Numbers that are not finite count for no rule:
    NaN becomes 0. Raises InputError for an unknown rule, and for complex numbers and objects.
    """
    check_depth(depth)
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    if array.dtype == np.bool_:
        return np.where(array, np.uint8(255), np.uint8(0))
    if array.dtype.kind not in "uif":
        raise InputError(f"got a picture of {array.dtype}, expected integers or floats; convert it to uint8")
    low, high = _limits(array, depth)
    return _scale(array, low, high)


def _limits(array: NDArray[np.generic], depth: str) -> tuple[float, float]:
    """The value that becomes 0, and the one from which on all become 255."""
    if depth == "full":
        if array.dtype.kind == "f":
            return 0.0, 1.0
        limits = np.iinfo(array.dtype.str)
        return float(limits.min), float(limits.max)
    if depth not in DEPTHS:
        return 0.0, float(2 ** int(depth) - 1)
    values = _finite_sample(array)
    if values.size == 0:
        return 0.0, 1.0
    least = values.min()
    if depth == "auto" and least >= 0:
        if array.dtype.kind == "f" and values.max() <= 1:
            return 0.0, 1.0
        bits = bits_of(float(np.quantile(values, BRIGHTEST, method="higher")))
        if bits <= SENSOR_BITS and bool((values == np.floor(values)).all()):
            return 0.0, float(2**bits - 1)
    low, high = (float(value) for value in np.quantile(values, (DARK, LIGHT)))
    if low == high:  # nearly all values are one: the rest decides
        low, high = float(least), float(values.max())
    return (low, high) if low < high else (min(low, 0.0), max(high, 1.0))


def bits_of(value: float) -> int:
    """The fewest of 8, 10, 12, ... bits that hold a whole number."""
    needed = int(value).bit_length()
    return max(FEWEST_BITS, needed + needed % 2)


def _finite_sample(array: NDArray[np.generic]) -> Numbers:
    """The finite values of some rows, spread over the picture."""
    rows = array[:: max(1, array.size // SAMPLED)] if array.ndim else array.reshape(1)
    values = rows.astype(np.float64).reshape(-1)
    return values[np.isfinite(values)]


def _scale(array: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Straight from low to high onto 0 to 255, cut off beyond.

    From 0 and a white of whole bits on, each of the 256 levels takes equally many values (as a shift does, and
    OpenCV); else the nearest level is taken.
    """
    levels = np.empty(array.shape, np.uint8)
    flat, scaled = array.reshape(-1), levels.reshape(-1)
    shifts = low == 0 and high >= 255 and float(high + 1).is_integer() and (int(high) + 1) & int(high) == 0
    for start in range(0, flat.size, BLOCK):
        values = flat[start : start + BLOCK].astype(np.float64)
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        values = values * (256 / (high + 1)) if shifts else (values - low) * (255 / (high - low)) + 0.5
        scaled[start : start + BLOCK] = np.clip(values, 0, 255).astype(np.uint8)
    return levels

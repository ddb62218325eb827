"""Limits of settings: what a value's type cannot say."""

from __future__ import annotations

import math

ANY = math.inf  # no upper limit, but finite


def require(config: object, *, knobs: bool = False, **limits: tuple[float, float]) -> None:
    """Raise ValueError for a field, by its name, that is not a finite number between its limits; None is no number.

    knobs: whether the fields are set by knobs, their names in capitals; else they are named as a run file binds them.
    """
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            spelt = name.upper() if knobs else f"{type(config).__name__}.{name}"
            wanted = f"at least {low:g}" if high == ANY else f"a number from {low:g} to {high:g}"
            raise ValueError(f"{spelt}={value}: expected {wanted}")

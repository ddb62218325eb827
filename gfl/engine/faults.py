"""When a run ends before its time: policies that judge the numbers of its steps, which the log writes.

A policy reads values on the host, after the log has copied and written them, and raises InputError. Policies that judge
evaluations (early stopping) belong here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from gfl.errors import InputError

BAD_STEPS = 20  # in a row without finite numbers, under a loss scale: it skips such steps, but not for ever


class StepNumbers(NamedTuple):
    """The numbers of a step by which a policy judges it, averaged over ranks."""

    step: int  # from 1
    lr: float
    loss: float
    skipped: float  # steps that the loss scale has skipped so far


class Divergence:
    """Ends a run whose loss or gradients are not finite: at once, or under a loss scale after BAD_STEPS in a row.

    loss_scale: whether the run has one, which skips steps with such gradients.
    """

    def __init__(self, *, loss_scale: bool) -> None:
        self._tolerated = BAD_STEPS if loss_scale else 0
        self._bad_steps = 0  # in a row
        self._skipped = math.inf  # of the step before; not known before the first

    def check(self, steps: Iterable[StepNumbers]) -> None:
        """Judge further steps, in order. Raises InputError at the first bad one that is not tolerated."""
        for step in steps:
            is_skipped, self._skipped = step.skipped > self._skipped, step.skipped
            is_finite = math.isfinite(step.loss)
            self._bad_steps = 0 if is_finite and not is_skipped else self._bad_steps + 1
            if self._bad_steps > self._tolerated:
                what = "the gradients are not numbers" if is_finite else "the loss is not a number"
                raise InputError(
                    f"{what} at step {step.step} (lr {step.lr:.2g}); "
                    f"lower LR (it is for 16 images), raise WARMUP_STEPS, set CLIP, or lower LOSS_SCALE"
                )

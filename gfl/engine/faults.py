"""When a run ends before its time: policies that judge the numbers of its steps, which the log writes.

A policy reads values on the host, after the log has copied and written them, and raises InputError. Policies that judge
evaluations (early stopping) belong here too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from gfl.errors import InputError

MANY = 64  # pictures after which a run need not go on to its first epoch's end to say that most cannot be read
BAD_STEPS = 20  # in a row without finite numbers, under a loss scale: it skips such steps, but not for ever


class StepNumbers(NamedTuple):
    """The numbers of a step by which a policy judges it, averaged over ranks."""

    step: int  # from 1
    lr: float
    loss: float
    skipped: float  # steps that the loss scale has skipped so far


class Learning:
    """Ends a run that cannot learn: nothing to read, more that fails than is read, or losses that all are 0."""

    def __init__(self) -> None:
        self._only_zeros = True

    def check(self, steps: Iterable[StepNumbers], read: int, failed: int, example: str, *, epoch_ended: bool) -> None:
        """Judge what came since the start; to be called with further steps, and at each epoch's end.

        read, failed: pictures so far that could be read and that could not. example: why one of them could not.
        Raises InputError.
        """
        for step in steps:
            self._only_zeros &= step.loss == 0
        tried = read + failed
        if failed * 2 > tried and (epoch_ended or tried >= MANY):
            what = "none of" if not read else "fewer than half of"
            raise InputError(
                f"{what} the {tried:,} pictures tried could be read ({failed:,} failed; {example}); "
                "mend or remove them: `python -m gfl.data check --read_pictures` names all"
            )
        if epoch_ended and self._only_zeros and tried:
            raise InputError(
                "every loss of the first epoch was exactly 0: there is nothing to learn from; check the boxes with "
                "`python -m gfl.data check`"
            )


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
                last = "set CLIP, or lower LOSS_SCALE" if self._tolerated else "or set CLIP"
                raise InputError(
                    f"{what} at step {step.step} (lr {step.lr:.2g}); "
                    f"lower LR (it is for 16 images), raise WARMUP_STEPS, {last}"
                )

"""Which numbers of its steps end a run, and what it then says."""

from __future__ import annotations

import math

import pytest

from gfl.engine.faults import BAD_STEPS, Divergence, Learning, StepNumbers
from gfl.errors import InputError

MEND = r"\(lr 0.005\); lower LR \(it is for 16 images\), raise WARMUP_STEPS, "


def steps(losses: list[float], skipped: list[float] | None = None) -> list[StepNumbers]:
    counts = skipped or [0.0] * len(losses)
    return [StepNumbers(number, 0.005, *pair) for number, pair in enumerate(zip(losses, counts, strict=True), start=1)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_without_a_loss_scale_the_first_bad_loss_ends_the_run(bad: float) -> None:
    with pytest.raises(InputError, match=rf"the loss is not a number at step 2 {MEND}or set CLIP"):
        Divergence(loss_scale=False).check(steps([1.0, bad, 1.0]))


def test_a_loss_scale_is_given_its_time_and_a_good_step_starts_it_anew() -> None:
    policy = Divergence(loss_scale=True)
    for losses in ([math.nan] * BAD_STEPS, [1.0], [math.nan] * BAD_STEPS):  # as the log hands them over
        policy.check(steps(losses))
    with pytest.raises(InputError, match="the loss is not a number at step 1 "):
        policy.check(steps([math.nan]))


def test_steps_that_are_skipped_count_although_their_loss_is_finite() -> None:
    count = BAD_STEPS + 2  # whether the first was skipped is not known
    expected = f"the gradients are not numbers at step {count} {MEND}set CLIP, or lower LOSS_SCALE"
    with pytest.raises(InputError, match=expected):
        Divergence(loss_scale=True).check(steps([1.0] * count, [float(number) for number in range(count)]))


def test_steps_skipped_before_a_run_was_resumed_do_not_count() -> None:
    Divergence(loss_scale=False).check(steps([1.0] * 3, [7.0] * 3))


# ---- runs that cannot learn ----


def learn(losses: list[float], read: int, failed: int, *, epoch_ended: bool) -> None:
    Learning().check(steps(losses), read, failed, "a.jpg: not there", epoch_ended=epoch_ended)


def test_a_run_that_reads_nothing_or_less_than_half_is_ended() -> None:
    with pytest.raises(InputError, match=r"none of the 8 pictures tried could be read \(8 failed; a.jpg: not there\)"):
        learn([1.0], 0, 8, epoch_ended=True)
    with pytest.raises(InputError, match="fewer than half of the 8 pictures"):
        learn([1.0], 3, 5, epoch_ended=True)
    with pytest.raises(InputError, match="fewer than half of the 100 pictures"):
        learn([1.0], 40, 60, epoch_ended=False)  # no need to wait for the end of a long epoch
    learn([1.0], 3, 5, epoch_ended=False)
    learn([1.0], 4, 4, epoch_ended=True)


def test_a_run_whose_losses_all_are_0_is_ended_after_an_epoch() -> None:
    learn([0.0, 0.0], 4, 0, epoch_ended=False)
    learn([0.0, 0.1], 4, 0, epoch_ended=True)
    with pytest.raises(InputError, match="every loss of the first epoch was exactly 0"):
        learn([0.0, 0.0], 4, 0, epoch_ended=True)

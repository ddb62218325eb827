"""How long a run is, and what of its schedule is cut, warned of and said when it goes on."""

from __future__ import annotations

import pytest

from gfl.engine.optim import learning_rate
from gfl.engine.schedule import RunLength, changed_length, fit_schedule, rate_at, run_length
from gfl.settings import OptimConfig, RunConfig


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(12, 0, (120, 12)), (12, 35, (35, 4)), (12, 120, (120, 12)), (2, 35, (35, 4)), (2, 40, (40, 4))],
)
def test_a_run_is_as_long_as_max_steps_or_else_as_epochs(
    epochs: int, max_steps: int, expected: tuple[int, int]
) -> None:
    assert run_length(RunConfig(epochs=epochs, max_steps=max_steps), steps_an_epoch=10) == expected


@pytest.mark.parametrize(("steps", "expected"), [(10_000, 500), (2_500, 500), (2_499, 499), (48, 9), (3, 0)])
def test_a_warm_up_takes_a_fifth_of_the_run_at_most(steps: int, expected: int) -> None:
    fitted, notes = fit_schedule(OptimConfig(), RunLength(steps, 12))
    assert fitted.warmup_steps == expected
    assert bool(notes) == (expected < 500)


@pytest.mark.parametrize(
    ("ema", "steps", "expected"),
    [
        (0.999, 6000, 0.999),
        (0.999, 1800, 0.9966),
        (0.9998, 90_000, 0.9998),
        (0.9998, 12, 0.9),
        (0.9, 1, 0.9),
        (0.0, 48, 0.0),
    ],
)
def test_weights_are_averaged_over_a_sixth_of_the_run_at_most(ema: float, steps: int, expected: float) -> None:
    fitted, notes = fit_schedule(OptimConfig(warmup_steps=0, schedule="cosine", ema=ema), RunLength(steps, 12))
    assert fitted.ema == expected
    assert [f"EMA = {ema:g} is cut to {expected:g}" in note for note in notes] == [True] * (ema != expected)


@pytest.mark.parametrize(
    ("decays", "epochs", "words"),
    [
        ((8, 11), 12, None),
        ((0.67, 0.92), 1, None),
        ((8, 11), 11, "not all of it comes before the run ends, after epoch 11"),
        ((8, 11), 6, "not all of it comes"),
        ((8, 11), 100, "over after 11% of the run, and the rest runs at 0.01 of the first rate"),
        ((), 12, None),
    ],
)
def test_decays_beyond_the_run_or_far_before_its_end_are_warned_of(
    decays: tuple[float, ...], epochs: int, words: str | None
) -> None:
    notes = fit_schedule(OptimConfig(warmup_steps=0, decay_epochs=decays), RunLength(1000, epochs))[1]
    assert bool(notes) == (words is not None)
    if words is not None:
        assert words in notes[0]
        assert "DECAY_EPOCHS = (0.67, 0.92)" in notes[0]
    assert fit_schedule(OptimConfig(warmup_steps=0, schedule="cosine"), RunLength(1000, epochs))[1] == ()


def test_shares_decay_where_epochs_of_their_size_do() -> None:
    shares, epochs = (OptimConfig(warmup_steps=0, decay_epochs=decays) for decays in ((0.75, 0.9), (9, 18)))
    rates = [learning_rate(shares, 16, 1, epoch=e, progress=e / 20) for e in range(20)]
    assert [rates.index(rate) for rate in sorted(set(rates), reverse=True)] == [0, 15, 18]
    assert learning_rate(epochs, 16, 1, epoch=9, progress=0.45) == pytest.approx(0.001)


@pytest.mark.parametrize("decays", [(0,), (1.5,), (-3,), (8, 0.0)])
def test_decays_that_are_neither_epochs_nor_shares_are_refused(decays: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"DECAY_EPOCHS=.* expected whole epochs, or shares"):
        OptimConfig(decay_epochs=decays)


def test_a_changed_length_tells_what_the_rate_does() -> None:
    optim = OptimConfig(lr=0.016, warmup_steps=0, schedule="cosine", final_lr=0.0)
    before, now = (RunConfig(optim=optim, batch_size=16, epochs=epochs) for epochs in (6, 12))
    assert changed_length(before, before, 60, 6, 6.0) == ""
    said = changed_length(before, now, 60, 6, 6.0)
    assert said.startswith("EPOCHS 6 -> 12: the rate would have been 0 here and goes on at 0.008 (cosine")
    assert rate_at(now, 60, 6, 6.0) == pytest.approx(0.008)

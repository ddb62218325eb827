"""How long a run is, and a schedule that fits its length."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from gfl.engine.optim import learning_rate
from gfl.settings import OptimConfig, RunConfig

WARMUP_SHARE = 0.2  # of the run's steps, at most: a longer warm-up would be the run
# Averaged weights are those of the last 1 / (1 - EMA) steps or so. Where that is more of the run than this share, they
# are behind what the run has learned; a few steps' average always is young enough.
AVERAGED_SHARE, FEW = 1 / 6, 10
EARLY = 0.5  # share of the run before which a last decay is worth a warning: the rest learns next to nothing


class RunLength(NamedTuple):
    """How long a run is."""

    steps: int  # in all; with several short sides the epochs may differ by a step or two
    epochs: int  # that it goes through, the last one perhaps in part


def run_length(cfg: RunConfig, steps_an_epoch: int) -> RunLength:
    """MAX_STEPS where it is given, or else EPOCHS."""
    if cfg.max_steps:
        return RunLength(cfg.max_steps, -(-cfg.max_steps // steps_an_epoch))
    return RunLength(cfg.epochs * steps_an_epoch, cfg.epochs)


def fit_schedule(cfg: OptimConfig, length: RunLength) -> tuple[OptimConfig, tuple[str, ...]]:
    """The schedule with a warm-up and an average that fit a run of this length, and what a user should know of it.

    >>> fitted, notes = fit_schedule(OptimConfig(warmup_steps=100, schedule="cosine"), RunLength(steps=48, epochs=6))
    >>> fitted.warmup_steps, notes
    (9, ('WARMUP_STEPS = 100 is cut to 9, a fifth of the 48 steps of this run',))
    """
    notes: list[str] = []
    most = int(WARMUP_SHARE * length.steps)
    if cfg.warmup_steps > most:
        notes.append(
            f"WARMUP_STEPS = {cfg.warmup_steps} is cut to {most}, a fifth of the {length.steps:,} steps of this run"
        )
        cfg = replace(cfg, warmup_steps=most)
    span = max(FEW, AVERAGED_SHARE * length.steps)
    if cfg.ema > 1 - 1 / span:
        shorter = math.floor((1 - 1 / span) * 1e4) / 1e4
        notes.append(
            f"EMA = {cfg.ema:g} is cut to {shorter:g}, the average of about {span:,.0f} steps, of {length.steps:,} in "
            "this run"
        )
        cfg = replace(cfg, ema=shorter)
    if cfg.schedule == "steps" and cfg.decay_epochs:
        given, mend = (
            f"DECAY_EPOCHS = {cfg.decay_epochs}",
            "shares of the run fit any length: DECAY_EPOCHS = (0.67, 0.92)",
        )
        shares = [decay if decay < 1 else decay / length.epochs for decay in cfg.decay_epochs]
        if max(shares) >= 1:
            notes.append(f"{given}: not all of it comes before the run ends, after epoch {length.epochs}; {mend}")
        elif max(shares) < EARLY:
            rate = f"{0.1 ** len(shares):g} of the first rate"
            notes.append(f"{given} is over after {max(shares):.0%} of the run, and the rest runs at {rate}; {mend}")
    return cfg, tuple(notes)


def rate_at(cfg: RunConfig, step: int, epoch: int, epochs_done: float) -> float:
    """The learning rate of the step that comes after `step` steps, where `epochs_done` epochs are done."""
    progress = step / cfg.max_steps if cfg.max_steps else epochs_done / cfg.epochs
    return learning_rate(cfg.optim, cfg.batch_size, step, epoch, progress)


def changed_length(before: RunConfig, now: RunConfig, step: int, epoch: int, epochs_done: float) -> str:
    """What the rate does where a run goes on with another length than before; empty where it has the same."""
    changes = [
        f"{name.upper()} {getattr(before, name)} -> {getattr(now, name)}"
        for name in ("epochs", "max_steps")
        if getattr(before, name) != getattr(now, name)
    ]
    if not changes:
        return ""
    old, new = (rate_at(cfg, step, epoch, epochs_done) for cfg in (before, now))
    shape = (
        "cosine over the new length" if now.optim.schedule == "cosine" else f"a tenth after {now.optim.decay_epochs}"
    )
    return f"{', '.join(changes)}: the rate would have been {old:.3g} here and goes on at {new:.3g} ({shape})"

"""Optimisers, the learning rate of a step, and the loss scale: torch's fused kernels, told what to do by tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from gfl.errors import InputError
from gfl.settings import OptimConfig


def make_optimiser(cfg: OptimConfig, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Fused SGD or AdamW. Momentum exists as zeros before step 1, so that a skipped first step leaves no rubbish."""
    parameters = list(parameters)
    vectors = [p for p in parameters if p.ndim < 2]
    matrices = [p for p in parameters if p.ndim >= 2]
    groups = [
        {"params": matrices, "weight_decay": cfg.weight_decay},
        {"params": vectors, "weight_decay": cfg.weight_decay if cfg.decay_vectors else 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=cfg.momentum, fused=True)
    for parameter in parameters:
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, object]) -> None:
    """Put an optimiser's saved state back; momentum and weight decay stay as they are now set.

    Raises InputError when it is the state of another optimiser.
    """
    groups: list[dict[str, object]] = saved["param_groups"]  # type: ignore[assignment]  # as torch saved it
    if [group.keys() for group in groups] != [group.keys() for group in optimiser.param_groups]:
        raise InputError(
            f"the run's last.pt holds the state of another optimiser than {type(optimiser).__name__}, which OPTIMIZER "
            "names now; --resume goes on with the same one: take the change back, or start a run of its own"
        )
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(saved)
    for group, kept in zip(optimiser.param_groups, settings, strict=True):
        group.update(kept)


def learning_rate(cfg: OptimConfig, batch_size: int, step: int, epoch: int, progress: float) -> float:
    """Learning rate of optimiser step `step` (from 0) in epoch `epoch`; progress in [0,1] is the share of the run done.

    lr is for 16 images and scales linearly; warm-up multiplies whatever the schedule says (reference.md, Recipe).
    """
    rate = cfg.lr * batch_size / 16.0
    if cfg.schedule == "steps":
        rate *= 0.1 ** sum(epoch >= decay for decay in cfg.decay_epochs)
    else:
        rate *= cfg.final_lr + (1.0 - cfg.final_lr) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    if step < cfg.warmup_steps:
        rate *= 1.0 - (1.0 - step / cfg.warmup_steps) * (1.0 - cfg.warmup_start)
    return rate


class LossScale:
    """Static or dynamic loss scale in tensors: no step reads it on the host."""

    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000  # of the dynamic scale, as torch.amp and Apex

    def __init__(self, setting: float | str, device: torch.device) -> None:
        self.dynamic = setting == "dynamic"
        start = 65536.0 if self.dynamic else setting  # of the dynamic scale, as torch.amp and Apex
        if isinstance(start, str) or not start > 0:
            raise InputError(f"LOSS_SCALE = {setting!r}: expected 'dynamic' or a positive number, e.g. 128.0")
        self.scale = torch.full((), start, device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)
        self.found_inf = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide the gradients by the scale in place; found_inf becomes 1 where any is not finite."""
        self.found_inf.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_inf, self.scale.reciprocal())
        self.skipped += self.found_inf

    def update(self) -> None:
        """After the step: a dynamic scale halves on overflow and doubles after a run of good steps."""
        if self.dynamic:
            torch._amp_update_scale_(self.scale, self.growth, self.found_inf, self.GROWTH, self.BACKOFF, self.INTERVAL)

    def state_dict(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "growth": self.growth, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)

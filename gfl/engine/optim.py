"""Optimisers, the learning rate of a step, and the loss scale.

torch's fused kernels read the overflow flag on the device, so that no step waits for the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor

from gfl.errors import InputError
from gfl.model.detector import identity
from gfl.settings import OptimConfig

Reduce: TypeAlias = Callable[[Tensor], Tensor]  # a scalar of this rank -> the scalar over all ranks


def make_optimiser(cfg: OptimConfig, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """torch's fused SGD or AdamW, with weight decay as `cfg` says; the learning rate is set anew each step.

    SGD's momentum is made as zeros before step 1: a fused kernel that skips the first step would leave it unset.
    """
    parameters = list(parameters)
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    decays = ((matrices, cfg.weight_decay), (vectors, cfg.weight_decay if cfg.decay_vectors else 0.0))
    groups = [{"params": members, "weight_decay": decay} for members, decay in decays if members]
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=cfg.momentum, fused=True)
    for parameter in parameters:
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def restore_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, object]) -> None:
    """Load an optimiser's saved state; momentum and weight decay keep the values of this run's settings.

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
    for parameter, state in optimiser.state.items():
        for name, value in state.items():  # fused kernels need momentum in the memory format of the weights
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
    for group, kept in zip(optimiser.param_groups, settings, strict=True):
        group.update(kept)


def learning_rate(cfg: OptimConfig, batch_size: int, step: int, epoch: int, progress: float) -> float:
    """The learning rate of one optimiser step.

    Args:
        cfg: the schedule; its `lr` is for 16 images and is scaled linearly to `batch_size`.
        batch_size: images of an optimiser step, over all ranks.
        step: optimiser steps done before this one.
        epoch: epochs done; read by the schedule 'steps'.
        progress: share of the run that is done, 0..1; read by 'cosine', and by 'steps' whose decays are shares.

    Returns:
        The rate of the schedule, multiplied by the warm-up's factor during the first `cfg.warmup_steps` steps.

    Reference: Goyal et al., Accurate, Large Minibatch SGD, 2017 (scaling and warm-up); Loshchilov, Hutter, SGDR, 2017.

    >>> cfg = OptimConfig(lr=0.01, warmup_steps=0, decay_epochs=(8, 11))
    >>> [round(learning_rate(cfg, 8, step=1000, epoch=epoch, progress=0.5), 6) for epoch in (0, 8, 11)]
    [0.005, 0.0005, 5e-05]
    """
    rate = cfg.lr * batch_size / 16.0
    if cfg.schedule == "steps":
        rate *= 0.1 ** sum(progress >= decay if decay < 1 else epoch >= decay for decay in cfg.decay_epochs)
    else:
        rate *= cfg.final_lr + (1.0 - cfg.final_lr) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    if step < cfg.warmup_steps:
        rate *= 1.0 - (1.0 - step / cfg.warmup_steps) * (1.0 - cfg.warmup_start)
    return rate


class LossScale:
    """A static or dynamic loss scale held in tensors on the device: no step reads it on the host.

    Args:
        setting: a positive number, or 'dynamic'.
        device: where the scale and its counters live.
        reduce_overflow: combines the overflow flag over ranks, so that all skip a step or none does. It is the
            maximum, not the sum: torch_npu's fused SGD skips where the flag `found_inf` is exactly 1.

    Reference: Micikevicius et al., Mixed Precision Training, 2018.

    >>> scale = LossScale(128.0, torch.device("cpu"))
    >>> gradients = [torch.tensor([256.0, 64.0])]  # of the scaled loss
    >>> scale.unscale(gradients)
    >>> gradients[0].tolist(), scale.found_inf.item()
    ([2.0, 0.5], 0.0)
    """

    # Of the dynamic scale, as in torch.amp and Apex: INTERVAL steps without overflow double it.
    START, GROWTH, BACKOFF, INTERVAL = 65536.0, 2.0, 0.5, 2000

    def __init__(self, setting: float | str, device: torch.device, reduce_overflow: Reduce = identity) -> None:
        self.setting, self.reduce_overflow = setting, reduce_overflow
        self.dynamic = setting == "dynamic"
        self.scale = torch.full((), self.START if self.dynamic else float(setting), device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)  # steps since the last overflow
        self.found_inf = torch.zeros((), device=device)  # 1 where this step overflowed, on any rank
        self.skipped = torch.zeros((), device=device)  # steps skipped so far

    def backward(self, total: Tensor, *, last: bool = True) -> None:
        """Add the gradients of the scaled loss to `.grad`; last: whether `unscale` and the optimiser's step follow."""
        torch.autograd.backward(total * self.scale)

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide the gradients by the scale in place, and set `found_inf` to 1 if any is not finite on any rank."""
        self.found_inf.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_inf, self.scale.reciprocal())
        self._count_skipped()

    def update(self) -> None:
        """After the optimiser's step: a dynamic scale halves on overflow and doubles after INTERVAL good steps."""
        if self.dynamic:
            torch._amp_update_scale_(self.scale, self.growth, self.found_inf, self.GROWTH, self.BACKOFF, self.INTERVAL)

    def without_casts(self) -> AbstractContextManager[None]:
        """A context in which only the precision policy casts. Nothing to do here; Apex's patches are switched off."""
        return nullcontext()

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint keeps, in values that torch.load(weights_only=True) takes."""
        return {"setting": self.setting, "skipped": self.skipped, "scale": self.scale, "growth": self.growth}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Load the count of skipped steps, and the scale itself where it was saved under the same setting."""
        self._restore(state, ("skipped",))
        if state.get("setting") == self.setting:
            self._restore(state, ("scale", "growth"))

    def _restore(self, state: Mapping[str, object], names: Sequence[str]) -> None:
        for name in names:
            value = state.get(name)
            if isinstance(value, Tensor):
                getattr(self, name).copy_(value)

    def _count_skipped(self) -> None:
        self.found_inf.copy_(self.reduce_overflow(self.found_inf))
        self.skipped += self.found_inf

"""Optimisers, the learning rate of a step, and the loss scale: torch's fused kernels, told what to do by tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

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
    for parameter, state in optimiser.state.items():
        for name, value in state.items():  # fused kernels walk memory: momentum lies as the weights of this device do
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
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


def own(found_inf: Tensor) -> Tensor:
    """The `share` of a single device."""
    return found_inf


class LossScale:
    """Static or dynamic loss scale in tensors: no step reads it on the host.

    setting: a positive number, or 'dynamic'. share: found_inf () -> its maximum over the ranks, so that all skip a
    step or none does. A maximum, not a sum: torch_npu's fused SGD skips where found_inf is exactly 1.
    """

    START, GROWTH, BACKOFF, INTERVAL = 65536.0, 2.0, 0.5, 2000  # of the dynamic scale, as torch.amp and Apex

    def __init__(self, setting: float | str, device: torch.device, share: Callable[[Tensor], Tensor] = own) -> None:
        self.setting, self.share = setting, share
        self.dynamic = setting == "dynamic"
        self.scale = torch.full((), self.START if self.dynamic else float(setting), device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)
        self.found_inf = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)

    def backward(self, total: Tensor, *, last: bool = True) -> None:
        """Add the gradients of the scaled loss to those that are there; last: before the optimiser's step."""
        torch.autograd.backward(total * self.scale)

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide the gradients by the scale in place; found_inf becomes 1 where any is not finite, on any rank."""
        self.found_inf.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_inf, self.scale.reciprocal())
        self._count_skipped()

    def update(self) -> None:
        """After the step: a dynamic scale halves on overflow and doubles after a run of good steps."""
        if self.dynamic:
            torch._amp_update_scale_(self.scale, self.growth, self.found_inf, self.GROWTH, self.BACKOFF, self.INTERVAL)

    def without_casts(self) -> AbstractContextManager[None]:
        """Within it everything is float32 that no policy casts; without an Apex that is so anyway."""
        return nullcontext()

    def state_dict(self) -> dict[str, object]:
        """Plain values and tensors, fit for torch.load(weights_only=True)."""
        return {"setting": self.setting, "skipped": self.skipped, "scale": self.scale, "growth": self.growth}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a saved state: the count, and the scale itself where it was saved under the same setting."""
        self._restore(state, ("skipped",))
        if state.get("setting") == self.setting:
            self._restore(state, ("scale", "growth"))

    def _restore(self, state: Mapping[str, object], names: Sequence[str]) -> None:
        for name in names:
            value = state.get(name)
            if isinstance(value, Tensor):
                getattr(self, name).copy_(value)

    def _count_skipped(self) -> None:
        self.found_inf.copy_(self.share(self.found_inf))
        self.skipped += self.found_inf

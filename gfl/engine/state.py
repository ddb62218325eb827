"""The state of a run and the one function with effects: a training step updates it in place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gfl.engine.apex import start_apex
from gfl.engine.module import DetectorModule, Loss, compiled
from gfl.engine.optim import LossScale, Reduce, make_optimiser, restore_optimiser
from gfl.engine.ranks import without_gradient_sync
from gfl.errors import InputError
from gfl.model.detector import identity
from gfl.model.structures import Batch
from gfl.settings import OptimConfig, RunConfig


@dataclass
class Cursor:
    """How far the run is."""

    epoch: int = 0  # epochs that are done
    batch: int = 0  # batches of the current epoch that are done
    step: int = 0  # optimiser steps that are done in all


@dataclass
class TrainState:
    """Everything that a step changes; `state_tree` turns it into what a checkpoint holds."""

    module: DetectorModule
    forward: Loss  # the module or its compiled form; over several ranks, in DistributedDataParallel
    optimiser: torch.optim.Optimizer
    loss_scale: LossScale | None  # None unless PRECISION is 'o1'
    ema: dict[str, Tensor]  # averaged trainable leaves; empty when EMA is off
    cursor: Cursor


def make_state(module: DetectorModule, cfg: RunConfig, reduce_overflow: Reduce = identity) -> TrainState:
    """The state at step 0; reduce_overflow: as in `LossScale`. Raises InputError as `start_apex` does."""
    optimiser = make_optimiser(cfg.optim, module.parameters())
    scale: LossScale | None = None
    if cfg.apex:
        scale = start_apex(module, optimiser, cfg.loss_scale, reduce_overflow)  # before DistributedDataParallel
    elif cfg.precision == "o1":
        scale = LossScale(cfg.loss_scale, module.device, reduce_overflow)
    ema = {path: p.detach().clone() for path, p in module.named_parameters()} if cfg.optim.ema else {}
    mode = cfg.compile if isinstance(cfg.compile, str) else None
    forward = compiled(module, mode=mode) if cfg.compile else module
    return TrainState(module, forward, optimiser, scale, ema, Cursor())


def step(state: TrainState, batches: Sequence[Batch], rate: float, cfg: OptimConfig) -> dict[str, Tensor]:
    """One optimiser step on the mean loss of the batches, with the learning rate `rate`; changes `state` in place.

    Returns {name: scalar on the device}: the loss and its parts, averaged over the batches, and `skipped`, the number
    of steps that the loss scale has skipped so far. Under a loss scale, a step with gradients that are not finite
    changes neither parameters, momentum nor averaged weights.
    """
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    totals: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, start=1):
        last = number == len(batches)
        with nullcontext() if last else without_gradient_sync(state.forward):
            total, metrics = state.forward(batch)
            for name, value in {"loss": total.detach(), **metrics}.items():
                totals[name] = totals.get(name, 0.0) + value / len(batches)
            total = total / len(batches)
            if state.loss_scale is None:
                torch.autograd.backward(total)
            else:
                state.loss_scale.backward(total, last=last)
    parameters = list(state.module.parameters())
    if state.loss_scale is not None:
        state.loss_scale.unscale([p.grad for p in parameters if p.grad is not None])
        state.optimiser.found_inf = state.loss_scale.found_inf  # type: ignore[attr-defined]  # read by fused kernels
    if cfg.clip:
        torch.nn.utils.clip_grad_norm_(parameters, cfg.clip)
    state.optimiser.step()
    state.optimiser.zero_grad()  # without arguments: that of Ascend's Apex takes none
    _update_ema(state, cfg.ema)
    totals["skipped"] = torch.zeros_like(totals["loss"])
    if state.loss_scale is not None:
        totals["skipped"] += state.loss_scale.skipped
        state.loss_scale.update()
    state.cursor.step += 1
    return totals


def without_casts(state: TrainState) -> AbstractContextManager[None]:
    """A context for an evaluation in float32, as after the run: Apex's casts are switched off within it."""
    return state.loss_scale.without_casts() if state.loss_scale is not None else nullcontext()


def averaged_leaves(state: TrainState) -> dict[str, Tensor]:
    """{path: tensor} of the model that is evaluated and shipped: the average of a leaf where there is one."""
    return {**state.module.leaves(), **state.ema}


def state_tree(state: TrainState) -> dict[str, object]:
    """The state as dicts of tensors and numbers, which torch.load(weights_only=True) takes."""
    return {
        "variables": {path: tensor.detach().contiguous() for path, tensor in state.module.leaves().items()},
        "ema": {path: tensor.contiguous() for path, tensor in averaged_leaves(state).items()} if state.ema else {},
        "optimiser": state.optimiser.state_dict(),
        "loss_scale": state.loss_scale.state_dict() if state.loss_scale else {},
        "cursor": vars(state.cursor).copy(),
    }


def copied(tree: Mapping[str, object]) -> dict[str, object]:
    """A tree of dicts and lists with its tensors copied to the CPU: what later steps change, this keeps."""
    return {key: _copied(value) for key, value in tree.items()}


def _copied(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value


def restore(state: TrainState, tree: Mapping[str, object]) -> None:
    """Load a `state_tree` in place. Raises InputError when it is of another model or optimiser, or lacks EMA."""
    with torch.no_grad():
        for name, target in (("variables", state.module.leaves()), ("ema", state.ema)):
            saved = _saved_tensors(tree, name, target)
            for path, tensor in target.items():
                tensor.copy_(saved[path])
    state.module.freeze()
    _require_same_parameters(state, tree["optimiser"])  # type: ignore[arg-type]  # as torch saved it
    restore_optimiser(state.optimiser, tree["optimiser"])  # type: ignore[arg-type]  # as torch saved it
    if state.loss_scale is not None and tree["loss_scale"]:  # empty: the run had none so far
        state.loss_scale.load_state_dict(tree["loss_scale"])  # type: ignore[arg-type]  # tensors by name
    state.cursor = Cursor(**tree["cursor"])  # type: ignore[arg-type]  # three integers by name


def _saved_tensors(tree: Mapping[str, object], name: str, target: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint's field `name`; InputError where it lacks one of `target`, or its shape differs."""
    saved = tree[name]
    if not isinstance(saved, dict):
        raise TypeError(f"checkpoint field {name!r} is {type(saved).__name__}, expected dict")
    for path, tensor in target.items():
        shape = tuple(saved[path].shape) if path in saved else "nothing"
        if shape != tuple(tensor.shape):
            raise InputError(
                f"the run's last.pt has {shape} as {name} {path}, expected {tuple(tensor.shape)}; --resume keeps "
                "the model, the classes and EMA of the run: take back what changes them, or start a run of its own "
                "with --checkpoint"
            )
    return saved


def _require_same_parameters(state: TrainState, saved: Mapping[str, list[Mapping[str, list[int]]]]) -> None:
    """InputError where the run trained other weights than now: the optimiser's state is a list without names."""
    before, now = (
        [len(group["params"]) for group in groups] for groups in (saved["param_groups"], state.optimiser.param_groups)
    )
    if before != now:
        raise InputError(
            f"the run's last.pt trains {sum(before)} weights, {sum(now)} are trained now; --resume keeps FREEZE and "
            "frozen_stages: take the change back, or start a run of its own with --checkpoint"
        )


def _update_ema(state: TrainState, decay: float) -> None:
    """ema += (1 - decay) * (parameter - ema), with a warm-up of the decay; nothing on a skipped step."""
    if not state.ema:
        return
    weight = 1.0 - decay * (1.0 - math.exp(-(state.cursor.step + 1) / 200.0))  # the first steps move fast
    averaged = list(state.ema.values())
    current = [parameter.detach() for parameter in state.module.parameters()]
    if state.loss_scale is None:
        torch._foreach_lerp_(averaged, current, weight)
    else:
        skipped = state.loss_scale.found_inf > 0
        moved = torch._foreach_lerp(averaged, current, weight)
        torch._foreach_copy_(averaged, [torch.where(skipped, *pair) for pair in zip(averaged, moved, strict=True)])

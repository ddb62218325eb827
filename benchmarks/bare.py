"""The convolutions of a training step alone, forward and backward: the time that a step cannot fall below."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from benchmarks.convolutions import LAYOUTS as LAYOUTS
from gfl.engine.state import step
from gfl.operators.fake_step import fake_batch, fake_state
from gfl.operators.trace import Op, OpTrace, Shaped
from gfl.settings import RunConfig
from gfl.shapes import Canvas

CONVOLUTIONS = ("convolution", "convolution_backward")
LEAST_S = 0.05  # a convolution is repeated for so long
Synchronise = Callable[[], None]


class Bare(NamedTuple):
    """Seconds of all convolutions of a step, each timed alone on random numbers."""

    by_layout: dict[str, float]  # all of them in one layout
    best: float  # each in the layout in which it is faster
    calls: int


def time_bare(
    cfg: RunConfig, canvas: Canvas, pictures: int, slots: int, device: torch.device, synchronise: Synchronise
) -> Bare:
    """Time every convolution of a step in each layout. synchronise: waits until the device is done."""
    alike: dict[str, list[Op]] = {}  # by what is done and the shapes and dtypes it is done to
    for op in convolutions(cfg, canvas, pictures, slots):
        alike.setdefault(f"{op.name} {op.arguments}", []).append(op)
    by_layout, best = dict.fromkeys(LAYOUTS, 0.0), 0.0
    for ops in alike.values():
        seconds = {name: _seconds(ops[0], layout, device, synchronise) for name, layout in LAYOUTS.items()}
        for name, value in seconds.items():
            by_layout[name] += len(ops) * value
        best += len(ops) * min(seconds.values())
    return Bare(by_layout, best, sum(map(len, alike.values())))


def convolutions(cfg: RunConfig, canvas: Canvas, pictures: int, slots: int) -> list[Op]:
    """The convolutions of a step on fake tensors, in order."""
    with FakeTensorMode():
        state, batch = fake_state(cfg, [canvas]), fake_batch(canvas, pictures, slots)
        with OpTrace() as trace:
            step(state, [batch], 0.0, cfg.optim)
    return [op for op in trace.ops if op.func.overloadpacket.__name__ in CONVOLUTIONS]


def _seconds(op: Op, layout: torch.memory_format, device: torch.device, synchronise: Synchronise) -> float:
    """Seconds of one call, the mean over LEAST_S after a call that is not counted."""

    def made(leaf: object) -> object:
        if not isinstance(leaf, Shaped):
            return leaf
        tensor: Tensor = torch.randn(leaf.shape, device=device).to(leaf.dtype)
        return tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor

    positional, by_keyword = tree_map(made, op.arguments)
    with torch.no_grad():
        op.func(*positional, **by_keyword)
        synchronise()
        calls, started = 0, time.perf_counter()
        while True:
            op.func(*positional, **by_keyword)
            synchronise()
            calls += 1
            elapsed = time.perf_counter() - started
            if elapsed >= LEAST_S:
                return elapsed / calls

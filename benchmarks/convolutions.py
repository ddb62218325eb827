"""The convolutions of a training step, each alone: what a step without anything else would take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.measure import Form, Sample, Timing
from gfl.engine.state import step
from gfl.operators.fake_step import RATE, fake_batch, fake_state
from gfl.operators.trace import Op, OpTrace, Shaped
from gfl.settings import RunConfig
from gfl.shapes import Canvas

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
LEAST_S = 0.02  # a sample repeats its call for so long
CPU = torch.device("cpu")
Pair = tuple[int, int]


class Layer(NamedTuple):
    """A convolution of a step, and which gradients its backward pass computes: of input, weight and bias."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    dtype: torch.dtype
    bias: bool
    stride: Pair
    padding: Pair
    gradients: tuple[bool, bool, bool] = (False, False, False)


def record(step: Callable[[], object]) -> Counter[Layer]:
    """The layers of one step, and how often each comes."""
    with OpTrace() as trace:
        step()
    return layers_of(trace.ops)


def record_fake(cfg: RunConfig, canvas: Canvas, pictures: int, boxes: int) -> Counter[Layer]:
    """The layers of a run's step at full size, in seconds: on tensors without values."""
    with FakeTensorMode():
        state, batch = fake_state(cfg, [canvas]), fake_batch(canvas, pictures, boxes)
        return record(partial(step, state, [batch], RATE, cfg.optim))


def layers_of(ops: Sequence[Op]) -> Counter[Layer]:
    """The convolutions of a trace; a forward pass is paired with the backward pass of the same sizes."""
    forward: Counter[Layer] = Counter()
    backward: Counter[Layer] = Counter()
    for op in ops:
        if op.func is torch.ops.aten.convolution.default:
            forward[_layer(op, first=0)] += 1
        elif op.func is torch.ops.aten.convolution_backward.default:
            backward[_layer(op, first=1)] += 1
    for layer, count in backward.items():
        forward[layer._replace(gradients=(False, False, False))] -= count
    if any(count < 0 for count in forward.values()):
        raise ValueError("more backward than forward passes of a convolution: the trace holds less than a step")
    return +forward + backward


def _layer(op: Op, first: int) -> Layer:
    """first: the place of the input among the arguments; a backward pass has the gradient of the output before it."""
    positional, _ = op.arguments  # type: ignore[misc]  # as OpTrace made it
    x, weight, bias, stride, padding = positional[first : first + 5]  # type: ignore[has-type]  # as above
    if not (isinstance(x, Shaped) and isinstance(weight, Shaped)):
        raise TypeError(f"{op.name} has no tensors in the places of input and weight")
    mask = tuple(positional[10]) if first else (False, False, False)  # type: ignore[has-type]  # as above
    # In a backward pass a bias is [channels], or [0] or None where there is none.
    has_bias = bias is not None and (not first or bool(bias and bias[0]))
    return Layer(x.shape, weight.shape, x.dtype, has_bias, tuple(stride), tuple(padding), mask)


def forms(layers: Counter[Layer], device: torch.device = CPU) -> list[Form]:
    """Each distinct layer in each layout, forward and backward, with nothing around it."""
    return [partial(time_layer, layer, layout, device) for layer in layers for layout in LAYOUTS]


def label(layer: Layer, layout: str) -> str:
    """The name of a layer's figure in a layout."""
    return f"{layout} {layer}"


def time_layer(layer: Layer, layout: str, device: torch.device = CPU) -> Sample:
    """Seconds of the layer; its tensors live only here, for those of all layers would fill the memory."""
    memory_format = LAYOUTS[layout]
    make = partial(torch.full, fill_value=0.01, dtype=layer.dtype, device=device)
    x = make(layer.input).contiguous(memory_format=memory_format)
    weight = make(layer.weight).contiguous(memory_format=memory_format)
    bias = make((layer.weight[0],)) if layer.bias else None
    stride, padding, mask = list(layer.stride), list(layer.padding), list(layer.gradients)

    def forward() -> torch.Tensor:
        return torch.conv2d(x, weight, bias, stride, padding)

    def timed(run: Callable[[], torch.Tensor | tuple[torch.Tensor, ...]]) -> float:
        return _seconds(run, partial(synchronise, device))

    with torch.no_grad():
        upstream = forward().fill_(0.01)
        sizes = [layer.weight[0]] if layer.bias else None
        backward = partial(
            torch.ops.aten.convolution_backward,
            *(upstream, x, weight, sizes, stride, padding, [1, 1], False, [0, 0], 1, mask),
        )
        seconds = timed(forward) + (timed(backward) if any(mask) else 0.0)
    return {label(layer, layout): seconds}


def synchronise(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _seconds(run: Callable[[], object], wait: Callable[[], None]) -> float:
    run()  # makes the kernel
    wait()
    started = before = time.perf_counter()
    seconds: list[float] = []
    while before - started < LEAST_S or not seconds:
        run()
        wait()
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    return median(seconds)


def bare_seconds(
    layers: Counter[Layer], timings: Mapping[str, Timing], layouts: Collection[str] = LAYOUTS.keys()
) -> float:
    """The sum over all layers, each in that of the layouts in which it is fastest."""
    return sum(
        count * min(timings[label(layer, layout)].median for layout in layouts) for layer, count in layers.items()
    )

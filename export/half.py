"""A float16 tree run in PyTorch on a CPU with the numbers of an accelerator: ONNX Runtime's CPU kernels hide them.

ONNX Runtime computes float16 convolutions on a CPU in float32 and may drop the casts between them, so that nothing
overflows there. PyTorch's own take a hundred times as long as float32. Here each convolution takes its float16
operands, sums in float32 and rounds once to float16, as NPUs and GPUs do; what lies between them runs in float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from export.samples import SampleBatch
from gfl.model.prepare import Prepared
from gfl.runtime.description import Arrays
from gfl.tensors.variables import flatten

CONVOLUTION: object = torch.conv2d
LARGEST = float(torch.finfo(torch.float16).max)  # 65504

RunPictures = Callable[[Prepared, SampleBatch], Arrays]


class Extreme(NamedTuple):
    """The largest magnitude that a float16 run met."""

    value: float
    tensor: str  # where: a convolution's weight by its path, with what of the convolution is meant

    def __str__(self) -> str:
        """Said of one that float16 cannot hold."""
        return f"{self.tensor} reaches {self.value:.3g} and float16 holds at most {LARGEST:.0f}"


class Float16Convolutions(TorchFunctionMode):
    """Inside it, convolutions of float16 operands sum in float32; it remembers the largest value that they met."""

    def __init__(self, paths: Mapping[int, str], largest: Extreme) -> None:
        """paths: of the weights, by their id(); largest: what was met before."""
        super().__init__()
        self.paths, self.largest = paths, largest

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run a function of PyTorch."""
        named = kwargs or {}
        if func is not CONVOLUTION or getattr(args[1], "dtype", None) != torch.float16:
            return func(*args, **named)
        path = self.paths.get(id(args[1]), "a weight without a name")
        wide = [widened(operand) for operand in args]
        outputs = func(*wide, **{name: widened(operand) for name, operand in named.items()})
        if not isinstance(outputs, Tensor):
            raise TypeError(f"a convolution gave a {type(outputs).__name__}, expected a tensor")
        # In this order: an infinite input was too large where it was made, before this convolution.
        self.largest = further(self.largest, wide[0], f"the input of the convolution with {path}")
        self.largest = further(self.largest, outputs, f"the output of the convolution with {path}")
        return outputs.half()


def widened(operand: object) -> object:
    """A float16 tensor in float32; anything else as it is."""
    return operand.float() if isinstance(operand, Tensor) and operand.dtype == torch.float16 else operand


def further(largest: Extreme, tensor: object, name: str) -> Extreme:
    """The larger of what was met before and what a tensor holds; the first one beyond float16 causes all others."""
    if largest.value > LARGEST or not isinstance(tensor, Tensor):
        return largest
    value = float(torch.stack(torch.aminmax(tensor)).abs().max())
    value = value if value == value else float("inf")  # NaN
    return Extreme(value, name) if value > largest.value else largest


class HalfRun:
    """A float16 tree on sample pictures, and the largest value inside it over all of them."""

    def __init__(self, prepared: Prepared, run: RunPictures) -> None:
        """run: the exported function in PyTorch."""
        self.prepared, self.run_pictures = prepared, run
        half = {path: leaf for path, leaf in flatten(prepared.tree).items() if leaf.dtype == torch.float16}
        self.paths = {id(leaf): path for path, leaf in half.items()}
        self.largest = Extreme(0.0, "nothing")
        for path, leaf in half.items():
            self.largest = further(self.largest, leaf.float(), path)

    def run(self, batch: SampleBatch) -> Arrays:
        """The outputs for a batch, without those of blanks."""
        with Float16Convolutions(self.paths, self.largest) as mode:
            outputs = self.run_pictures(self.prepared, batch)
        self.largest = mode.largest
        return outputs

    @property
    def overflows(self) -> bool:
        """Whether a value was larger than float16 holds."""
        return self.largest.value > LARGEST

"""The memory of a training step by estimate: added up from its tensors, which have shapes here and no values."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfl.engine.state import step
from gfl.operators.fake_step import RATE, fake_batch, fake_state
from gfl.settings import RunConfig
from gfl.shapes import Canvas

STEPS = 2  # the optimiser makes its state in the first


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its __init_subclass__ untyped
    """A context that counts the bytes of the tensors that were made within it and are still held."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.live = 0
        self.peak = 0  # the most at any time; may be set back to `live`
        self._sizes: dict[int, int] = {}  # of the storages that are held, by their addresses

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()  # views share one
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, storage._cdata).atexit = False

    def _release(self, address: int) -> None:
        self.live -= self._sizes.pop(address)


class StepMemory(NamedTuple):
    """Bytes that the tensors of a training step take."""

    variables: int  # parameters and buffers
    gradients: int
    optimiser: int  # its state, and the averaged weights
    activations: int  # that the forward pass leaves for the backward pass
    peak: int  # the most that is held at one time, all of the above and what is made in passing among it


def parts_of_step(cfg: RunConfig) -> int:
    """How many parts of an accumulated step have to be computed to see its peak: gradients stay from the second on."""
    return min(cfg.accumulate, 2)


def estimated_memory(cfg: RunConfig, canvas: Canvas, pictures: int, boxes: int) -> StepMemory:
    """What the tensors of a step take, without what kernels and allocators need beside them.

    cfg: with a precision that is no 'auto'; Apex and torch.compile are not followed. pictures: of one part of a step;
    boxes: slots of a picture.
    """
    cfg = replace(cfg, compile=False, apex=False)
    memory = LiveBytes()
    with FakeTensorMode(), memory:
        state, batch = fake_state(cfg, [canvas]), fake_batch(canvas, pictures, boxes)
        memory.peak = memory.live
        for _ in range(STEPS):
            step(state, [batch] * parts_of_step(cfg), RATE, cfg.optim)
        before = memory.live
        total, _ = state.forward(batch)
        activations = memory.live - before - bytes_of([total])
    held = [value for values in state.optimiser.state.values() for value in values.values()]
    return StepMemory(
        variables=bytes_of(state.module.leaves().values()),
        gradients=bytes_of(each for each in state.module.parameters() if each.requires_grad),
        optimiser=bytes_of(each for each in (*held, *state.ema.values()) if isinstance(each, Tensor)),
        activations=activations,
        peak=memory.peak,
    )


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors take together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

"""The trace of a piece of code: every ATen operator that it dispatches, those of the backward pass among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Allocations, and two views whose schema does not call them views.
COMPUTE_NOTHING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "_unsafe_view")


@dataclass(frozen=True)
class Shaped:
    """The dtype and shape of a tensor, in its place; for pytree a leaf, as the tensor was."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


MARKS = ("prim", "profiler")  # namespaces of what computes nothing, such as prim::device of fake tensors


class Op(NamedTuple):
    """One dispatched operator, with a `Shaped` in place of each tensor among its arguments and results."""

    func: OpOverload
    arguments: object  # (positional, by keyword)
    results: object

    @property
    def name(self) -> str:
        """Torch's name, e.g. 'aten::add.Tensor'."""
        return str(self.func.name())  # type: ignore[no-untyped-call]  # torch leaves it untyped

    @property
    def computes(self) -> bool:
        """Whether it is more than a view, a detach or a bare allocation."""
        return not self.func.is_view and self.func.overloadpacket.__name__ not in COMPUTE_NOTHING

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The dtypes of the tensors among the arguments and results."""
        leaves = tree_leaves((self.arguments, self.results))
        return tuple(leaf.dtype for leaf in leaves if isinstance(leaf, Shaped))


class OpTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its __init_subclass__ untyped
    """A context that records every operator dispatched within it; with fake tensors, inside their mode."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.ops: list[Op] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func.namespace in MARKS:
            return func(*args, **(kwargs or {}))
        # Before the call: an operator may change its arguments, and one that reads a value may fail.
        arguments = shaped((args, dict(kwargs or {})))
        result = func(*args, **(kwargs or {}))
        self.ops.append(Op(func, arguments, shaped(result)))
        return result


def shaped(values: object) -> object:
    """Nested containers with a `Shaped` in place of each tensor."""
    return tree_map(lambda leaf: Shaped(leaf.dtype, tuple(leaf.shape)) if isinstance(leaf, Tensor) else leaf, values)

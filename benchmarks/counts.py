"""Work counted rather than timed: ATen ops, host reads and multiply-accumulates of each part of a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

HOST_READ = "_local_scalar_dense"  # what .item(), bool(tensor) and the like come down to
# Allocation computes nothing; these two are views whose schema does not say so.
NOTHING = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "_reshape_alias")


class Ops(NamedTuple):
    """What a piece of code dispatched."""

    computing: int  # ops other than views, detach and empty
    host_reads: int


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its __init_subclass__ untyped
    """Counts the ATen ops under it by name, backward's too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.by_name: Counter[str] = Counter()
        self.host_reads = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: tuple[type, ...],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = func._schema.name.removeprefix("aten::")
        if name == HOST_READ:
            self.host_reads += 1
        elif not is_view(func) and name not in NOTHING:
            self.by_name[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def ops(self) -> Ops:
        return Ops(self.by_name.total(), self.host_reads)


def is_view(func: OpOverload) -> bool:
    """Whether an op returns its argument's memory unwritten (view, transpose, slice, detach, ...)."""
    return any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)


def ops_by_part(parts: Iterable[str]) -> dict[str, Ops]:
    """Run something that names each part when it is done; the ops of each."""
    found: dict[str, Ops] = {}
    before = Ops(0, 0)
    with OpCounter() as counter:
        for part in parts:
            now = counter.ops
            found[part] = Ops(now.computing - before.computing, now.host_reads - before.host_reads)
            before = now
    return found


def macs_by_part(parts: Iterable[str]) -> dict[str, float]:
    """As `ops_by_part`: the multiply-accumulates of convolutions and matrix products, backward's too."""
    found: dict[str, float] = {}
    before = 0
    with FlopCounterMode(display=False) as counter:
        for part in parts:
            now = counter.get_total_flops()
            found[part] = (now - before) / 2  # it counts a multiplication and an addition
            before = now
    return found

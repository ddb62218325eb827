"""Work counted rather than timed: ATen ops, host reads and multiply-accumulates of each part of a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch.utils.flop_counter import FlopCounterMode

from gfl.operators.trace import Op, OpTrace

HOST_READ = "_local_scalar_dense"  # what .item(), bool(tensor) and the like come down to


class Ops(NamedTuple):
    """What a piece of code dispatched."""

    computing: int  # ops other than views, detach and empty
    host_reads: int


def count(ops: Sequence[Op]) -> Ops:
    """The ops of a trace that compute something, and those that read from the device."""
    reads = [op.func.overloadpacket.__name__ == HOST_READ for op in ops]
    return Ops(sum(op.computes and not read for op, read in zip(ops, reads, strict=True)), sum(reads))


def ops_by_part(parts: Iterable[str]) -> dict[str, Ops]:
    """Run something that names each part when it is done; the ops of each."""
    found: dict[str, Ops] = {}
    counted = 0
    with OpTrace() as trace:
        for part in parts:
            found[part] = count(trace.ops[counted:])
            counted = len(trace.ops)
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

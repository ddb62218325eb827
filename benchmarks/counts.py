"""What a training step does, counted: ATen ops, host reads and multiply-accumulates of each of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch.utils.flop_counter import FlopCounterMode

from gfl.operators.trace import Op, OpTrace

HOST_READ = "_local_scalar_dense"  # the op behind .item(), bool(tensor) and the like


class Ops(NamedTuple):
    """Ops that a piece of code dispatched."""

    computing: int  # ops other than views, detach and empty
    host_reads: int


def count(ops: Sequence[Op]) -> Ops:
    """Count a trace's ops that compute something, and those that read from the device."""
    reads = [op.func.overloadpacket.__name__ == HOST_READ for op in ops]
    return Ops(sum(op.computes and not read for op, read in zip(ops, reads, strict=True)), sum(reads))


def ops_by_part(parts: Iterable[str]) -> dict[str, Ops]:
    """The ops of each part; `parts` does the work, and yields the name of each part when it is done."""
    ops: dict[str, Ops] = {}
    counted = 0
    with OpTrace() as trace:
        for part in parts:
            ops[part] = count(trace.ops[counted:])
            counted = len(trace.ops)
    return ops


def macs_by_part(parts: Iterable[str]) -> dict[str, float]:
    """As `ops_by_part`: multiply-accumulates of convolutions and matrix products, in backward too."""
    macs: dict[str, float] = {}
    before = 0
    with FlopCounterMode(display=False) as counter:
        for part in parts:
            now = counter.get_total_flops()
            macs[part] = (now - before) / 2  # a multiply-accumulate is counted as two operations
            before = now
    return macs

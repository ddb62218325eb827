"""Batches on their way to the device: the next one is copied on a stream of its own while a step computes."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Protocol, TypeAlias, TypeVar

import torch

from gfl.engine.device import to_device
from gfl.engine.memory import memory_errors
from gfl.model.structures import Batch
from gfl.shapes import Canvas

Self = TypeVar("Self")


class Loaded(Protocol):
    """A named tuple of a batch and what the host knows about it, as the loader delivers."""

    @property
    def batch(self) -> Batch: ...

    @property
    def canvas(self) -> Canvas: ...

    def _replace(self: Self, *, batch: Batch) -> Self: ...


Item = TypeVar("Item", bound=Loaded)


# A batch whose copy has begun, and the event of the copying stream that comes after it.
Sent: TypeAlias = tuple[Item, torch.Event]


def on_device(items: Iterator[Item], device: torch.device) -> Iterator[Item]:
    """The batches in their order, each on the device when the work that is queued next may use it.

    On a CPU they are there already. Elsewhere a batch is asked for, and its copy begun, before the one that precedes it
    is handed on: its step then computes beside the copy. Memory of the host that the loader may use again, once it is
    asked for the next batch, has been copied by then. Who stops half-way has asked for one batch more than were used.
    Raises InputError where the device has too little memory for two batches.
    """
    return items if device.type == "cpu" else _ahead(items, device)


def _ahead(items: Iterator[Item], device: torch.device) -> Iterator[Item]:
    module = torch.get_device_module(device)  # torch.cuda or torch.npu
    copies = module.Stream(device)
    before: Sent[Item] | None = None
    for item in items:
        sent = _send(item, device, module, copies)
        if before is not None:
            yield _received(before, module)
        sent[1].synchronize()  # a step was queued since: the host waits only where the copy is not over yet
        before = sent
        del item  # the loader may use its memory again
    if before is not None:
        yield _received(before, module)


def _send(item: Item, device: torch.device, module: ModuleType, copies: torch.Stream) -> Sent[Item]:
    """Begin to copy a batch, from pinned memory without waiting for it."""
    copied = module.Event()
    with memory_errors(item.canvas, len(item.batch.images)), module.stream(copies):
        sent = item._replace(batch=to_device(item.batch, device))
        copied.record(copies)
    return sent, copied


def _received(sent: Sent[Item], module: ModuleType) -> Item:
    """A batch that the device's usual stream may use from here on."""
    item, copied = sent
    stream = module.current_stream()
    stream.wait_event(copied)
    for part in item.batch:
        part.record_stream(stream)  # else its memory would be given away while a step still reads it
    return item

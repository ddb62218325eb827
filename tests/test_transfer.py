"""Batches on their way to a device: their order, and what waits for what. No device is met: its module is a fake.

What the fakes cannot show is that a copy really goes on beside a step; that needs a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import tiny
import torch
from torch import Tensor

from gfl.data.loader import LoadedBatch
from gfl.engine import transfer
from gfl.engine.transfer import on_device
from gfl.errors import InputError
from gfl.model.structures import Batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def loaded(number: int) -> LoadedBatch:
    ids = (number,) * tiny.BATCH
    return LoadedBatch(tiny.make_batch(number), ids, torch.ones(tiny.BATCH, 2), tiny.CANVAS, 0, number, ())


class Event:
    """Takes the number of the batch whose copy it comes after."""

    def __init__(self, log: list[str]) -> None:
        self.log, self.number = log, log[-1].split()[1]

    def record(self, stream: object) -> None:
        self.number = self.log[-1].split()[1]
        assert (stream, self.log[-1].split()[0]) == ("copies", "copy")

    def synchronize(self) -> None:
        self.log.append(f"wait {self.number}")


class FakeDevice(NamedTuple):
    """What happened, in order, and the streams that memory was recorded for."""

    log: list[str]
    recorded: list[object]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    log: list[str] = []
    recorded: list[object] = []
    streams = ["usual"]

    @contextmanager
    def stream(name: str) -> Iterator[None]:
        streams.append(name)
        yield
        streams.pop()

    def copy(batch: Batch, device: torch.device) -> Batch:
        assert (streams[-1], device) == ("copies", CUDA)
        log.append(f"copy {log[-1].split()[1]}")
        return Batch(*(part.clone() for part in batch))

    usual = SimpleNamespace(wait_event=lambda event: log.append(f"order {event.number}"))
    module = SimpleNamespace(
        Stream=lambda device: "copies", stream=stream, Event=lambda: Event(log), current_stream=lambda: usual
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(transfer, "to_device", copy)
    monkeypatch.setattr(Tensor, "record_stream", lambda part, stream: recorded.append(stream), raising=False)
    return FakeDevice(log, recorded)


def asked(count: int, log: list[str]) -> Iterator[LoadedBatch]:
    for number in range(count):
        log.append(f"ask {number}")
        yield loaded(number)


def test_cpu_gets_the_loaders_own_batches() -> None:
    batches = asked(2, [])
    assert on_device(batches, CPU) is batches


def test_next_batch_is_copied_before_a_step_and_waited_for_after_it(fake: FakeDevice) -> None:
    for batch in on_device(asked(3, fake.log), CUDA):
        fake.log.append(f"step {batch.index}")
    assert fake.log == [
        *("ask 0", "copy 0", "wait 0"),
        *("ask 1", "copy 1", "order 0", "step 0", "wait 1"),
        *("ask 2", "copy 2", "order 1", "step 1", "wait 2"),
        *("order 2", "step 2"),
    ]
    assert len(fake.recorded) == 3 * len(Batch._fields)  # of each batch, all parts


@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_batch_arrives_once_in_order_and_as_it_was(count: int, fake: FakeDevice) -> None:
    arrived = list(on_device(asked(count, fake.log), CUDA))
    assert [batch.index for batch in arrived] == list(range(count))
    for number, batch in enumerate(arrived):
        assert batch._replace(batch=None, scales=None) == loaded(number)._replace(batch=None, scales=None)
        tiny.assert_equal_bits(tuple(batch.batch), tuple(loaded(number).batch))


def test_who_stops_half_way_has_asked_for_one_batch_more(fake: FakeDevice) -> None:
    """A run goes on from its count of the batches that were used, so the one more is asked for again."""
    batches = on_device(asked(5, fake.log), CUDA)
    assert next(batches).index == 0
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert [line for line in fake.log if line.startswith("ask")] == ["ask 0", "ask 1"]


def test_too_little_memory_for_a_copy_is_one_sentence(fake: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: Batch, device: torch.device) -> Batch:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 48.00 MiB.")

    monkeypatch.setattr(transfer, "to_device", fail)
    with pytest.raises(InputError, match=r"the device has too little memory for 2 pictures of 64x96 at a time"):
        next(on_device(asked(2, fake.log), CUDA))

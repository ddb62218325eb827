"""The memory that a training step really takes: two of them on random pictures, in a process of their own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from gfl.engine.device import choose_device, describe, memory_bytes, to_device
from gfl.engine.heap import keep_freed_memory
from gfl.engine.memory import MEND, memory_errors
from gfl.engine.module import DetectorModule
from gfl.engine.state import make_state, step
from gfl.errors import InputError
from gfl.machine import status_bytes
from gfl.model import detector
from gfl.model.structures import Batch
from gfl.operators.fake_step import RATE
from gfl.operators.step_memory import STEPS, parts_of_step
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.tensors.precision import policy_of
from gfl.words import counted

FORGET_PEAK = Path("/proc/self/clear_refs"), "5"


class Measured(NamedTuple):
    """What steps on a device took."""

    peak_bytes: int | None  # None where the system does not tell
    device: str  # in words


def measured_memory(cfg: RunConfig, canvas: Canvas, pictures: int, boxes: int) -> Measured:
    """Train two steps in a new process: of a CPU the growth of its resident memory, else the device's own peak.

    cfg: with a precision that is no 'auto'. pictures: of one part of a step; boxes: of a picture.
    Raises InputError where memory does not suffice, and as `choose_device` does.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would have this process's memory
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        try:
            return process.submit(_measure, cfg, canvas, pictures, boxes).result()
        except BrokenProcessPool as error:
            height, width = canvas
            raise InputError(
                f"the process that trained {counted(pictures, 'picture')} of {height}x{width} at a time was ended by "
                f"the system, most likely because memory did not suffice; {MEND}"
            ) from error


def _measure(cfg: RunConfig, canvas: Canvas, pictures: int, boxes: int) -> Measured:
    device = choose_device(cfg.device)
    if device.type == "cpu":
        keep_freed_memory()  # as a run does
    before = _resident_bytes() if device.type == "cpu" else 0
    with memory_errors(canvas, pictures):
        module = DetectorModule(
            detector.init(cfg.detector),
            cfg.detector,
            [canvas],
            device,
            policy=policy_of(cfg.precision, apex=cfg.apex),
            recompute=cfg.recompute,
        )
        state = make_state(module, cfg)
        batch = to_device(random_batch(canvas, pictures, boxes, cfg.detector.num_classes), device)
        for _ in range(STEPS):
            step(state, [batch] * parts_of_step(cfg), RATE, cfg.optim)
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
    peak = memory_bytes(device)
    return Measured(None if peak is None or before is None else peak - before, describe(device))


def random_batch(canvas: Canvas, pictures: int, boxes: int, classes: int) -> Batch:
    """Noise with boxes of all sizes anywhere; the same each time."""
    generator = torch.Generator().manual_seed(0)
    height, width = canvas
    whole = torch.tensor([width, height, width, height])
    corners, others = (torch.rand((pictures, boxes, 2), generator=generator) for _ in range(2))
    boxes_xyxy = torch.cat([torch.minimum(corners, others), torch.maximum(corners, others)], dim=2) * whole
    return Batch(
        images=torch.randint(0, 256, (pictures, 3, height, width), generator=generator, dtype=torch.uint8),
        image_sizes=torch.tensor([height, width], dtype=torch.int32).repeat(pictures, 1),
        boxes_xyxy=boxes_xyxy,
        labels=torch.randint(0, classes, (pictures, boxes), generator=generator, dtype=torch.int32),
        box_mask=torch.ones((pictures, boxes), dtype=torch.bool),
        ignored_xyxy=torch.zeros((pictures, 1, 4)),
        ignored_mask=torch.zeros((pictures, 1), dtype=torch.bool),
        image_weights=torch.ones(pictures),
    )


def _resident_bytes() -> int | None:
    """What this process holds now, from where its peak counts anew if the system lets it."""
    with suppress(OSError):
        FORGET_PEAK[0].write_text(FORGET_PEAK[1])
    # Elsewhere its peak so far: what is more than that is the steps'.
    return status_bytes("VmRSS") or memory_bytes(torch.device("cpu"))

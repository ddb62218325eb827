"""What a run prints before its first step: what is trained, on what, in which shapes, from which weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from gfl.data.check.outlook import Outlook
from gfl.data.coco import CocoData
from gfl.data.loader import TrainLoader
from gfl.data.pictures import boxes_a_label
from gfl.engine.checkpoints import Origin
from gfl.engine.device import describe
from gfl.engine.module import DetectorModule
from gfl.engine.precision_choice import PrecisionChoice, is_slow
from gfl.engine.schedule import RunLength
from gfl.model import detector
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.version import VERSION
from gfl.words import class_shares, counted, headline


def head_lines(
    cfg: RunConfig,
    module: DetectorModule,
    loader: TrainLoader,
    val: CocoData | None,
    origin: Origin,
    outlook: Outlook,
    length: RunLength,
    precision: PrecisionChoice,
) -> Iterator[str]:
    """The lines, in order. val: the validation set, where there is one; origin: where the weights come from."""
    yield summary_line(cfg, module.device, precision.reason)
    yield from slow_precision_line(cfg, module.device)
    yield from (headline("note", note) for note in precision.notes)
    data = loader.data
    boxes = dict.fromkeys(data.names, 0)
    for name, count in zip(data.names, boxes_a_label(data.pictures, len(data.names)).tolist(), strict=True):
        boxes[name] += count
    total = counted(sum(boxes.values()), "box", "boxes")
    yield headline(
        "data",
        f"train {counted(len(data.pictures), 'image')} {total} {class_shares(boxes)}",
        f"{data.without_boxes} without boxes, {data.clipped_boxes} boxes clipped, {data.dropped_boxes} dropped",
        f"val {counted(len(val.pictures), 'image')}" if val else "no validation",
    )
    about = "" if outlook.whole else "about "
    lost = f"{about}{outlook.without_anchor:.1%} of them without an anchor"
    if not outlook.without_anchor:
        lost = "each with an anchor"
    yield headline(
        "learn",
        f"{outlook.readable:,} of {counted(len(data.pictures), 'picture')} readable"
        + (f", {outlook.readable_val:,} of {len(val.pictures):,} of validation" if val else ""),
        f"{counted(outlook.boxes, 'box', 'boxes')} to learn, {lost} at these sizes",
        f"{counted(length.steps, 'step')} in {counted(length.epochs, 'epoch')}",
    )
    notes = [*data.notes, *(val.notes if val else ()), *(found.text for found in outlook.findings)]
    yield from (headline("note", note) for note in dict.fromkeys(notes))
    yield headline("shapes", shapes_text(loader, loader.canvases), f"boxes padded to {loader.box_slots}")
    yield headline("loader", loader.memory_line())
    parameters = sum(leaf.numel() for leaf in module.leaves().values() if leaf.is_floating_point())
    trained = sum(leaf.numel() for leaf in module.parameters())
    share = f" ({trained / 1e6:.2f} M are trained)" if trained < parameters else ""
    yield headline("model", f"{detector.name(cfg.detector)} {parameters / 1e6:.2f} M parameters{share}", origin.text)
    yield from (headline("", line) for line in origin.table.splitlines())
    optim = cfg.optim
    yield headline(
        "lr",
        f"{optim.lr * cfg.batch_size / 16:g} ({optim.lr:g} for 16 images, scaled to {cfg.batch_size})",
        f"{optim.optimizer}, {optim.schedule}",
        counted(optim.warmup_steps, "warm-up step"),
    )


def summary_line(cfg: RunConfig, device: torch.device, why: str = "") -> str:
    """'GFLV2 0.1 | torch 2.13 | cpu, 2 threads | fp32 | seed 0'. why: what chose the precision, where 'auto' did."""
    precision: str = cfg.precision
    if cfg.precision == "o1":
        precision = f"o1{' by Apex' if cfg.apex else ''}, loss scale {cfg.loss_scale}"
    if why:
        precision += f" (auto: {why})"
    return " | ".join(
        (f"GFLV2 {VERSION}", f"torch {torch.__version__}", describe(device), precision, f"seed {cfg.seed}")
    )


def slow_precision_line(cfg: RunConfig, device: torch.device) -> Iterator[str]:
    """A note where 16 bits are slower than fp32, because the device only emulates them."""
    if is_slow(cfg.precision, device):
        here = {"cpu": "CPU", "cuda": "GPU"}[device.type]
        text = f"PRECISION = {cfg.precision!r} is slow on this {here}, to try it out; 'fp32' is faster here"
        yield headline("note", text)


def shapes_text(loader: TrainLoader, canvases: Sequence[Canvas] | None) -> str:
    """'800x1344 71%  1344x800 29%': the share of each canvas among an epoch's batches."""
    if canvases is None:
        return "each picture's own"
    plan = loader.plan(0)
    shares = Counter(f"{height}x{width}" for height, width in plan.canvases)
    return "  ".join(f"{name} {count / len(plan):.0%}" for name, count in shares.most_common())

"""What a model is and costs: `python -m gfl.describe --gin_file r50.gin [--size 800x1344] [--measure]`.

Its layers by part, parameters, multiply-accumulates and activations, what its scores see of a picture, and the memory
of a training step: added up from its tensors and, with --measure, measured too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gfl.config import read_run
from gfl.data.canvas import own_canvas, parse_canvases
from gfl.data.sizes import eval_short_side
from gfl.data.transforms import resized_size
from gfl.engine.checkpoints import stored_settings
from gfl.engine.device import choose_device
from gfl.engine.precision_choice import AUTO, PrecisionChoice, choose_precision
from gfl.errors import InputError
from gfl.model import detector
from gfl.operators.costs import Layer, layers_of
from gfl.operators.measured_step import measured_memory
from gfl.operators.step_memory import estimated_memory
from gfl.report.tables import aligned
from gfl.say import say
from gfl.settings import RunConfig
from gfl.shapes import MOST_PICTURES, Canvas
from gfl.tensors.variables import flatten
from gfl.words import counted, memory

# Parts of a model by the beginnings of their variables' paths, in the order of the computation.
PARTS = (
    ("stem", ("backbone.conv1", "backbone.bn1", "backbone.gn1", "backbone.stem.")),
    *((f"stage {number}", (f"backbone.layer{number}.",)) for number in range(1, 5)),
    ("pyramid (FPN)", ("neck.",)),
    ("head, class tower", ("bbox_head.cls_convs.",)),
    ("head, box tower", ("bbox_head.reg_convs.",)),
    ("head, outputs", ("bbox_head.gfl_cls", "bbox_head.gfl_reg", "bbox_head.scales.")),
    ("head, quality (DGQP)", ("bbox_head.reg_conf.",)),
)
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
MOST_CLASSES = 100_000
DEFAULT_CANVAS = ": what one of 4:3 becomes in an evaluation; --size takes another"
BOXES = 32  # a picture, in the memory of a step


class Part(NamedTuple):
    """A part of a model, for pictures of one size."""

    name: str
    layers: int
    parameters: int
    trained: int  # parameters that training changes
    macs: int  # multiply-accumulates of a picture
    activations: int  # numbers that its layers put out for a picture

    def cells(self) -> tuple[str, ...]:
        """As the table shows them."""
        millions = (f"{number / 1e6:,.2f}" for number in (self.parameters, self.trained))
        billions = (f"{number / 1e9:,.2f}" for number in (self.macs, 2 * self.macs))
        return self.name, f"{self.layers}", *millions, *billions, f"{self.activations / 1e6:,.2f}"


HEADER = ("part", "layers", "M parameters", "M trained", "GMACs", "GFLOPs", "M activations")


def parts_of(run: RunConfig, layers: Sequence[Layer]) -> list[Part]:
    """The parts in the order of the computation; one without layers and parameters is left out."""
    variables = flatten(detector.init(run.detector))
    weights = {path: leaf for path, leaf in variables.items() if path.rpartition(".")[2] not in BUFFERS}
    frozen = {path for path in weights if detector.is_frozen(path, run.detector)}
    parts = []
    for name, beginnings in PARTS:
        own = {path: leaf for path, leaf in weights.items() if path.startswith(beginnings)}
        called = [layer for layer in layers if layer.path.startswith(beginnings)]
        part = Part(
            name,
            len({layer.path for layer in called}),
            sum(leaf.numel() for leaf in own.values()),
            sum(leaf.numel() for path, leaf in own.items() if path not in frozen),
            sum(layer.macs for layer in called),
            sum(layer.numbers for layer in called),
        )
        if part.layers or part.parameters:
            parts.append(part)
    return parts


def total_of(parts: Sequence[Part]) -> Part:
    """All parts together."""
    return Part("all", *(sum(numbers) for numbers in zip(*(part[1:] for part in parts), strict=True)))


def fields_text(layers: Sequence[Layer]) -> str:
    """'P3 331 px, P4 395 px, ...': the receptive field of the class scores of each level."""
    levels = [layer for layer in layers if layer.path == "bbox_head.gfl_cls"]
    return ", ".join(f"P{number} {layer.field_px:,} px" for number, layer in enumerate(levels, start=3))


def memory_lines(run: RunConfig, canvas: Canvas, pictures: int, why: str) -> list[str]:
    """What a training step holds, by kind. why: what chose the precision, where 'auto' did."""
    found = estimated_memory(run, canvas, pictures, BOXES)
    parts = {
        "weights": found.variables,
        "gradients": found.gradients,
        "optimiser and averages": found.optimiser,
        "activations kept for the backward pass": found.activations,
    }
    listed = ", ".join(f"{name} {memory(size)}" for name, size in parts.items())
    precision = f"{run.precision} (auto: {why})" if why else run.precision
    followed = {"COMPILE": bool(run.compile), "APEX": run.apex}
    without = " and ".join(f"{name} = True" for name, is_on in followed.items() if is_on)
    return [
        f"a training step of {counted(pictures, 'picture')} in {precision} takes, by estimate{without and ' without '}"
        f"{without}, {memory(found.peak)} at its peak:",
        f"  {listed}",
        "  beside it the program itself (about 0.3 GB on a CPU), the loader, and what kernels and the allocator need",
    ]


def measured_line(run: RunConfig, canvas: Canvas, pictures: int) -> str:
    """What two real steps took."""
    found = measured_memory(run, canvas, pictures, BOXES)
    if found.peak_bytes is None:
        return f"  measured: nothing, for this system does not tell what a process holds ({found.device})"
    return f"  measured: {memory(found.peak_bytes)}, in two steps on random pictures ({found.device})"


def settled_precision(run: RunConfig) -> PrecisionChoice:
    """The precision that a run would compute in on this machine. Raises InputError as `choose_precision`."""
    if run.precision == AUTO:
        return choose_precision(run, choose_device(run.device))
    return PrecisionChoice(run.precision)


def report(run: RunConfig, canvas: Canvas, pictures: int, why: str = "") -> str:
    """The whole text, but for what is measured. Raises InputError as `choose_precision`.

    why: how the canvas was chosen, where the user did not.
    """
    cfg = run.detector
    precision = settled_precision(run)
    layers = layers_of(cfg, canvas)
    parts = parts_of(run, layers)
    rows = [HEADER, *(part.cells() for part in parts), total_of(parts).cells()]
    height, width = canvas
    return "\n".join(
        [
            f"{detector.name(cfg)} | {counted(cfg.num_classes, 'class', 'classes')} | one picture of "
            f"{height}x{width} (height x width){why}",
            "",
            aligned(rows),
            "",
            "GMACs: multiply-accumulates of convolutions and matrix products, forward. GFLOPs: two for each of them.",
            "activations: numbers that these layers put out. A layer of the head runs on all five levels.",
            f"receptive field, the side of the square that a class score depends on: {fields_text(layers)}",
            *memory_lines(replace(run, precision=precision.used), canvas, pictures, precision.reason),
        ]
    )


def default_canvas(run: RunConfig) -> Canvas:
    """A picture of 4:3 as evaluation resizes it."""
    short = eval_short_side(run.data)
    return own_canvas(*resized_size(3 * short, 4 * short, short, run.data.long_side))


def read_settings(gin_files: Sequence[str], bindings: Sequence[str]) -> RunConfig:
    """The settings of a run, which may lack a data set: finetune.gin leaves that to the user. Raises as `read_run`."""
    try:
        return read_run(gin_files, bindings, stored_settings).run
    except InputError as error:
        try:
            return read_run(gin_files, ["DATA_ROOT = '.'", *bindings], stored_settings).run
        except InputError:
            raise error from None


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m gfl.describe", description=__doc__)
    flags.add_argument("--gin_file", action="append", default=[], help="a run file; may repeat, later ones win")
    flags.add_argument("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    flags.add_argument("--checkpoint", type=Path, help="weights to start from, whose model finetune.gin takes")
    flags.add_argument("--size", help="HEIGHTxWIDTH of the canvas (default: a picture of 4:3 at EVAL_SHORT_SIDE)")
    flags.add_argument("--batch", type=int, help="pictures of a training step (default BATCH_SIZE / ACCUMULATE)")
    flags.add_argument("--measure", action="store_true", help="also train two steps and say what memory they took")
    flags.add_argument("--num_classes", type=int, default=80, help="classes (default 80; a run has its annotations')")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Describe the model of a run file; 0, or 2 on a user's mistake."""
    arguments = parser().parse_args(argv)
    try:
        if not arguments.gin_file:
            raise InputError("got no --gin_file; give one, e.g. --gin_file r50.gin")
        pictures, classes = arguments.batch, arguments.num_classes
        if pictures is not None and not 1 <= pictures <= MOST_PICTURES:
            raise InputError(f"got --batch {pictures}, expected 1 to {MOST_PICTURES} pictures; omit it for BATCH_SIZE")
        if not 1 <= classes <= MOST_CLASSES:
            raise InputError(f"got --num_classes {classes}, expected 1 to {MOST_CLASSES}; omit it for COCO's 80")
        bindings = list(arguments.gin_bindings)
        if arguments.checkpoint is not None:
            bindings.append(f"CHECKPOINT = {str(arguments.checkpoint)!r}")
        run = read_settings(arguments.gin_file, bindings).for_classes(classes)
        canvas = parse_canvases([arguments.size])[0] if arguments.size else default_canvas(run)
        pictures = pictures or run.batch_size // run.accumulate
        say(report(run, canvas, pictures, "" if arguments.size else DEFAULT_CANVAS))
        if arguments.measure:
            say(measured_line(replace(run, precision=settled_precision(run).used), canvas, pictures))
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

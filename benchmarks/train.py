"""The training step, part by part and beside plainer forms: `python -m benchmarks.train [--json FILE]`.

The time of each part and how near it is to the machine's GEMM speed; what folding the norms and computing losses on
candidates save; the ATen ops of a step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import loss, plain
from benchmarks.cases import RUN_FILES
from benchmarks.command_line import benchmark_flags, canvas, gemm_of, positive, rounds_of, run_program
from benchmarks.counts import Ops, macs_by_part, ops_by_part
from benchmarks.inputs import random_batch, write_pictures
from benchmarks.measure import Form, Gemm, Timing, figures_of, interleave, spread, timed
from benchmarks.parts import (
    DATA,
    FORWARD,
    LOSSES,
    OF_FORWARD,
    OPTIMISER,
    PARTS,
    STEP,
    UNDIVIDED,
    endless,
    make_training,
    step_parts,
    time_parts,
    time_undivided,
)
from benchmarks.tables import Findings, Table, comparison
from gfl.config import read_run
from gfl.data.coco import read_coco
from gfl.data.loader import TrainLoader
from gfl.engine.module import DetectorModule
from gfl.engine.state import TrainState
from gfl.model import backbones, detector
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.tensors.variables import child

SOURCE_SHARE = 0.6  # sides of the JPEGs, as a share of the canvas's: COCO's 480x640 become 800x1067

OPS_CANVAS = (64, 64)  # the number of ops does not depend on it
OPS_CASES = ((1, 3), (2, 7), (8, 10), (8, 40))  # pictures, boxes
# (ops, host reads in the loss) of the authors' GFocalV2 with R50, by (pictures, boxes)
REFERENCE_OPS = {(1, 3): (1691, 26), (2, 7): (2086, 35), (8, 10): (3400, 90), (8, 40): (3880, 90)}


class Setting(NamedTuple):
    """The run to measure, and how often."""

    name: str  # r50 | small
    run: RunConfig
    canvas_hw: Canvas
    batch_size: int
    repeats: int
    gemm: Gemm

    def title(self) -> str:
        height, width = self.canvas_hw
        return f"{self.name}, {self.batch_size} x {height}x{width}"


# ---- the tables ----


def step_table(setting: Setting, timings: Mapping[str, Timing], macs: Mapping[str, float]) -> Table:
    """The time of each part, its share of the step, its GMAC, and its speed as a share of GEMM speed."""
    macs = {**macs, FORWARD: sum(macs[part] for part in OF_FORWARD), STEP: sum(macs.values())}
    speed = setting.gemm.macs_per_s(timings)
    rows = []
    for part in (*PARTS, STEP, FORWARD, UNDIVIDED):
        timing, work = timings[part], macs.get(part, 0.0)
        share = f"{timing.median / timings[STEP].median:.1%}"
        gmac, of_gemm = (f"{work / 1e9:,.1f}", f"{work / timing.median / speed:.0%}") if work else ("", "")
        rows.append((part, *spread(timing), share, gmac, of_gemm))
    note = (
        f"{setting.gemm.note(timings)} The step runs at {setting.batch_size / timings[STEP].median:.2f} "
        "pictures/s. data: the loader without workers, from JPEGs; with workers it runs beside the step. prepare: "
        "folding and casting the weights, normalising the pictures. forward: prepare to head. The last row is the "
        "undivided step, without data."
    )
    header = ("part", "ms", "min - max", "of the step", "GMAC", "of GEMM speed")
    return Table(f"The step: {setting.title()}", header, tuple(rows), note)


# ---- batch-norm folded and not ----


def norm_forms(module: DetectorModule, images: Tensor) -> list[Form]:
    """Backbone forward + backward, with the norms folded (the time of folding included) and unfolded."""
    cfg = plain.require_plain(module.cfg.backbone)
    with torch.no_grad():
        shapes = [feature.shape for feature in folded_backbone(module, images)]
    upstream = [torch.full(shape, 1e-3) for shape in shapes]

    def run(unfolded: bool) -> None:
        if unfolded:
            features = plain.backbone(child(module.variables(), "backbone"), images, cfg)
        else:
            features = folded_backbone(module, images)
        torch.autograd.backward(features, upstream)
        module.zero_grad(set_to_none=True)

    return [timed("folded", partial(run, False)), timed("unfolded", partial(run, True))]


def folded_backbone(module: DetectorModule, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """C3, C4, C5 from the variables, as a step computes them."""
    prepared = detector.prepare(module.variables(), module.constants, module.policy)
    return backbones.apply(child(prepared.tree, "backbone"), images, module.cfg.backbone)


def norm_table(setting: Setting, timings: Mapping[str, Timing]) -> Table:
    """The folded backbone beside the unfolded one."""
    saved = (timings["unfolded"].median - timings["folded"].median) / timings[STEP].median
    return comparison(
        f"Batch-norm in the backbone: {setting.title()}",
        [("backbone, forward + backward", timings["folded"], timings["unfolded"])],
        other="unfolded",
        note=f"Folding saves {saved:.1%} of the step. Unfolded: F.batch_norm in eval mode after each convolution.",
    )


# ---- ops ----


def count_ops(state: TrainState, run: RunConfig) -> dict[tuple[int, int], dict[str, Ops]]:
    """Ops of each part of the step, by (pictures, boxes)."""
    counts = {}
    for images, boxes in OPS_CASES:
        batch = random_batch(images, boxes, OPS_CANVAS, state.module.cfg.num_classes)
        parts = ops_by_part(step_parts(state, iter([batch]), run))
        counts[images, boxes] = {part: ops for part, ops in parts.items() if part not in (DATA, OPTIMISER)}
    return counts


def ops_table(setting: Setting, counts: Mapping[tuple[int, int], Mapping[str, Ops]]) -> Table:
    """Ops that compute something, and host reads; for R50, the authors' code beside them."""
    rows = []
    for case, parts in counts.items():
        reference = REFERENCE_OPS[case] if setting.name == "r50" else ("", "")
        quoted = (f"{value:,}" if isinstance(value, int) else value for value in reference)
        total = sum(ops.computing for ops in parts.values())
        reads = sum(ops.host_reads for ops in parts.values())
        rows.append((f"{case[0]} x {case[1]}", f"{total:,}", f"{parts[LOSSES].computing:,}", f"{reads}", *quoted))
    header = (
        "pictures x boxes",
        "ours",
        "of these assignment + losses",
        "host reads",
        "reference",
        "its host reads in the loss",
    )
    return Table(
        f"ATen ops a step: {setting.name}, forward + loss + backward",
        header,
        tuple(rows),
        "Ops that compute something: not views, detach or empty. Assignment + losses: forward only. Reference: the "
        "authors' code with R50.",
    )


# ---- the whole ----


def read_setting(arguments: argparse.Namespace) -> Setting:
    """Sizes from the flags, the model and optimiser from the run file."""
    quick = arguments.quick
    canvas_hw = arguments.size or ((128, 128) if quick else (512, 512))
    run = read_run([RUN_FILES[arguments.config]]).run
    batch_size = arguments.batch or (1 if quick else 2)
    # The pictures fill the canvas. No EMA: `step_parts` has none.
    short_side, long_side = min(canvas_hw), max(canvas_hw)
    data = replace(run.data, short_side=short_side, long_side=long_side, canvases=(canvas_hw,), workers=0)
    run = replace(run, data=data, optim=replace(run.optim, ema=0.0), batch_size=batch_size, accumulate=1)
    return Setting(arguments.config, run, canvas_hw, batch_size, rounds_of(arguments), gemm_of(arguments))


def make_loader(setting: Setting, folder: Path) -> TrainLoader:
    """A training loader over four batches of generated pictures, which it writes first."""
    height, width = (max(64, round(SOURCE_SHARE * side)) for side in setting.canvas_hw)
    annotations, images = write_pictures(folder, 4 * setting.batch_size, (height, width))
    data = read_coco(annotations, images, keep_empty=False)
    return TrainLoader(data, setting.run.data, (setting.canvas_hw,), batch_size=setting.batch_size, seed=0)


def measure(arguments: argparse.Namespace) -> Findings:
    """All tables of one setting."""
    setting = read_setting(arguments)
    run = setting.run
    state = make_training(run, (setting.canvas_hw, OPS_CANVAS))
    with tempfile.TemporaryDirectory() as folder:
        loader = make_loader(setting, Path(folder))
        batches = endless(loader)
        macs = macs_by_part(step_parts(state, batches, run))
        case = loss.make_case(setting.batch_size, loader.box_slots, setting.canvas_hw, run.detector)
        forms: list[Form] = [partial(time_parts, state, batches, run), partial(time_undivided, state, batches, run)]
        folds = plain.is_plain(run.detector.backbone)
        if folds:
            batch = next(batches)
            forms += norm_forms(state.module, detector.normalise(batch.images, batch.image_sizes, run.detector))
        timings = interleave([*forms, *loss.forms(case), setting.gemm.form()], setting.repeats)
    counts = count_ops(state, run)
    tables = [step_table(setting, timings, macs), *([norm_table(setting, timings)] if folds else [])]
    tables += [loss.table(case, timings), ops_table(setting, counts)]
    figures = {
        "config": setting.name,
        "canvas": setting.canvas_hw,
        "batch": setting.batch_size,
        "gemm_side": setting.gemm.side,
        "seconds": figures_of(timings),
        "macs": macs,
        "ops": {
            f"{images}x{boxes}": {part: ops._asdict() for part, ops in parts.items()}
            for (images, boxes), parts in counts.items()
        },
    }
    return Findings(tuple(tables), figures)


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.train", __doc__)
    flags.add_argument("--config", choices=sorted(RUN_FILES), default="r50", help="the run file (default r50)")
    flags.add_argument("--size", type=canvas, metavar="HxW", help="the canvas (default 512x512)")
    flags.add_argument("--batch", type=positive, help="pictures a step (default 2)")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

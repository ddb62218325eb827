"""Assignment and losses alone, beside their dense forms: `python -m benchmarks.loss [--json FILE]`.

Ours searches the 81 nearest cells of each level for a box and computes box losses on its 45 candidates; the dense forms
take every anchor for every box. Both give the same numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch

from benchmarks import plain
from benchmarks.command_line import benchmark_flags, canvas, gemm_of, positive, rounds_of, run_program
from benchmarks.inputs import random_batch, random_outputs
from benchmarks.measure import Form, Timing, figures_of, interleave, timed
from benchmarks.tables import Findings, Table, comparison
from gfl.model.anchors import Grid, cells_inside, make_grid, padded_sizes
from gfl.model.assign import assign, nearest_in_window, nearest_of_all
from gfl.model.detector import DetectorConfig
from gfl.model.losses import LossTerms, loss_terms, qfl
from gfl.model.structures import Assignment, Batch, Outputs
from gfl.shapes import Canvas

BOXES = (3, 40, 96)  # a picture of COCO has 7 on average; 96 slots hold all but a few of its pictures
CANVASES, QUICK_CANVASES = ((512, 512), (800, 1344)), ((256, 256),)


class Case(NamedTuple):
    """A batch, outputs of a head for it, and its grid."""

    batch: Batch
    outputs: Outputs
    grid: Grid
    cfg: DetectorConfig

    def assign(self) -> Assignment:
        """Our assignment."""
        return assign(self.grid, padded_sizes(self.batch.image_sizes), self.batch, self.cfg.assign)

    def assign_densely(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The plain assignment: owner (B,A) and counted (B,A)."""
        return plain.assign(self.grid, padded_sizes(self.batch.image_sizes), self.batch, self.cfg.assign.topk)


def make_case(images: int, boxes: int, canvas_hw: Canvas, cfg: DetectorConfig, seed: int = 0) -> Case:
    """A case of random numbers with a box in every slot."""
    grid = make_grid(canvas_hw)
    channels = cfg.num_classes + cfg.head.background_channel
    outputs = random_outputs(images, grid.num_anchors, channels, cfg.head.reg_max + 1, seed)
    return Case(random_batch(images, boxes, canvas_hw, cfg.num_classes, seed), outputs, grid, cfg)


def forms(case: Case) -> list[Form]:
    """Assignment and losses, ours and dense; the losses with their gradients to the head's outputs."""
    batch, grid, cfg = case.batch, case.grid, case.cfg
    padded_hw = padded_sizes(batch.image_sizes)
    inside = cells_inside(grid, padded_hw) > 0
    nothing = torch.zeros_like(inside)
    assignment, (owner, counted) = case.assign(), case.assign_densely()
    ours = partial(loss_terms, case.outputs, assignment, grid, batch, cfg.loss)
    dense = partial(plain.loss_terms, case.outputs, owner, counted, grid, batch, cfg=cfg.loss)
    targets = torch.zeros_like(case.outputs.scores)
    return [
        timed("nearest", partial(nearest_in_window, grid, padded_hw, batch.boxes_xyxy, cfg.assign.topk)),
        timed("nearest, dense", partial(nearest_of_all, grid, inside, nothing, batch.boxes_xyxy, cfg.assign.topk)),
        timed("assignment", case.assign),
        timed("assignment, dense", case.assign_densely),
        timed("losses", partial(gradients, case.outputs, ours)),
        timed("losses, dense", partial(gradients, case.outputs, dense)),
        timed("qfl", partial(qfl_gradients, case.outputs.scores, targets, cfg.loss.qfl_beta)),
    ]


def gradients(outputs: Outputs, losses: Callable[[], LossTerms]) -> tuple[torch.Tensor, ...]:
    """Gradients of the summed losses to scores and edge logits."""
    terms = losses()
    return torch.autograd.grad(terms.qfl.sum() + terms.giou.sum() + terms.dfl.sum(), outputs[:2])


def qfl_gradients(scores: torch.Tensor, targets: torch.Tensor, beta: float) -> tuple[torch.Tensor, ...]:
    """QFL alone, which both forms compute on all anchors."""
    return torch.autograd.grad(qfl(scores, targets, beta).sum(), scores)


def table(case: Case, timings: Mapping[str, Timing]) -> Table:
    """Our forms beside the dense ones."""
    images, boxes = case.batch.labels.shape
    height, width = case.grid.canvas_hw
    qfl_ms = 1e3 * timings["qfl"].median
    return comparison(
        f"Assignment and losses: {images} x {height}x{width} ({case.grid.num_anchors:,} anchors), {boxes} box slots",
        [
            ("nearest 9 a level: 9x9 window, all anchors", timings["nearest"], timings["nearest, dense"]),
            ("assignment", timings["assignment"], timings["assignment, dense"]),
            ("losses, forward + backward", timings["losses"], timings["losses, dense"]),
        ],
        other="dense",
        note=f"QFL is in the losses of both, on all anchors: alone it takes {qfl_ms:.1f} ms, forward + backward.",
    )


def measure(arguments: argparse.Namespace) -> Findings:
    """A table for each canvas and number of boxes."""
    canvases = arguments.size or (QUICK_CANVASES if arguments.quick else CANVASES)
    repeats, gemm = rounds_of(arguments), gemm_of(arguments)
    tables: list[Table] = []
    figures: dict[str, object] = {}
    for canvas_hw in canvases:
        for boxes in arguments.boxes or BOXES:
            case = make_case(arguments.batch or 2, boxes, canvas_hw, DetectorConfig())
            timings = interleave(forms(case), repeats)
            tables.append(table(case, timings))
            figures[f"{canvas_hw[0]}x{canvas_hw[1]}, {boxes} boxes"] = figures_of(timings)
    product = interleave([gemm.form()], repeats)
    tables[-1] = tables[-1]._replace(note=f"{tables[-1].note} {gemm.note(product)}")
    return Findings(tuple(tables), {**figures, **figures_of(product)})


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.loss", __doc__)
    flags.add_argument("--size", type=canvas, nargs="+", metavar="HxW", help="canvases (default 512x512 800x1344)")
    flags.add_argument("--boxes", type=positive, nargs="+", help=f"boxes a picture (default {BOXES})")
    flags.add_argument("--batch", type=positive, help="pictures a batch (default 2)")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

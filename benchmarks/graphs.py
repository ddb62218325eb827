"""The exported graph beside a plain graph of backbone, neck and head alone, and beside PyTorch.

Ours normalises the pictures, decodes the boxes and selects the detections as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain
from benchmarks.command_line import gemm_of, rounds_of
from benchmarks.inputs import lying_scenes, with_lively_norms
from benchmarks.measure import Form, Gemm, Timing, figures_of, interleave, paired_ratio, spread, timed
from benchmarks.plain_onnx import INPUT, plain_graph
from benchmarks.tables import Findings, Table
from export.graph import example_inputs, graph_of, trace
from export.translate import to_onnx
from gfl.model import detector
from gfl.model.anchors import Grid, make_grid
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.model.prepare import Prepared
from gfl.model.structures import Detections
from gfl.runtime.description import INPUT_NAMES
from gfl.runtime.onnx_session import Session, open_session
from gfl.shapes import Canvas
from gfl.tensors.variables import Variables

CANVASES, QUICK_CANVASES = ((512, 512), (800, 1216)), ((128, 128),)  # 800x1216 holds COCO's 480x640 at short side 800
PASSING = 300  # (anchor, class) pairs above the score threshold, as in a busy picture

OURS, PLAIN, FOLDED, UNFOLDED = "our graph", "plain graph", "PyTorch, norms folded", "PyTorch, norms unfolded"


class Case(NamedTuple):
    """A model and pictures that fill its canvas."""

    cfg: DetectorConfig  # PASSING pairs a picture lie above its score threshold
    variables: Variables
    prepared: Prepared
    images: Tensor  # uint8 (B,3,H,W)
    image_sizes: Tensor  # int32 (B,2)
    grid: Grid
    macs: float  # of the network on these pictures

    def normalised(self) -> Tensor:
        return detector.normalise(self.images, self.image_sizes, self.cfg)

    def title(self) -> str:
        height, width = self.grid.canvas_hw
        return f"R{self.cfg.backbone.depth}, {len(self.images)} x {height}x{width}"


def make_case(cfg: DetectorConfig, canvas_hw: Canvas, batch: int) -> Case:
    """A case of random weights; these score every class low, so the score threshold is lowered to suit."""
    variables = with_lively_norms(detector.init(cfg, seed=0))
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    images, image_sizes = generated_pictures(canvas_hw, batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = detector.forward(prepared, detector.normalise(images, image_sizes, cfg), cfg)
    macs = counter.get_total_flops() / 2  # it counts a multiplication and an addition
    threshold = float(outputs.scores[..., : cfg.num_classes].flatten().topk(batch * PASSING + 1).values[-1])
    cfg = replace(cfg, predict=replace(cfg.predict, score_threshold=threshold))
    return Case(cfg, variables, prepared, images, image_sizes, make_grid(canvas_hw), macs)


def generated_pictures(canvas_hw: Canvas, batch: int) -> tuple[Tensor, Tensor]:
    """Generated pictures that fill their canvas, and their sizes."""
    images = np.stack([scene.image.transpose(2, 0, 1) for scene in lying_scenes(batch, canvas_hw)])
    return torch.from_numpy(images).contiguous(), torch.tensor([canvas_hw] * batch).int()


# ---- the forms ----


def our_graph(prepared: Prepared, batch: int, canvas_hw: Canvas, cfg: DetectorConfig) -> onnx.ModelProto:
    """The graph from pictures to detections that `python -m export.onnx` writes."""
    graph = graph_of("detections", canvas_hw, cfg)
    program = trace(graph.function, prepared.tree, example_inputs(batch, canvas_hw))
    return to_onnx(program, INPUT_NAMES, graph.output_names).model


def open_graph(make: Callable[[Prepared, int, Canvas, DetectorConfig], onnx.ModelProto], case: Case) -> Session:
    """A session on the graph, `our_graph` or `plain_graph`, of the case's weights."""
    model = make(case.prepared, len(case.images), case.grid.canvas_hw, case.cfg)
    return open_session(model.SerializeToString(), threads=torch.get_num_threads())


def predict(case: Case, *, folded: bool) -> Detections:
    """From pictures to detections in PyTorch, with batch-norms folded or not."""
    with torch.inference_mode():
        if folded:
            return detector.predict(case.prepared, case.images, case.image_sizes, case.grid, case.cfg)
        return plain.predict(case.variables, case.images, case.image_sizes, case.grid, case.cfg)


def forms(case: Case) -> list[Form]:
    """All forms on the same pictures; the plain graph gets them normalised, and ends with the network."""
    feed = dict(zip(INPUT_NAMES, (case.images.numpy(), case.image_sizes.numpy()), strict=True))
    return [
        timed(OURS, partial(open_graph(our_graph, case).run, None, feed)),
        timed(PLAIN, partial(open_graph(plain_graph, case).run, None, {INPUT: case.normalised().numpy()})),
        timed(FOLDED, partial(predict, case, folded=True)),
        timed(UNFOLDED, partial(predict, case, folded=False)),
    ]


# ---- the whole ----


def table(case: Case, timings: Mapping[str, Timing], gemm: Gemm) -> Table:
    """The rate of each form, and how it compares with the plain graph's."""
    rows = []
    for label in (OURS, PLAIN, FOLDED, UNFOLDED):
        timing = timings[label]
        rate, of_gemm = len(case.images) / timing.median, case.macs / timing.median / gemm.macs_per_s(timings)
        ratio = "" if label == PLAIN else str(paired_ratio(timing, timings[PLAIN]))
        rows.append((label, *spread(timing), f"{rate:.2f}", f"{of_gemm:.0%}", ratio))
    return Table(
        f"Inference: {case.title()}",
        ("", "ms", "min - max", "pictures/s", "of GEMM speed", "rate / plain graph's"),
        tuple(rows),
        "Our graph and PyTorch: uint8 pictures in, detections out. Plain graph: backbone, neck and head alone, written "
        "node by node, on pictures normalised before. Both graphs run on ONNX Runtime's CPU, threads: "
        f"{torch.get_num_threads()}. Random weights; the score threshold lets {PASSING} pairs of anchor and "
        "class a picture pass. The ratio of rates is taken round by round: median (min - max). The network has "
        f"{case.macs / 1e9:,.1f} GMAC. "
        f"{gemm.note(timings)}",
    )


def measure(arguments: argparse.Namespace) -> Findings:
    """A table for each canvas."""
    quick = arguments.quick
    cfg = DetectorConfig(backbone=ResNetConfig(depth=arguments.depth or (18 if quick else 50)))
    gemm, tables, figures = gemm_of(arguments), [], {}
    for canvas_hw in arguments.size or (QUICK_CANVASES if quick else CANVASES):
        case = make_case(cfg, canvas_hw, arguments.batch)
        timings = interleave([*forms(case), gemm.form()], rounds_of(arguments))
        tables.append(table(case, timings, gemm))
        ratio = paired_ratio(timings[OURS], timings[PLAIN])
        figures[case.title()] = {"seconds": figures_of(timings), "macs": case.macs, "rate_ratio": ratio._asdict()}
    return Findings(tuple(tables), figures)

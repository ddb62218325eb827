"""What is exported: `detector.predict` itself, or the parts of it that `--outputs` asks for, as a torch.export program.

Shapes: B image, A anchor, K class, E=4 edges, R = reg_max + 1 bins, D detection slot; H, W the canvas.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from gfl.engine.module import FunctionModule
from gfl.model import detector, postprocess
from gfl.model.anchors import Grid, make_grid
from gfl.model.detector import DetectorConfig
from gfl.model.prepare import Prepared
from gfl.runtime.description import DETECTION_NAMES
from gfl.shapes import Canvas
from gfl.tensors.variables import Variables

OUTPUTS = ("detections", "decoded", "raw")

Graph = Callable[[Variables, Tensor, Tensor], tuple[Tensor, ...]]


class Exported(NamedTuple):
    """A function of (prepared tree, images uint8 (B,3,H,W), image_sizes int32 (B,2)) and its outputs' names."""

    function: Graph
    output_names: tuple[str, ...]


def graph_of(outputs: str, canvas: Canvas, cfg: DetectorConfig) -> Exported:
    """The function for `--outputs`: 'detections', 'decoded' or 'raw'; ValueError for anything else."""
    grid = make_grid(canvas)
    if outputs == "detections":
        return Exported(
            lambda tree, images, sizes: tuple(detector.predict(Prepared(tree), images, sizes, grid, cfg)),
            DETECTION_NAMES,
        )
    if outputs == "decoded":
        return Exported(lambda tree, images, sizes: decoded(tree, images, sizes, grid, cfg), ("boxes", "scores"))
    if outputs == "raw":
        names = tuple(f"{part}_p{3 + i}" for part in ("scores", "edge_logits") for i in range(len(grid.starts)))  # P3..
        return Exported(lambda tree, images, sizes: raw(tree, images, sizes, grid, cfg), names)
    raise ValueError(f"outputs={outputs!r}: expected one of {OUTPUTS}")


def decoded(
    tree: Variables, images: Tensor, image_sizes: Tensor, grid: Grid, cfg: DetectorConfig
) -> tuple[Tensor, Tensor]:
    """Boxes (B,A,4) in canvas px and scores (B,A,K) of the foreground classes, before any choice among them."""
    outputs = detector.forward(Prepared(tree), detector.normalise(images, image_sizes, cfg), cfg)
    boxes, _ = postprocess.decode_at(outputs.edge_logits, grid.centres_px, grid.strides.unsqueeze(1), image_sizes)
    return boxes, postprocess.counted_scores(outputs, image_sizes, grid, cfg.num_classes, cfg.predict)


def raw(tree: Variables, images: Tensor, image_sizes: Tensor, grid: Grid, cfg: DetectorConfig) -> tuple[Tensor, ...]:
    """The head's outputs a level, cells row-major: five scores (B,A,K), then five edge logits (B,A,E,R).

    K counts the background channel where the head has one.
    """
    outputs = detector.forward(Prepared(tree), detector.normalise(images, image_sizes, cfg), cfg)
    cells = [rows * columns for rows, columns in grid.shapes_hw]
    return (*torch.split(outputs.scores, cells, dim=1), *torch.split(outputs.edge_logits, cells, dim=1))


def trace(function: Callable[..., tuple[Tensor, ...]], tree: Variables, inputs: Sequence[Tensor]) -> ExportedProgram:
    """A function of (tree, *inputs) as a program of fixed shapes; the tree's leaves become its buffers, by path."""
    with tree_spec_warnings_ignored(), torch.no_grad():
        return torch.export.export(FunctionModule(function, tree), tuple(inputs), strict=False)


def example_inputs(batch: int, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Inputs of the exported shapes: black pictures that fill the canvas."""
    images = torch.zeros((batch, 3, *canvas), dtype=torch.uint8)
    return images, torch.tensor([canvas] * batch, dtype=torch.int32)


@contextmanager
def tree_spec_warnings_ignored() -> Iterator[None]:
    """torch.export deep-copies its own tree specs by way of copyreg: PyTorch's use of its own deprecated class."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield

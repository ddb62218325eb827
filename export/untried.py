"""A second look where nothing was detected on any picture: the same file with its score thresholds lowered to 0.

Boxes and NMS are compared only where something is detected. A model of another kind of picture than the samples finds
nothing above its threshold, but below it there is always something, unless every score is 0. In a copy of the exported
graph the constants of the threshold, and of soft-NMS's least score, are changed; everything else is the file's own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch.export import ExportedProgram

from export.precision import SAMPLES
from export.request import Request
from gfl.runtime.description import Description, Thresholds


class Comparisons(NamedTuple):
    """Comparisons of scores with a threshold in a graph."""

    is_strict: bool
    threshold: float
    number: int


def comparisons(limits: Thresholds) -> tuple[Comparisons, ...]:
    """Of the pairs that are counted and of those that NMS takes; of soft-NMS's decayed scores."""
    of_pairs = Comparisons(True, limits.score, 2)
    return (of_pairs,) if limits.nms == "hard" else (of_pairs, Comparisons(False, limits.soft_min_score, 1))


def request_without_threshold(request: Request) -> Request:
    """The same request for a few of its pictures, for a model that takes every score above 0."""
    run = request.model.run
    predict = replace(run.detector.predict, score_threshold=0.0, soft_min_score=0.0)
    model = replace(request.model, run=replace(run, detector=replace(run.detector, predict=predict)))
    return replace(request, model=model, samples=SAMPLES, pictures=request.pictures[:SAMPLES], truth=None)


def without_threshold(description: Description) -> Description:
    """The description of a file whose score threshold is lowered to 0."""
    return replace(description, thresholds=replace(description.thresholds, score=0.0, soft_min_score=0.0))


def lower_program(program: ExportedProgram, limits: Thresholds) -> bool:
    """Lower the score thresholds of a program to 0, in place; False where they cannot be told from other numbers."""
    module, found = program.graph_module, []
    for is_strict, threshold, number in comparisons(limits):
        target = torch.ops.aten.gt.Scalar if is_strict else torch.ops.aten.ge.Scalar
        nodes = [node for node in module.graph.nodes if node.target is target and node.args[1] == threshold]
        if len(nodes) != number:
            return False
        found += nodes
    for node in found:
        node.args = (node.args[0], 0.0)
    module.recompile()
    return True

"""A second look where nothing was detected on any picture: the same file with its score threshold lowered to 0.

Boxes and NMS are compared only where something is detected. A model of another kind of picture than the samples finds
nothing above its threshold, but below it there is always something, unless every score is 0. In a copy of the exported
graph the one constant of the threshold is changed; everything else is the file's own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.export import ExportedProgram

from export.precision import SAMPLES
from export.request import Request
from gfl.runtime.description import Description

COMPARISONS = 2  # with the threshold in a graph: of the pairs that are counted, and of those that are kept


def request_without_threshold(request: Request) -> Request:
    """The same request for a few of its pictures, for a model that takes every score above 0."""
    run = request.model.run
    predict = replace(run.detector.predict, score_threshold=0.0)
    model = replace(request.model, run=replace(run, detector=replace(run.detector, predict=predict)))
    return replace(request, model=model, samples=SAMPLES, pictures=request.pictures[:SAMPLES], truth=None)


def without_threshold(description: Description) -> Description:
    """The description of a file whose score threshold is lowered to 0."""
    return replace(description, thresholds=replace(description.thresholds, score=0.0))


def lower_program(program: ExportedProgram, threshold: float) -> bool:
    """Lower the score threshold of a program to 0, in place; False where it cannot be told from other numbers."""
    module = program.graph_module
    nodes = [
        node for node in module.graph.nodes if node.target is torch.ops.aten.gt.Scalar and node.args[1] == threshold
    ]
    if len(nodes) != COMPARISONS:
        return False
    for node in nodes:
        node.args = (node.args[0], 0.0)
    module.recompile()
    return True

"""A written .onnx compared with PyTorch on sample pictures: by number in float32, by AP in smaller types.

Where it fails, the two graphs are run side by side to name the first tensor that differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from export.accuracy import Comparison
from export.compare import Compared, compare_outputs, read_batches, run_both, run_pytorch
from export.divergence import SideBySide
from export.graph import Exported, graph_of
from export.half import HalfRun
from export.parity import TOLERANCES, Parity, check_rivals
from export.precision import PARTING_TOLERANCES
from export.request import Request
from export.samples import SampleBatch
from export.translate import Translation, translate
from export.untried import request_without_threshold
from export.untried_onnx import open_lowered
from gfl.model.prepare import Prepared
from gfl.runtime.description import Description
from gfl.runtime.model import StaticFile
from gfl.runtime.onnx_file import open_onnx

NONE_PARTS = "no tensor inside is far from PyTorch's by itself: small differences add up"


class Sides(NamedTuple):
    """What a file is compared with, and what it was made of."""

    written: Translation  # the file's model and the program that it was translated from
    graph: Exported
    prepared: Prepared  # the weights that were exported
    reference: Prepared  # the same in float32


def compare(path: Path, sides: Sides, request: Request) -> Parity:
    """Compare the file at `path` with the exported function in PyTorch in float32."""
    file = open_onnx(path, threads=torch.get_num_threads())
    outcome = compare_file(file, sides, request)
    if not outcome.untried or outcome.failures:
        return outcome
    lowered = open_lowered(path, file.description)
    if lowered is None:
        return outcome
    request = request_without_threshold(request)
    sides = sides._replace(graph=graph_of(request.outputs, file.description.size, request.model.run.detector))
    outcome = compare_file(lowered, sides, request)
    outcome.lowered = True
    return outcome


def compare_file(file: StaticFile, sides: Sides, request: Request) -> Parity:
    """Compare an open file."""
    compared = run_both(file, sides.graph, sides.reference, request)
    if file.description.precision == "fp32":
        return compare_values(compared, sides.written, file.description)
    return compare_accuracy(compared, sides, request, file.description)


def compare_values(compared: Iterable[Compared], written: Translation, description: Description) -> Parity:
    """Compare the outputs of both sides number by number, batch by batch, up to the first batch that differs."""
    outcome = Parity()
    for one in compared:
        compare_outputs(outcome, one, description)
        compare_inside(outcome, one.batch, written)
        if outcome.failures:
            break
    check_rivals(outcome)
    outcome.untried = description.outputs == "detections" and not outcome.matched
    return outcome


def compare_accuracy(compared: Iterable[Compared], sides: Sides, request: Request, description: Description) -> Parity:
    """Count what the file finds, and in fp16 also what its weights find in PyTorch with float16 convolutions."""
    comparisons = [Comparison(description, request.truth)]
    half = None
    if description.precision == "fp16":
        half = HalfRun(sides.prepared, lambda prepared, batch: run_pytorch(sides.graph, prepared, batch))
        comparisons.append(Comparison(description, request.truth, "its float16 weights in PyTorch"))
    for batch, of_file, of_pytorch in compared:
        comparisons[0].add(batch, of_file, of_pytorch)
        if half is not None:
            comparisons[1].add(batch, half.run(batch), of_pytorch)
    accuracies = [comparison.outcome(request.max_ap_drop) for comparison in comparisons]
    outcome = Parity(comparisons[0].pictures, accuracies=accuracies)
    outcome.untried = description.outputs == "detections" and not any(accuracy.found for accuracy in accuracies)
    if half is not None:
        outcome.largest_half = half.largest
        if half.overflows:
            outcome.failures.append(f"{half.largest}; export it with --precision fp32")
    said = [sentence for accuracy in accuracies for sentence in accuracy.explained()]
    if not accuracies[0].passed:
        program = translate(sides.graph, sides.reference, description).program
        inputs = next(read_batches(request, description)).inputs
        parting = SideBySide(sides.written.model, program, inputs).first_parting(
            PARTING_TOLERANCES[description.precision]
        )
        # Of many sentences the first are printed, and where the graphs part explains the rest.
        first, last = ([], [NONE_PARTS]) if parting is None else ([str(parting)], [])
        said = [*first, *said, *last]
    outcome.failures += said
    return outcome


def compare_inside(outcome: Parity, batch: SampleBatch, written: Translation) -> None:
    """Compare tensors inside the graphs on the first batch; on a failing one, find where the graphs part."""
    if outcome.intermediates and not outcome.failures:
        return
    inside = SideBySide(*written, batch.inputs)
    outcome.intermediates = outcome.intermediates or inside.overview()
    if outcome.failures or not max(outcome.intermediates.values()) <= TOLERANCES["intermediates"]:
        parting = inside.first_parting()
        outcome.failures.insert(0, str(parting or "up to the choice of candidates the graphs agree"))

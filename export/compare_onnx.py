"""A written .onnx compared with PyTorch on sample pictures: by number in float32, by AP in smaller types.

Where it fails, the two graphs are run side by side to name the first tensor that differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from export.accuracy import Comparison
from export.compare import Compared, compare_outputs, read_batches, run_both
from export.divergence import SideBySide
from export.graph import Exported
from export.parity import TOLERANCES, Parity, check_rivals
from export.precision import PARTING_TOLERANCES
from export.request import Request
from export.samples import SampleBatch
from export.translate import Translation, translate
from gfl.model.prepare import Prepared
from gfl.runtime.description import Description
from gfl.runtime.onnx_file import open_onnx


def compare(path: Path, written: Translation, graph: Exported, reference: Prepared, request: Request) -> Parity:
    """Compare the file at `path` with the exported function in PyTorch in float32.

    written: the file's model and the program that it was translated from. reference: the weights in float32.
    """
    file = open_onnx(path, threads=torch.get_num_threads())
    description = file.description
    compared = run_both(file, graph, reference, request)
    if description.precision == "fp32":
        return compare_values(compared, written, description)
    comparison = Comparison(description, request.truth)
    for batch, of_file, of_pytorch in compared:
        comparison.add(batch, of_file, of_pytorch)
    accuracy = comparison.outcome(request.max_ap_drop)
    outcome = Parity(comparison.pictures, accuracy=accuracy)
    if not accuracy.passed:
        program = translate(graph, reference, description).program
        inputs = next(read_batches(request, description)).inputs
        parting = SideBySide(written.model, program, inputs).first_parting(PARTING_TOLERANCES[description.precision])
        outcome.failures += [str(parting or "no tensor inside is far from PyTorch's"), str(accuracy)]
    return outcome


def compare_values(compared: Iterable[Compared], written: Translation, description: Description) -> Parity:
    """Compare the outputs of both sides number by number, batch by batch, up to the first batch that differs."""
    outcome = Parity()
    for one in compared:
        compare_outputs(outcome, one, description)
        compare_inside(outcome, one.batch, written)
        if outcome.failures:
            break
    check_rivals(outcome)
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

"""What both formats share of the comparison with PyTorch: the pictures, the outputs of both sides, the report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from export import parity
from export.errors import CheckError
from export.graph import Exported
from export.parity import Parity
from export.precision import REMARKS, WAYS_OUT
from export.request import Request
from export.samples import SampleBatch, batches, draw_samples, read_samples
from gfl.files import to_json, write_atomic, write_errors
from gfl.model.prepare import Prepared
from gfl.runtime.description import Arrays, Description
from gfl.runtime.model import StaticFile
from gfl.runtime.on_torch.device import to_arrays


class Compared(NamedTuple):
    """A batch of sample pictures, and what the file and PyTorch make of it."""

    batch: SampleBatch
    of_file: Arrays  # (B,...)
    of_pytorch: Arrays  # (B,...) without the blanks that fill the last batch


def read_batches(request: Request, description: Description) -> Iterator[SampleBatch]:
    """The pictures to compare on, as a file of this description takes them."""
    size = description.size
    samples = draw_samples(size, request.samples)
    if request.pictures:
        samples = read_samples(request.pictures, size, description.short_side, description.long_side)
    return batches(samples, size, description.batch)


def run_both(file: StaticFile, graph: Exported, reference: Prepared, request: Request) -> Iterator[Compared]:
    """Run the sample pictures through an open file and, one at a time, through PyTorch in float32."""
    for batch in read_batches(request, file.description):
        yield Compared(batch, file.run(batch.images, batch.image_sizes), run_pytorch(graph, reference, batch))


def run_pytorch(graph: Exported, prepared: Prepared, batch: SampleBatch) -> Arrays:
    """The exported function in PyTorch, a picture at a time: the file's batch must not change what it finds."""
    with torch.inference_mode():
        outputs = [
            graph.function(prepared.tree, torch.from_numpy(images[None]), torch.from_numpy(sizes[None]))
            for _, images, sizes in zip(batch.names, batch.images, batch.image_sizes, strict=False)  # without blanks
        ]
    return to_arrays([torch.cat(parts) for parts in zip(*outputs, strict=True)], graph.output_names)


def compare_outputs(outcome: Parity, compared: Compared, description: Description) -> None:
    """Add a batch to a comparison by number: detections matched by box, anything else element by element."""
    batch, of_file, of_pytorch = compared
    outcome.pictures += batch.names
    if description.outputs == "detections":
        parity.compare_detections(outcome, batch.names, of_file, of_pytorch, description.thresholds)
    else:
        parity.compare_tensors(outcome, batch.names, of_file, of_pytorch)


def conclude(outcome: Parity | None, request: Request, description: Description, path: Path) -> Path:
    """Write the report on the comparison of a file, which will be `path`, with its checkpoint; the report's path.

    outcome: None where nothing was compared. Raises CheckError where the comparison failed, and where nothing was
    detected to compare and the request does not allow that.
    """
    report = report_path(path)
    if outcome is None:
        report.unlink(missing_ok=True)  # of an earlier file of this name, which it would vouch for
        return report
    failures = outcome.failures
    if outcome.untried and not request.allow_unchecked:
        failures = [*failures, parity.UNTRIED]
    content = report_of(outcome, request, description, path, passed=not failures)
    write_atomic(report, to_json(content, indent=2) + "\n")
    if failures:
        refusal = CheckError(f"{path} would not agree with its checkpoint ({report} has all)", failures)
        if outcome.failures and WAYS_OUT[description.precision]:
            refusal.add(WAYS_OUT[description.precision])
        raise refusal
    return report


def report_path(path: Path) -> Path:
    """The report beside a file: best.onnx -> best.parity.json, best.pt2 -> best.pt2.parity.json: both may be there."""
    return path.with_name(path.name.removesuffix(".onnx") + ".parity.json")


@contextmanager
def older_set_aside(path: Path) -> Iterator[None]:
    """Where the block's checks fail, rename an older file of this name, to which the report would not belong."""
    try:
        yield
    except CheckError as failure:
        if path.is_file():
            aside = path.with_name(f"{path.name}.old")
            with write_errors(aside):
                os.replace(path, aside)
            failure.add(f"{path.name}, which an earlier export had left there, is now {aside.name}")
        raise


def report_of(
    outcome: Parity, request: Request, description: Description, path: Path, *, passed: bool
) -> dict[str, object]:
    """The content of the .parity.json beside the file."""
    versions = {"gfl": description.version, "torch": torch.__version__}
    if path.suffix == ".onnx":
        versions["onnx"] = metadata.version("onnx")  # without importing it: a .pt2 does without
    content: dict[str, object] = {
        "file": path.name,
        "checkpoint": request.checkpoint.name,  # alone: the machine's folders are nobody's business
        "digest": description.digest,
        "passed": passed,
        "unchecked": outcome.untried,
        "score_threshold": 0.0 if outcome.lowered else description.thresholds.score,  # above which was compared
        **{name: getattr(description, name) for name in ("outputs", "precision", "size", "batch")},
        "pictures": outcome.pictures,
        "failures": outcome.failures,
        "versions": versions,
    }
    if outcome.accuracies:
        accuracies = [asdict(accuracy) for accuracy in outcome.accuracies]
        half = outcome.largest_half and outcome.largest_half._asdict()
        own = {"accuracy": accuracies[0], "half_in_pytorch": accuracies[1:], "largest_half": half}
        if request.calibration:
            content["calibration"] = [picture.name for picture in request.calibration]
        return {**content, **own, "remarks": REMARKS[description.precision]}
    tolerances = {**parity.TOLERANCES, "margin": parity.MARGIN}
    counts = {name: getattr(outcome, name) for name in ("largest", "matched", "excused", "intermediates")}
    return {**content, "tolerances": tolerances, **counts}

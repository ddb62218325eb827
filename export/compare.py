"""A written file compared with PyTorch on sample pictures: by number in float32, by AP in smaller types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import onnx
import torch

from export import parity
from export.accuracy import Comparison
from export.check import CheckError
from export.divergence import TOLERANCE, SideBySide
from export.graph import Exported
from export.parity import Parity
from export.precision import PARTING_TOLERANCES, REMARKS
from export.request import Request
from export.samples import Sample, SampleBatch, batches, draw_samples, read_samples
from export.translate import Translation, translate
from gfl.files import to_json, write_atomic
from gfl.model.prepare import Prepared
from gfl.runtime.description import Arrays, Description
from gfl.runtime.onnx_file import open_onnx


def conclude(
    request: Request, path: Path, about: Description, outcome: Parity | None, report: Path, other: str
) -> None:
    """Write the report on a comparison with `other`; raises CheckError where it failed."""
    if outcome is None:
        report.unlink(missing_ok=True)  # of an earlier file of this name, which it would vouch for
        return
    write_atomic(report, to_json(report_of(request, path, about, outcome), indent=2) + "\n")
    if outcome.failures:
        raise CheckError(f"{path} would not agree with {other} ({report} has all)", outcome.failures)


def read_batches(request: Request, about: Description) -> Iterator[SampleBatch]:
    """The pictures to compare on, as the file takes them."""
    if request.pictures:
        samples: Iterable[Sample] = read_samples(request.pictures, about.size, about.short_side, about.long_side)
    else:
        samples = draw_samples(about.size, request.samples)
    return batches(samples, about.size, about.batch)


def compare(request: Request, graph: Exported, reference: Prepared, draft: Path, written: Translation) -> Parity:
    """Run sample pictures through the file and, one at a time, through PyTorch in float32.

    A float32 file is compared number by number, up to where they differ; of others the AP is counted.
    """
    session = open_onnx(draft, threads=torch.get_num_threads())
    about = session.description
    found = (
        (batch, session.run(batch.images, batch.image_sizes), run_torch(graph, reference, batch))
        for batch in read_batches(request, about)
    )
    if about.precision == "fp32":
        return compare_values(found, about, written)
    comparison = Comparison(about, request.truth)
    for batch, ours, theirs in found:
        comparison.add(batch, ours, theirs)
    outcome = Parity(comparison.pictures, accuracy=comparison.outcome(request.max_ap_drop))
    if outcome.accuracy is not None and not outcome.accuracy.passed:
        outcome.failures.append(str(outcome.accuracy))
        program = translate(graph, reference, about).program
        first = next(read_batches(request, about))
        parting = SideBySide(written.model, program, first.inputs, PARTING_TOLERANCES[about.precision]).first_parting()
        outcome.failures.insert(0, str(parting) if parting else "no tensor inside is far from PyTorch's")
    return outcome


def compare_values(
    found: Iterable[tuple[SampleBatch, Arrays, Arrays]], about: Description, written: Translation
) -> Parity:
    """Compare batches of the file's and PyTorch's outputs number by number; stop where they differ."""
    outcome = Parity()
    for batch, ours, theirs in found:
        outcome.pictures += batch.names
        compare_outputs(outcome, batch, ours, theirs, about)
        compare_inside(outcome, batch, written)
        if outcome.failures:
            break
    parity.check_rivals(outcome)
    return outcome


def compare_outputs(outcome: Parity, batch: SampleBatch, ours: Arrays, theirs: Arrays, about: Description) -> None:
    """Compare a file's outputs with PyTorch's: detections matched by box, anything else element by element."""
    if about.outputs == "detections":
        parity.compare_detections(outcome, batch.names, ours, theirs, about.thresholds)
    else:
        parity.compare_tensors(outcome, batch.names, ours, theirs)


def compare_inside(outcome: Parity, batch: SampleBatch, written: Translation) -> None:
    """Compare tensors inside the graphs on the first batch; on a failing one, find where the graphs part."""
    if outcome.intermediates and not outcome.failures:
        return
    inside = SideBySide(*written, batch.inputs)
    if not outcome.intermediates:
        outcome.intermediates = inside.overview()
    if outcome.failures or not max(outcome.intermediates.values()) <= TOLERANCE:
        parting = inside.first_parting()
        outcome.failures.insert(0, str(parting) if parting else "up to the choice of candidates the graphs agree")


def run_torch(graph: Exported, prepared: Prepared, batch: SampleBatch) -> Arrays:
    """The exported function in PyTorch, a picture at a time: the file's batch must not change what it finds."""
    found = []
    for index in range(len(batch.names)):
        images, sizes = (torch.from_numpy(array[index : index + 1]) for array in (batch.images, batch.image_sizes))
        with torch.inference_mode():
            found.append(graph.function(prepared.tree, images, sizes))
    return {
        name: torch.cat(parts).numpy() for name, parts in zip(graph.output_names, zip(*found, strict=True), strict=True)
    }


def report_of(request: Request, path: Path, about: Description, outcome: Parity) -> dict[str, object]:
    """The content of the .parity.json beside the file."""
    content: dict[str, object] = {
        "file": path.name,
        "checkpoint": str(request.checkpoint),
        "passed": not outcome.failures,
        "outputs": about.outputs,
        "precision": about.precision,
        "size": about.size,
        "batch": about.batch,
        "pictures": outcome.pictures,
        "failures": outcome.failures,
        "versions": {"gfl": about.version, "torch": torch.__version__, "onnx": onnx.__version__},
    }
    if outcome.accuracy is not None:
        return {**content, "accuracy": asdict(outcome.accuracy), "remarks": REMARKS[about.precision]}
    tolerances = {
        "scores": parity.SCORE_TOLERANCE,
        "boxes": parity.BOX_TOLERANCE,
        "edge_logits": parity.LOGIT_TOLERANCE,
        "intermediates": TOLERANCE,
        "margin": parity.MARGIN,
    }
    found = {name: getattr(outcome, name) for name in ("largest", "matched", "excused", "intermediates")}
    return {**content, "tolerances": tolerances, **found}

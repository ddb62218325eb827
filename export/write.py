"""One exported file: traced, translated, described, checked and compared; it gets its name only when all is well."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import onnx
import torch

from export import parity
from export.accuracy import Comparison
from export.check import CheckError, violations
from export.divergence import TOLERANCE, SideBySide
from export.graph import Exported, example_inputs, graph_of, trace
from export.metadata import attach
from export.parity import Parity
from export.precision import PARTING_TOLERANCES, POLICIES, REMARKS
from export.request import Request
from export.samples import Sample, SampleBatch, batches, draw_samples, read_samples
from export.translate import Translation, to_onnx
from gfl.engine.description import INPUT_NAMES, Arrays, Description
from gfl.engine.files import atomic_file, make_folder, to_json, write_atomic
from gfl.engine.onnx_model import open_onnx
from gfl.inference.checkpoint import describe
from gfl.model import detector
from gfl.model.detector import Prepared
from gfl.settings import Canvas


class Written(NamedTuple):
    """An exported file, and what is to be said of it."""

    path: Path
    model: onnx.ModelProto
    parity: Parity | None  # None when it was not asked for
    report: Path
    seconds: float


def write_export(request: Request, size: Canvas) -> Written:
    """Export one size. Raises CheckError, leaving no file but the report, when a check fails."""
    started, path = time.perf_counter(), request.files[size]
    variables, cfg = request.model.variables, request.model.run.detector
    constants = detector.freeze(variables, cfg)
    reference = detector.prepare(variables, constants)
    about = describe(
        request.model, size=size, batch=request.batch, outputs=request.outputs, precision=request.precision
    )
    graph = graph_of(request.outputs, size, cfg)
    report = path.with_suffix(".parity.json")
    make_folder(path.parent)
    with atomic_file(path) as stream:
        prepared = detector.prepare(variables, constants, POLICIES[request.precision])
        translation = translate(graph, prepared, about)
        model = quantised(request, translation.model, about) if request.precision == "int8" else translation.model
        attach(model, about)
        stream.write(model.SerializeToString())
        stream.flush()
        draft = Path(stream.name)
        written = onnx.load(draft)
        if found := violations(written, request.precision):
            raise CheckError(f"{path} would break the rules of a static graph", found)
        told = Translation(written, translation.program)
        outcome = compare(request, graph, reference, draft, told) if request.parity else None
        conclude(request, path, about, outcome, report, "PyTorch")
    return Written(path, written, outcome, report, time.perf_counter() - started)


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


def translate(graph: Exported, prepared: Prepared, about: Description) -> Translation:
    """Trace a function with its weights and translate it."""
    program = trace(graph.function, prepared.tree, example_inputs(about.batch, about.size))
    return to_onnx(program, INPUT_NAMES, graph.output_names)


def quantised(request: Request, model: onnx.ModelProto, about: Description) -> onnx.ModelProto:
    """The int8 form of a float32 graph, with ranges from the request's pictures."""
    from export.quantise import quantise  # late: it takes a second to import, and int8 alone needs it

    return quantise(model, (batch.inputs for batch in read_batches(request, about)))


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

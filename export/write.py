"""One exported file: traced, translated, described, checked and compared; it gets its name only when all is well."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export import parity
from export.check import CheckError, violations
from export.divergence import TOLERANCE, SideBySide
from export.graph import Exported, example_inputs, graph_of, trace
from export.metadata import attach, describe
from export.parity import Parity
from export.request import Request
from export.samples import SampleBatch, batches, draw_samples, read_samples
from export.translate import Translation, to_onnx
from gfl.engine.description import INPUT_NAMES, Arrays, Description
from gfl.engine.files import atomic_file, make_folder, to_json, write_atomic
from gfl.engine.onnx_model import open_onnx
from gfl.model.detector import Prepared
from gfl.settings import Canvas


class Written(NamedTuple):
    """An exported file, and what is to be said of it."""

    path: Path
    model: onnx.ModelProto
    parity: Parity | None  # None when it was not asked for
    report: Path
    seconds: float


def write_export(request: Request, prepared: Prepared, size: Canvas) -> Written:
    """Export one size. Raises CheckError, leaving no file but the report, when a check fails."""
    started, path = time.perf_counter(), request.files[size]
    about = describe(
        request.model, size=size, batch=request.batch, outputs=request.outputs, precision=request.precision
    )
    graph = graph_of(request.outputs, size, request.model.run.detector)
    report = path.with_suffix(".parity.json")
    make_folder(path.parent)
    with atomic_file(path) as stream:
        program = trace(graph.function, prepared.tree, example_inputs(request.batch, size))
        translation = to_onnx(program, INPUT_NAMES, graph.output_names)
        attach(translation.model, about)
        stream.write(translation.model.SerializeToString())
        stream.flush()
        draft = Path(stream.name)
        written = onnx.load(draft)
        if found := violations(written):
            raise CheckError(f"{path} would break the rules of a static graph", found)
        outcome = None
        if request.parity:
            outcome = compare(request, graph, prepared, draft, Translation(written, translation.program))
            write_atomic(report, to_json(report_of(request, path, about, outcome), indent=2) + "\n")
            if outcome.failures:
                raise CheckError(f"{path} would not agree with PyTorch ({report} has all)", outcome.failures)
    return Written(path, written, outcome, report, time.perf_counter() - started)


def compare(request: Request, graph: Exported, prepared: Prepared, draft: Path, written: Translation) -> Parity:
    """Run sample pictures through the file and, one at a time, through PyTorch; stop where they differ."""
    session = open_onnx(draft, threads=torch.get_num_threads())
    about, outcome = session.description, Parity()
    if request.pictures:
        samples = read_samples(request.pictures, about.size, about.short_side, about.long_side)
    else:
        samples = draw_samples(about.size, request.samples)
    for batch in batches(samples, about.size, about.batch):
        ours, theirs = session.run(batch.images, batch.image_sizes), run_torch(graph, prepared, batch)
        outcome.pictures += batch.names
        if request.outputs == "detections":
            parity.compare_detections(outcome, batch.names, ours, theirs, about.thresholds)
        else:
            parity.compare_tensors(outcome, batch.names, ours, theirs)
        compare_inside(outcome, batch, written)
        if outcome.failures:
            break
    return outcome


def compare_inside(outcome: Parity, batch: SampleBatch, written: Translation) -> None:
    """Compare tensors inside the graphs on the first batch; on a failing one, find where the graphs part."""
    if outcome.intermediates and not outcome.failures:
        return
    inside = SideBySide(*written, inputs_of(batch))
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


def inputs_of(batch: SampleBatch) -> dict[str, NDArray[np.generic]]:
    """A batch under the names of the graph's inputs."""
    return dict(zip(INPUT_NAMES, (batch.images, batch.image_sizes), strict=True))


def report_of(request: Request, path: Path, about: Description, outcome: Parity) -> dict[str, object]:
    """The content of the .parity.json beside the file."""
    return {
        "file": path.name,
        "checkpoint": str(request.checkpoint),
        "passed": not outcome.failures,
        "outputs": about.outputs,
        "size": about.size,
        "batch": about.batch,
        "pictures": outcome.pictures,
        "tolerances": {
            "scores": parity.SCORE_TOLERANCE,
            "boxes": parity.BOX_TOLERANCE,
            "edge_logits": parity.LOGIT_TOLERANCE,
            "intermediates": TOLERANCE,
            "margin": parity.MARGIN,
        },
        "largest": outcome.largest,
        "matched": outcome.matched,
        "excused": outcome.excused,
        "failures": outcome.failures,
        "intermediates": outcome.intermediates,
        "versions": {"gfl": about.version, "torch": torch.__version__, "onnx": onnx.__version__},
    }

"""One exported file: traced, translated, described, checked and compared; it gets its name only when all is well."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import onnx

from export.check import CheckError, violations
from export.compare import compare, conclude, read_batches
from export.graph import graph_of
from export.parity import Parity
from export.precision import POLICIES
from export.request import Request
from export.translate import Translation, translate
from gfl.files import atomic_file, make_folder
from gfl.model import detector
from gfl.runtime.description import Description
from gfl.runtime.on_torch.pt_file import describe
from gfl.shapes import Canvas


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


def attach(model: onnx.ModelProto, description: Description) -> None:
    """Write the description into the model's metadata, in place."""
    model.producer_name, model.producer_version = "gfl", description.version
    onnx.helper.set_model_props(model, description.to_metadata())


def quantised(request: Request, model: onnx.ModelProto, about: Description) -> onnx.ModelProto:
    """The int8 form of a float32 graph, with ranges from the request's pictures."""
    from export.quantise import quantise  # late: it takes a second to import, and int8 alone needs it

    return quantise(model, (batch.inputs for batch in read_batches(request, about)))

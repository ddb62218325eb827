"""One exported .onnx: translated, described, checked and compared; it gets its name only when all is well."""

from __future__ import annotations

import time
from pathlib import Path

import onnx

from export.check import DTYPES, violations
from export.compare import conclude, older_set_aside, report_path
from export.compare_onnx import Sides, compare
from export.errors import CheckError
from export.graph import graph_of
from export.precision import POLICIES, REMARKS
from export.request import Request, describe_export, export_memory
from export.samples import read_feeds
from export.summary import Written
from export.translate import Translation, translate
from gfl.files import atomic_file, make_folder
from gfl.model import detector
from gfl.runtime.description import Description
from gfl.shapes import Canvas


def write_onnx(request: Request, size: Canvas) -> Written:
    """Export one size. Raises CheckError, leaving no file but the report, when a check fails."""
    started, path = time.perf_counter(), request.files[size]
    variables, cfg = request.model.variables, request.model.run.detector
    constants = detector.freeze(variables, cfg)
    description = describe_export(request, size)
    graph = graph_of(request.outputs, size, cfg)
    make_folder(path.parent)
    with export_memory(size, request.batch), older_set_aside(path), atomic_file(path) as stream:
        prepared = detector.prepare(variables, constants, POLICIES[request.precision])
        model, program = translate(graph, prepared, description)
        if request.precision == "int8":
            from export.quantise import quantise  # late: it takes a second to import, and int8 alone needs it

            model = quantise(model, read_feeds(request.calibration, description))
        attach(model, description)
        stream.write(model.SerializeToString())
        stream.flush()
        draft = Path(stream.name)
        model = onnx.load(draft)
        if broken := violations(model, request.precision):
            report_path(path).unlink(missing_ok=True)  # of an earlier file
            raise CheckError(f"{path} would break the rules of a static graph", broken)
        outcome = None
        if request.parity:
            reference = detector.prepare(variables, constants)
            outcome = compare(draft, Sides(Translation(model, program), graph, prepared, reference), request)
        report = conclude(outcome, request, description, path)
    form = f"opset {model.opset_import[0].version}, IR {model.ir_version}, {len(model.graph.node)} nodes"
    ends = (("in ", model.graph.input), ("out", model.graph.output))
    values = tuple(f"{end} {value.name:<14} {spell_type(value)}" for end, values in ends for value in values)
    remarks = [f"{request.precision}: {remark}" for remark in REMARKS[request.precision]]
    return Written(path, form, values, outcome, report, time.perf_counter() - started, tuple(remarks))


def attach(model: onnx.ModelProto, description: Description) -> None:
    """Write the description into the model's metadata, in place."""
    model.producer_name, model.producer_version = "gfl", description.version
    onnx.helper.set_model_props(model, description.to_metadata())


def spell_type(value: onnx.ValueInfoProto) -> str:
    """The dtype and shape of an input or output: 'float32  1x100x4'."""
    kind = value.type.tensor_type
    return f"{DTYPES[kind.elem_type]:<8} {'x'.join(str(size.dim_value) for size in kind.shape.dim)}"

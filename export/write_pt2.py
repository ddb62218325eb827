"""One exported .pt2: traced, described, read back and compared; it gets its name only when all is well.

Nothing here imports onnx or ONNX Runtime.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from export.compare import compare_outputs, conclude, older_set_aside, run_both
from export.graph import Exported, example_inputs, graph_of, trace
from export.parity import Parity, check_rivals
from export.request import Request, describe_export, export_memory
from export.summary import Written
from export.untried import lower_program, request_without_threshold, without_threshold
from gfl.files import atomic_file, make_folder
from gfl.model import detector
from gfl.model.prepare import Prepared
from gfl.runtime.on_torch.device import torch_device_of
from gfl.runtime.on_torch.pt2_file import Program, load_program, open_program, save_program
from gfl.runtime.providers import ProviderChoice
from gfl.shapes import Canvas


def write_program(request: Request, size: Canvas) -> Written:
    """Export one size. Raises CheckError, leaving no file but the report, when the program gives other results."""
    started, path = time.perf_counter(), request.files[size]
    variables, cfg = request.model.variables, request.model.run.detector
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    description = describe_export(request, size)
    graph = graph_of(request.outputs, size, cfg)
    make_folder(path.parent)
    with export_memory(size, request.batch), older_set_aside(path), atomic_file(path) as stream:
        program = trace(graph.function, prepared.tree, example_inputs(request.batch, size))
        save_program(program, description, graph.output_names, stream)
        stream.flush()
        outcome = None
        if request.parity:
            opened = open_program(Path(stream.name), choice=ProviderChoice("cpu"))
            outcome = compare(opened, graph, prepared, request)
            if outcome.untried and not outcome.failures:
                outcome = look_below(Path(stream.name), prepared, request) or outcome
        report = conclude(outcome, request, description, path)
    form = f"torch.export program of torch {torch.__version__.split('+')[0]}"
    values = (
        f"in  images         uint8    {request.batch}x3x{size[0]}x{size[1]}",
        f"in  image_sizes    int32    {request.batch}x2",
        f"out {', '.join(graph.output_names)}",
    )
    return Written(path, form, values, outcome, report, time.perf_counter() - started)


def compare(file: Program, graph: Exported, prepared: Prepared, request: Request) -> Parity:
    """Compare an open program with the exported function."""
    outcome = Parity()
    for compared in run_both(file, graph, prepared, request):
        compare_outputs(outcome, compared, file.description)
    check_rivals(outcome)
    outcome.untried = request.outputs == "detections" and not outcome.matched
    return outcome


def look_below(path: Path, prepared: Prepared, request: Request) -> Parity | None:
    """Compare a program where it detected nothing, below its threshold; None where that cannot be lowered."""
    program, description, output_names = load_program(path)
    if not lower_program(program, description.thresholds):
        return None
    device, report = torch_device_of(ProviderChoice("cpu"))
    lowered = Program(path, without_threshold(description), output_names, program.module(), device, report)
    request = request_without_threshold(request)
    graph = graph_of(request.outputs, description.size, request.model.run.detector)
    outcome = compare(lowered, graph, prepared, request)
    outcome.lowered = True
    return outcome

"""One exported .pt2: traced, described, read back and compared; it gets its name only when all is well.

Nothing here imports onnx or ONNX Runtime.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from export.compare import compare_outputs, conclude, run_both
from export.graph import example_inputs, graph_of, trace
from export.parity import Parity, check_rivals
from export.request import Request
from export.summary import Written
from gfl.files import atomic_file, make_folder
from gfl.model import detector
from gfl.runtime.on_torch.pt2_file import open_program, save_program
from gfl.runtime.on_torch.pt_file import describe
from gfl.runtime.providers import ProviderChoice
from gfl.shapes import Canvas


def write_program(request: Request, size: Canvas) -> Written:
    """Export one size. Raises CheckError, leaving no file but the report, when the program gives other results."""
    started, path = time.perf_counter(), request.files[size]
    variables, cfg = request.model.variables, request.model.run.detector
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    description = describe(request.model, size=size, batch=request.batch, outputs=request.outputs)
    graph = graph_of(request.outputs, size, cfg)
    make_folder(path.parent)
    with atomic_file(path) as stream:
        program = trace(graph.function, prepared.tree, example_inputs(request.batch, size))
        save_program(program, description, graph.output_names, stream)
        stream.flush()
        outcome = None
        if request.parity:
            outcome = Parity()
            opened = open_program(Path(stream.name), choice=ProviderChoice("cpu"))
            for compared in run_both(opened, graph, prepared, request):
                compare_outputs(outcome, compared, description)
            check_rivals(outcome)
        report = conclude(outcome, request, description, path)
    form = f"torch.export program of torch {torch.__version__.split('+')[0]}"
    values = (
        f"in  images         uint8    {request.batch}x3x{size[0]}x{size[1]}",
        f"in  image_sizes    int32    {request.batch}x2",
        f"out {', '.join(graph.output_names)}",
    )
    return Written(path, form, values, outcome, report, time.perf_counter() - started)

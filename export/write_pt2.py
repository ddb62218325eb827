"""One exported .pt2: traced, described, read back and compared; it gets its name only when all is well."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from export.compare import compare_outputs, conclude, read_batches, run_torch
from export.graph import example_inputs, graph_of, trace
from export.parity import Parity, check_rivals
from export.request import Request
from export.summary import agreement
from gfl.files import atomic_file, make_folder
from gfl.model import detector
from gfl.runtime.on_torch.pt2_file import open_program, save_program
from gfl.runtime.on_torch.pt_file import describe
from gfl.runtime.providers import ProviderChoice
from gfl.shapes import Canvas


class WrittenProgram(NamedTuple):
    """An exported program, and what is to be said of it."""

    path: Path
    size: Canvas
    batch: int
    output_names: tuple[str, ...]
    parity: Parity | None  # None when it was not asked for
    report: Path
    seconds: float


def write_program(request: Request, size: Canvas) -> WrittenProgram:
    """Export one size. Raises CheckError, leaving no file but the report, when the program gives other results."""
    started, path = time.perf_counter(), request.files[size]
    variables, cfg = request.model.variables, request.model.run.detector
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    about = describe(request.model, size=size, batch=request.batch, outputs=request.outputs)
    graph = graph_of(request.outputs, size, cfg)
    report = path.with_name(path.name + ".parity.json")  # an .onnx of that stem has one, too
    outcome = None
    make_folder(path.parent)
    with atomic_file(path) as stream:
        program = trace(graph.function, prepared.tree, example_inputs(request.batch, size))
        save_program(program, about, graph.output_names, stream)
        stream.flush()
        if request.parity:
            opened = open_program(Path(stream.name), choice=ProviderChoice("cpu"))
            outcome = Parity()
            for batch in read_batches(request, about):
                outcome.pictures += batch.names
                ours = opened.run(batch.images, batch.image_sizes)
                compare_outputs(outcome, batch, ours, run_torch(graph, prepared, batch), about)
            check_rivals(outcome)
        conclude(request, path, about, outcome, report, "its checkpoint")
    return WrittenProgram(path, size, request.batch, graph.output_names, outcome, report, time.perf_counter() - started)


def program_summary(written: WrittenProgram) -> Iterator[str]:
    """The lines about one program."""
    height, width = written.size
    yield (
        f"{written.path}: {written.path.stat().st_size / 1e6:.1f} MB, torch.export program of torch "
        f"{torch.__version__.split('+')[0]}, {written.seconds:.0f} s"
    )
    yield f"  in  images         uint8    {written.batch}x3x{height}x{width}"
    yield f"  in  image_sizes    int32    {written.batch}x2"
    yield f"  out {', '.join(written.output_names)}"
    if written.parity is None:
        yield "  not compared with its checkpoint (--skip_parity)"
    else:
        yield f"  {agreement(written.parity)}"
        yield f"  report: {written.report}"

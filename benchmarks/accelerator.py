"""The training step on a GPU or an NPU: `python -m benchmarks.accelerator [--json FILE] [--output FILE]`.

Pictures a second and peak memory in each precision, compiled and not; how far a step is from its convolutions alone;
the exported graph on ONNX Runtime's CUDA.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import graphs
from benchmarks.cases import RUN_FILES
from benchmarks.command_line import benchmark_flags, canvas, positive, rounds_of, run_program
from benchmarks.convolutions import LAYOUTS, bare_seconds, forms, record_fake, synchronise
from benchmarks.inputs import random_batch, with_lively_norms
from benchmarks.measure import Timing, figures_of, interleave, milliseconds, spread, timed
from benchmarks.parts import RATE
from benchmarks.tables import Findings, Table
from gfl.config import read_run
from gfl.engine.device import choose_device, describe, expect_shapes, memory_bytes
from gfl.engine.module import DetectorModule
from gfl.engine.precision_choice import PRECISIONS, can_compute
from gfl.engine.state import make_state, step
from gfl.errors import InputError
from gfl.model import detector
from gfl.model.structures import Batch
from gfl.runtime.description import DETECTION_NAMES, INPUT_NAMES
from gfl.runtime.onnx_session import ProviderSession
from gfl.runtime.providers import ProviderChoice
from gfl.settings import RunConfig
from gfl.shapes import Canvas
from gfl.tensors.precision import policy_of

PICTURES, CANVAS = 16, (800, 1344)
QUICK_PICTURES, QUICK_CANVAS = 2, (64, 64)
BOXES = 8  # a picture
COMPILED: Mapping[str, bool | str] = {
    "": False,
    "compiled": True,
    "max-autotune-no-cudagraphs": "max-autotune-no-cudagraphs",
    "reduce-overhead": "reduce-overhead",
}
ORT_PICTURES = 1


class Setting(NamedTuple):
    """What is measured, and where."""

    name: str  # r50 | small
    run: RunConfig
    canvas_hw: Canvas
    pictures: int
    repeats: int
    device: torch.device

    def title(self) -> str:
        height, width = self.canvas_hw
        return f"{self.name}, {self.pictures} x {height}x{width} on {describe(self.device)}"


class Alone(NamedTuple):
    """Seconds of all convolutions of a step, each timed alone."""

    by_layout: Mapping[str, float]  # all of them in one layout
    best: float  # each in the layout in which it is faster
    layers: int  # how many of them


class Measured(NamedTuple):
    """One form of the step."""

    timing: Timing
    start_s: float  # of the first step: compilation, and the choice of algorithms
    peak_bytes: int | None  # of the device; None on a CPU, which counts the whole process


def run_in(setting: Setting, precision: str, how: bool | str) -> RunConfig:
    """The run in one precision, compiled or not."""
    return replace(setting.run, precision=precision, compile=how)  # type: ignore[arg-type]  # of PRECISIONS, COMPILED


def time_convolutions(setting: Setting, precision: str) -> Alone:
    """The convolutions of a step in a precision."""
    layers = record_fake(run_in(setting, precision, False), setting.canvas_hw, setting.pictures, BOXES)
    timings = interleave(forms(layers, setting.device), setting.repeats)
    by_layout = {layout: bare_seconds(layers, timings, [layout]) for layout in LAYOUTS}
    return Alone(by_layout, bare_seconds(layers, timings), layers.total())


def measure_step(setting: Setting, run: RunConfig) -> Measured:
    """The whole step with its batch on the device, as training runs it."""
    device, on_device = setting.device, partial(torch.Tensor.to, device=setting.device)
    variables = with_lively_norms(detector.init(run.detector, seed=0))
    policy = policy_of(run.precision)
    state = make_state(DetectorModule(variables, run.detector, (setting.canvas_hw,), device, policy=policy), run)
    batch = Batch(*map(on_device, random_batch(setting.pictures, BOXES, setting.canvas_hw, run.detector.num_classes)))

    def one() -> None:
        step(state, [batch], RATE, run.optim)
        synchronise(device)

    started = time.perf_counter()
    one()
    start_s = time.perf_counter() - started
    one()  # its memory is that of any later step: the first one's may hold what tried algorithms needed
    if device.type != "cpu":
        torch.get_device_module(device).reset_peak_memory_stats()
    timing = interleave([timed("step", one)], setting.repeats)["step"]
    return Measured(timing, start_s, None if device.type == "cpu" else memory_bytes(device))


def measure_all(setting: Setting, ways: Sequence[str]) -> dict[tuple[str, str], Measured | str]:
    """{(precision, way of compiling): what was measured, or why nothing was}, one after the other."""
    measured: dict[tuple[str, str], Measured | str] = {}
    for precision in PRECISIONS:
        for way in ways:
            if not can_compute(precision, setting.device):
                measured[precision, way] = "the device does not compute in it"
                continue
            torch._dynamo.reset()
            try:
                measured[precision, way] = measure_step(setting, run_in(setting, precision, COMPILED[way]))
            except Exception as error:  # of a compiler, say: the other forms are still worth their figures
                measured[precision, way] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            if setting.device.type != "cpu":
                torch.get_device_module(setting.device).empty_cache()
    return measured


def step_table(
    setting: Setting, measured: Mapping[tuple[str, str], Measured | str], alone: Mapping[str, Alone]
) -> Table:
    """A row a form: its time, rate and memory, and its time as a multiple of that of its convolutions."""
    rows = []
    for (precision, way), found in measured.items():
        name = " ".join(part for part in (precision, way) if part)
        if isinstance(found, str):
            rows.append((name, found, "", "", "", "", ""))
            continue
        memory = "" if found.peak_bytes is None else f"{found.peak_bytes / 2**20:,.0f}"
        ratio = f"{found.timing.median / alone[precision].best:.2f}"
        rate = f"{setting.pictures / found.timing.median:,.1f}"
        rows.append((name, *spread(found.timing), rate, memory, ratio, f"{found.start_s:,.1f}"))
    return Table(
        f"The step: {setting.title()}",
        ("", "ms", "min - max", "pictures/s", "peak MiB", "x its convolutions", "first step s"),
        tuple(rows),
        "Forward, loss, backward and optimiser, the batch on the device already. Peak: of the memory that torch "
        "allocated there. Its convolutions: the sum below. First step: compilation and the choice of algorithms. The "
        "forms ran one after the other, so that each had the device's memory to itself.",
    )


def bare_table(setting: Setting, alone: Mapping[str, Alone]) -> Table:
    """The sum of a step's convolutions in each layout."""
    rows = tuple(
        (name, str(sums.layers), *map(milliseconds, (*sums.by_layout.values(), sums.best)))
        for name, sums in alone.items()
    )
    header = ("", "layers", *(f"{layout} ms" for layout in LAYOUTS), "best layout each, ms")
    note = "Each convolution of the step, forward and backward, timed alone, times how often it comes."
    return Table(f"The step's convolutions alone: {setting.title()}", header, rows, note)


def onnx_table(setting: Setting) -> Table:
    """The exported graph by ONNX Runtime with its CUDA provider, or why not."""
    case = graphs.make_case(setting.run.detector, setting.canvas_hw, ORT_PICTURES)
    model = graphs.our_graph(case.prepared, ORT_PICTURES, setting.canvas_hw, case.cfg)
    feed = dict(zip(INPUT_NAMES, (case.images.numpy(), case.image_sizes.numpy()), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            session = ProviderSession(path, ProviderChoice("cuda"), threads=torch.get_num_threads())
            session.run(DETECTION_NAMES, feed)
        except InputError as error:
            cells: tuple[str, ...] = (str(error)[:120], "", "")
        else:
            timings = interleave([timed("run", partial(session.run, DETECTION_NAMES, feed))], setting.repeats)
            cells = (*spread(timings["run"]), f"{ORT_PICTURES / timings['run'].median:,.1f}")
    height, width = setting.canvas_hw
    return Table(
        f"Inference by ONNX Runtime's CUDA: {setting.name}, {ORT_PICTURES} x {height}x{width}",
        ("", "ms", "min - max", "pictures/s"),
        (("exported graph, float32", *cells),),
        "uint8 pictures on the host in, detections on the host out.",
    )


def read_setting(arguments: argparse.Namespace) -> Setting:
    """The device, the run and its sizes; InputError without a GPU or an NPU, unless a CPU is asked for."""
    device = choose_device(arguments.device)
    if device.type == "cpu" and arguments.device != "cpu":
        raise InputError(
            "got a machine without a GPU or an NPU, expected one, which this benchmark measures; run it where "
            "`python -m gfl.doctor` names one, or give --device cpu --quick to see that it runs"
        )
    canvas_hw = arguments.size or (QUICK_CANVAS if arguments.quick else CANVAS)
    run = read_run([RUN_FILES[arguments.config]]).run
    pictures = arguments.batch or (QUICK_PICTURES if arguments.quick else PICTURES)
    run = replace(run, batch_size=pictures, accumulate=1, apex=False)
    return Setting(arguments.config, run, canvas_hw, pictures, rounds_of(arguments), device)


def measure(arguments: argparse.Namespace) -> Findings:
    """All tables of one setting."""
    setting = read_setting(arguments)
    expect_shapes(setting.device, fixed=True)
    possible = [precision for precision in PRECISIONS if can_compute(precision, setting.device)]
    alone: dict[str, Alone] = {precision: time_convolutions(setting, precision) for precision in possible}
    measured = measure_all(setting, [""] if arguments.quick else list(COMPILED))
    tables = [step_table(setting, measured, alone), bare_table(setting, alone)]
    if setting.device.type == "cuda":
        tables.append(onnx_table(setting))
    return Findings(tuple(tables), dict(figures(setting, measured, alone)))


def figures(
    setting: Setting, measured: Mapping[tuple[str, str], Measured | str], alone: Mapping[str, Alone]
) -> Iterator[tuple[str, object]]:
    """What the JSON holds."""
    yield "config", setting.name
    yield "device", describe(setting.device)
    yield "canvas", setting.canvas_hw
    yield "batch", setting.pictures
    yield "convolutions", {precision: sums._asdict() for precision, sums in alone.items()}
    for (precision, way), found in measured.items():
        name = " ".join(part for part in (precision, way) if part)
        if isinstance(found, str):
            yield name, found
        else:
            seconds = figures_of({"step": found.timing})["step"]
            yield name, {"seconds": seconds, "start_s": found.start_s, "peak_bytes": found.peak_bytes}


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.accelerator", __doc__)
    flags.add_argument("--device", default="auto", choices=("auto", "cuda", "npu", "cpu"), help="default: auto")
    flags.add_argument("--config", choices=sorted(RUN_FILES), default="r50", help="the run file (default r50)")
    flags.add_argument("--size", type=canvas, metavar="HxW", help="the canvas (default 800x1344)")
    flags.add_argument("--batch", type=positive, help=f"pictures a step (default {PICTURES})")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

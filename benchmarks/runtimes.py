"""One model through every runtime: `python -m benchmarks.runtimes --model FILE --images DIR --annotations FILE ...`.

Each row is a run of `python -m export.to`, which compares the file with PyTorch and times it in turns with ONNX
Runtime; the first rows are ONNX Runtime's own files. Runtimes whose packages exclude each other can have a Python each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_line import positive
from benchmarks.sections import pythons_of, run_section, section_flags
from benchmarks.tables import Findings, Table
from export import onnx as export_onnx
from export import to
from export.formats import FORMATS
from export.gate import Verdict, judge
from export.sources import CPU, read_sources
from gfl.errors import InputError
from gfl.files import to_json
from gfl.runtime.model import StaticFile
from gfl.runtime.on_torch.pt2_file import open_program
from gfl.runtime.onnx_file import open_onnx

# What runs a format, and its licence as its package's metadata or repository says.
RUNTIMES = {
    "onnx": ("ONNX Runtime", "MIT"),
    "pt2": ("PyTorch", "BSD-3-Clause"),
    "openvino": ("OpenVINO", "Apache-2.0"),
    "mnn": ("MNN", "Apache-2.0; its package says BSD-3-Clause"),
    "ncnn": ("ncnn", "BSD-3-Clause"),
    "litert": ("LiteRT", "Apache-2.0"),
    "executorch": ("ExecuTorch", "BSD-3-Clause"),
    "opencv": ("OpenCV", "Apache-2.0"),
    "coreml": ("Core ML", "Apple's; coremltools BSD-3-Clause"),
    "rknn": ("Rockchip's simulator", "not stated"),
    "tensorrt": ("TensorRT", "NVIDIA's"),
}
SIMULATED = ("rknn",)  # on this machine's CPU: its time says nothing of the chip's
ONNX_PRECISIONS = ("fp32", "fp16", "int8")
QUICK_SAMPLES = 4
HEADER = ("runtime", "form", "precision", "scores / boxes px", "AP", "ms", "beside", "MB", "licence", "run here")


class Row(NamedTuple):
    """One file in one runtime."""

    format: str
    precision: str
    report: dict[str, object]  # as `export.to` writes it; of a file that could not be made only `not_run`

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        report, (name, licence) = self.report, RUNTIMES[self.format]
        versions = ", ".join(f"{package} {version}" for package, version in part(report, "versions").items())
        head = (f"{name} ({versions})" if versions else name, str(report.get("outputs", "")), self.precision)
        mb = f"{number(report, 'mb'):.1f}" if "mb" in report else ""
        if report.get("not_run"):
            return (*head, "", "", "", "", mb, licence, str(report["not_run"]))
        accuracy, beside = part(report, "accuracy"), part(report, "beside")
        ms, rival = number(report, "ms"), number(beside, "ms")
        largest = part(report, "largest")
        scores = max((number(largest, key) for key in largest if key.startswith("scores")), default=None)
        boxes = number(largest, "boxes") if "boxes" in largest else None
        difference = " / ".join("-" if value is None else f"{value:.1g}" for value in (scores, boxes))
        ap = "" if accuracy["file_ap"] is None else f"{number(accuracy, 'file_ap'):.4f}"
        apart = difference if largest else "by AP"
        if self.format in SIMULATED:
            return (*head, apart, ap, "", "", mb, licence, "simulated")
        return (*head, apart, ap, f"{ms:.1f}", f"{ms / rival:.2f}", mb, licence, "yes")


def part(report: dict[str, object], name: str) -> dict[str, object]:
    """An object inside a report; empty where it is missing."""
    value = report.get(name)
    return value if isinstance(value, dict) else {}


def number(report: dict[str, object], name: str) -> float:
    """A number inside a report."""
    return float(str(report[name]))


def measure(arguments: argparse.Namespace) -> Findings:
    """All rows, ONNX Runtime's first."""
    pythons = pythons_of(arguments.python, FORMATS)
    rows = []
    with tempfile.TemporaryDirectory(prefix="gfl_runtimes_") as folder:
        for row in chain(own_files(arguments, Path(folder, "own")), converted(arguments, pythons, Path(folder))):
            print(" | ".join(row.cells()), flush=True)
            rows.append(row)
    return Findings((table_of(rows, arguments),), {"rows": [row._asdict() for row in rows]})


def flags_of(arguments: argparse.Namespace, name: str, precision: str, output: Path) -> list[str]:
    """The command line of `export.to`."""
    words = ["--format", name, "--precision", precision, "--model", arguments.model, "--output", output]
    words += ["--images", arguments.images, "--annotations", arguments.annotations]
    words += ["--samples", QUICK_SAMPLES if arguments.quick else arguments.samples, "--threads", arguments.threads]
    if precision == "int8":
        words += ["--calibration", arguments.calibration or arguments.images]
    if precision != "fp32":
        words += ["--max_ap_drop", 1]  # what it loses is told here, not judged
    return [*map(str, words), *arguments.flags]


def converted(arguments: argparse.Namespace, pythons: dict[str, str], folder: Path) -> Iterator[Row]:
    """A run of `export.to` for each format and precision."""
    for name in arguments.formats:
        for precision in FORMATS[name].precisions:
            output = folder / f"{name}_{precision}"
            words = flags_of(arguments, name, precision, output)
            started = [pythons.get(name, sys.executable), "-m", "export.to", *words]
            done = subprocess.run(started, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                report = json.loads(next(output.glob("*.parity.json")).read_text(encoding="utf-8"))
            else:
                report = {"outputs": FORMATS[name].forms[0], "not_run": reason(done)}
            yield Row(name, precision, report)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a program ended as it did: its sentence, and the first example where there are some."""
    lines = [line.strip() for line in done.stderr.splitlines()]
    start = next((i for i, line in enumerate(lines) if line.startswith(("error: ", "failed: "))), None)
    return f"ended with {done.returncode}" if start is None else " ".join(lines[start : start + 2])


def own_files(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """The .onnx in each precision, and the .pt2, in the same comparison."""
    request = to.parser().parse_args(flags_of(arguments, "executorch", "fp32", folder))
    sources, pictures = read_sources(request, FORMATS["executorch"], folder)  # writes an .onnx and a .pt2
    if len(sources) != 1:
        raise InputError(
            f"{arguments.model} has {len(sources)} canvases, expected one; choose it by --flags --size HxW"
        )
    source = sources[0]
    for precision in ONNX_PRECISIONS:
        path = source.rival.path
        if precision != "fp32":
            path = folder / f"{precision}.onnx"
            words = [("--checkpoint", arguments.model), ("--precision", precision), ("--output", path)]
            words += [("--images", arguments.images), ("--annotations", arguments.annotations), ("--max_ap_drop", 1)]
            words += [("--calibration", arguments.calibration)] if precision == "int8" and arguments.calibration else []
            if export_onnx.main([*(str(word) for pair in words for word in pair), *arguments.flags]) != 0:
                raise InputError(f"{arguments.model} could not be exported in {precision}; see above")
        verdict = judge(open_onnx(path, threads=arguments.threads), source, pictures, arguments.threads)
        yield own_row("onnx", precision, path, verdict)
    program: StaticFile = open_program(source.path, threads=arguments.threads, choice=CPU)
    yield own_row("pt2", "fp32", source.path, judge(program, source, pictures, arguments.threads))


def own_row(name: str, precision: str, path: Path, verdict: Verdict) -> Row:
    """The row of a file that this project writes itself."""
    package = {"onnx": "onnxruntime", "pt2": "torch"}[name]
    about = {"outputs": "detections", "mb": path.stat().st_size / 1e6, "versions": {package: metadata.version(package)}}
    return Row(name, precision, {**about, **json.loads(to_json(verdict.content()))})


def table_of(rows: Sequence[Row], arguments: argparse.Namespace) -> Table:
    """The rows for people."""
    accuracy = part(rows[0].report, "accuracy")
    note = (
        f"Against PyTorch in float32 (AP {number(accuracy, 'pytorch_ap'):.4f}) on {accuracy['pictures']} pictures. "
        "Scores / boxes px: the largest difference of a detection, or of an output number by number. ms: a run of one "
        "picture, the median of ten in turns with ONNX Runtime in float32, in the same process; beside: the share of "
        "its time. "
        f"Threads: {arguments.threads}."
    )
    return Table(arguments.title, HEADER, tuple(row.cells() for row in rows), note)


def parser() -> argparse.ArgumentParser:
    flags = section_flags("benchmarks.runtimes", __doc__, "runtimes")
    flags.add_argument("--model", type=Path, required=True, help="a checkpoint")
    flags.add_argument("--images", type=Path, required=True, help="pictures to compare on")
    flags.add_argument("--annotations", type=Path, required=True, help="COCO JSON with their boxes")
    flags.add_argument("--calibration", type=Path, help="pictures that int8 takes its ranges from (default: --images)")
    flags.add_argument("--samples", type=positive, default=1000, help="pictures to compare on, at most (default 1000)")
    flags.add_argument("--threads", type=positive, default=1, help="of both sides (default 1)")
    flags.add_argument("--title", default="One model in every runtime", help="of the table")
    flags.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=list(FORMATS), help="default: all")
    flags.add_argument(
        "--flags", nargs=argparse.REMAINDER, default=[], help="the rest goes to export.to and export.onnx"
    )
    return flags


if __name__ == "__main__":
    sys.exit(run_section(parser(), measure))

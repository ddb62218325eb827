"""OpenVINO's own format: an .xml with the graph and a .bin with the weights, which NNCF makes int8."""

from __future__ import annotations

from pathlib import Path

from export.formats.interface import Conversion, Format
from gfl.runtime.model import StaticFile
from gfl.runtime.openvino_file import IR, import_openvino, open_openvino
from gfl.runtime.providers import ProviderChoice

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of what is left in float32


def convert(job: Conversion) -> None:
    """Write the graph as it is, and the precision to compute in among its `rt_info`; for int8 quantised before.

    OpenVINO keeps the .onnx's metadata as `rt_info` of the name 'framework'.
    """
    openvino = import_openvino()
    model = openvino.Core().read_model(str(job.source))
    if job.description.precision == "int8":
        from export.formats.openvino_int8 import quantised  # late: what it imports takes a second, and int8 needs it

        model = quantised(model, job)
    # OpenVINO 2026.4 does not follow it by itself: who opens the file reads it and sets the hint.
    model.set_rt_info(HINTS[job.description.precision], ["runtime_options", "INFERENCE_PRECISION_HINT"])
    model.set_rt_info(job.description.precision, ["framework", "precision"])
    openvino.save_model(model, str(job.target), compress_to_fp16=False)


def open_file(path: Path, threads: int) -> StaticFile:
    """Open what `convert` wrote."""
    return open_openvino(path, threads=threads, choice=ProviderChoice("openvino"))


FORMAT = Format(
    name="openvino",
    suffix=IR,
    source=".onnx",
    forms=("detections", "decoded"),
    precisions=("fp32", "bf16", "int8"),
    packages=("openvino",),
    int8_packages=("nncf",),
    runtime="openvino",
    extra="openvino",
    convert=convert,
    open=open_file,
    remarks=(
        "OpenVINO computes in bfloat16 where the CPU has it, unless told otherwise: compile the file with "
        "INFERENCE_PRECISION_HINT as its rt_info has it",
    ),
)

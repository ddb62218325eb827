"""MNN's own format: one .mnn."""

from __future__ import annotations

from pathlib import Path

from export.errors import CheckError
from export.formats.interface import Conversion, Format
from export.formats.quiet import quiet
from gfl.files import to_json
from gfl.packages import import_package
from gfl.runtime.mnn_file import open_mnn
from gfl.runtime.model import StaticFile


def convert(job: Conversion) -> None:
    """Write the graph as it is, in float32, with its description as the model's `bizCode`, which is text for the user.

    The converter is called inside Python: its command first installs packages by pip, in whatever environment it is.
    """
    tools = import_package("_tools", "the format mnn needs the package MNN, which", "pip install 'gflv2[mnn]'")
    words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(job.source), "--MNNModel", str(job.target)]
    with quiet(1):
        done = tools.mnnconvert([*words, "--bizCode", to_json(job.description.to_metadata())])
    if not done or not job.target.is_file():
        raise CheckError(f"MNN did not convert {job.source}", ["its converter ended without a file"])


def open_file(path: Path, threads: int) -> StaticFile:
    """Open what `convert` wrote."""
    return open_mnn(path, threads=threads)


FORMAT = Format(
    name="mnn",
    suffix=".mnn",
    source=".onnx",
    forms=("detections", "decoded"),
    precisions=("fp32",),
    packages=("MNN",),
    runtime="MNN",
    extra="mnn",
    convert=convert,
    open=open_file,
    remarks=("MNN may compute in float16 or bfloat16 on other CPUs: give its runtime the precision 'high'",),
)

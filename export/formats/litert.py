"""LiteRT's format, formerly TensorFlow Lite: one .tflite, by onnx2tf."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from export.formats.interface import Conversion, Format
from export.formats.litert_int8 import pooled_over_zeros, quantised
from export.formats.quiet import quiet
from gfl.files import to_json
from gfl.packages import import_package
from gfl.runtime.litert_file import PACKAGE, open_litert
from gfl.runtime.model import StaticFile

INSIDE = "gfl.json"  # the description's name in the zip that may follow a .tflite, as TensorFlow's metadata do


def convert(job: Conversion) -> None:
    """Write the graph, its inputs and outputs as they are, by name in the signature.

    onnx2tf overwrites its input with a simpler one, and turns pictures to channels last unless told otherwise.
    """
    needed = "the format litert needs the package onnx2tf, which"
    with TemporaryDirectory(prefix="gfl_litert_") as name, quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of NumPy and TensorFlow
        onnx2tf = import_package("onnx2tf", needed, "pip install 'gflv2[litert]'")
        folder = Path(name)
        if job.description.precision == "int8":
            pooled_over_zeros(job.source, folder / "model.onnx")
        else:
            shutil.copyfile(job.source, folder / "model.onnx")
        model = onnx2tf.convert(
            input_onnx_file_path=str(folder / "model.onnx"),
            output_folder_path=str(folder / "out"),
            output_signaturedefs=True,
            keep_ncw_or_nchw_or_ncdhw_input_names=["images"],
            not_use_onnxsim=True,  # it adds nothing to a graph of fixed shapes
            disable_strict_mode=True,  # which runs each operator both ways: the comparison here is of the whole
            verbosity="error",
        )
        written = folder / "out" / "model_float32.tflite"
        if job.description.precision == "int8":
            job.target.write_bytes(quantised(model, written, job))
        else:
            shutil.copyfile(written, job.target)
    with zipfile.ZipFile(job.target, "a") as archive:
        archive.writestr(INSIDE, to_json(job.description.to_metadata(), indent=1))


def open_file(path: Path, threads: int) -> StaticFile:
    """Open what `convert` wrote."""
    return open_litert(path, threads=threads)


FORMAT = Format(
    name="litert",
    suffix=".tflite",
    source=".onnx",
    forms=("detections", "decoded"),
    precisions=("fp32", "int8"),
    packages=("onnx2tf",),
    runtime=PACKAGE,
    extra="litert",
    convert=convert,
    open=open_file,
    scale=5.0,  # on a canvas of twice the pictures' size scores differ by 4e-4, other runtimes' by 6e-5
    remarks=("inputs and outputs have their names in the signature; pictures are (1,3,H,W), as in the .onnx",),
)

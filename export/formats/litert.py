"""LiteRT's format, formerly TensorFlow Lite: one .tflite, by onnx2tf."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from export.errors import CheckError
from export.formats.interface import Conversion, Format
from export.formats.quiet import quiet
from gfl.errors import first_line
from gfl.files import to_json
from gfl.packages import import_package
from gfl.runtime.litert_file import PACKAGE, open_litert
from gfl.runtime.model import StaticFile

INSIDE = "gfl.json"  # the description's name in the zip that may follow a .tflite, as TensorFlow's metadata do


def convert(job: Conversion) -> None:
    """Write the graph in float32, its inputs and outputs as they are, by name in the signature.

    onnx2tf overwrites its input with a simpler one, and turns pictures to channels last unless told otherwise.
    """
    onnx2tf = import_package(
        "onnx2tf", "the format litert needs the package onnx2tf, which", "pip install 'gflv2[litert]'"
    )
    with TemporaryDirectory(prefix="gfl_litert_") as name, quiet(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of NumPy and TensorFlow
        folder = Path(name)
        shutil.copyfile(job.source, folder / "model.onnx")
        try:
            onnx2tf.convert(
                input_onnx_file_path=str(folder / "model.onnx"),
                output_folder_path=str(folder / "out"),
                output_signaturedefs=True,
                copy_onnx_input_output_names_to_tflite=True,
                keep_ncw_or_nchw_or_ncdhw_input_names=["images"],
                not_use_onnxsim=True,  # it adds nothing to a graph of fixed shapes
                disable_strict_mode=True,  # which runs each operator both ways: the comparison here is of the whole
                verbosity="error",
            )
        except (Exception, SystemExit) as error:  # it ends the program where an operator fails
            raise CheckError(f"onnx2tf did not convert {job.source}", [first_line(error)]) from error
        shutil.copyfile(folder / "out" / "model_float32.tflite", job.target)
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
    precisions=("fp32",),
    packages=("onnx2tf",),
    runtime=PACKAGE,
    extra="litert",
    convert=convert,
    open=open_file,
    scale=5.0,  # on a canvas of twice the pictures' size scores differ by 4e-4, other runtimes' by 6e-5
    remarks=("inputs and outputs have their names in the signature; pictures are (1,3,H,W), as in the .onnx",),
)

"""OpenCV's own network module, cv2.dnn, which reads the .onnx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from export.formats import onnx_copy
from export.formats.interface import Format
from gfl.errors import InputError, first_line
from gfl.runtime.description import DETECTION_NAMES, INPUT_NAMES, Arrays, Description
from gfl.runtime.model import StaticFile
from gfl.runtime.onnx_file import describe_onnx
from gfl.runtime.providers import ProviderReport

WHOLE_NUMBERS = {"labels", "count", "complete"}  # which OpenCV 4 gives as float32, and a number a picture as a column


@dataclass(frozen=True)
class OpencvModel:
    """An open file."""

    path: Path
    description: Description
    net: cv2.dnn.Net

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`."""
        names = DETECTION_NAMES if self.description.outputs == "detections" else ("boxes", "scores")
        try:
            self.net.setInput(images, INPUT_NAMES[0])
            self.net.setInput(image_sizes, INPUT_NAMES[1])
            outputs = dict(zip(names, map(np.array, self.net.forward([*names])), strict=True))
        except cv2.error as error:
            raise refusal(self.path, error) from error
        for name in WHOLE_NUMBERS & outputs.keys():
            outputs[name] = outputs[name].astype(np.int32)
        for name in ("count", "complete"):
            if name in outputs:
                outputs[name] = outputs[name].ravel()
        return outputs

    def provider_report(self) -> ProviderReport:
        """OpenCV runs the whole file."""
        return ProviderReport(f"OpenCV {cv2.__version__} CPU f32", {}, ())


def open_file(path: Path, threads: int) -> StaticFile:
    """Open an .onnx; InputError where OpenCV refuses it."""
    description = describe_onnx(path)
    cv2.setNumThreads(threads)
    try:
        return OpencvModel(path, description, cv2.dnn.readNetFromONNX(str(path)))
    except cv2.error as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: cv2.error) -> InputError:
    """What is said of a file that OpenCV does not take."""
    return InputError(f"{path.name} does not run in OpenCV {cv2.__version__} ({first_line(error)}); take 4.14 or newer")


FORMAT = Format(
    name="opencv",
    suffix=".onnx",
    source=".onnx",
    forms=("detections", "decoded"),
    precisions=("fp32",),
    packages=(),
    runtime="cv2",
    extra="",
    convert=onnx_copy.convert,
    open=open_file,
    remarks=(
        "cv2.dnn.readNetFromONNX of OpenCV 4.14 or newer; give both inputs by name, images as uint8 (1,3,H,W) in RGB",
        "name all outputs in the order of the .json's output_names, net.forward(names): OpenCV 5 refuses fewer",
    ),
)

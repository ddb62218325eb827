"""An exported .onnx, or OpenVINO's own .xml made of it, run by OpenVINO. NumPy and OpenVINO, no PyTorch.

OpenVINO reads an .onnx as it is. On CPUs that compute in bfloat16 it does so by default and without a word: of 100
boxes 52 moved by more than 0.1 px. Here the precision is float32 unless the option `precision` says otherwise, or the
description of an .xml that was made for bfloat16.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError, NotHereError, first_line
from gfl.packages import import_package
from gfl.runtime.description import DETECTION_NAMES, INPUT_NAMES, Arrays, Description
from gfl.runtime.description_file import read_description
from gfl.runtime.onnx_file import describe_onnx
from gfl.runtime.providers import NEEDS, ProviderChoice, ProviderReport

IR = ".xml"  # OpenVINO's own format, with the weights in a .bin beside it
CAPABILITIES = {"f32": "FP32", "bf16": "BF16"}  # the option's value -> OpenVINO's name of what a device can compute in

# By OpenVINO's documents each thread may have a request of its own. But threads that set inputs, created requests or
# opened files at once, even of different models, were seen to wait for ever for each other and for Python's lock
# (2026.4.1). So one thread of the process is inside OpenVINO, which uses all cores for it; the others wait.
_ONE_AT_A_TIME = threading.Lock()


class Port(Protocol):
    """An output of a model that was read."""

    def get_names(self) -> set[str]:
        """Its name in the file, and in some versions those of outputs with the same content."""


class Tensor(Protocol):
    """An array of OpenVINO's."""

    data: NDArray[np.generic]  # a view


class InferRequest(Protocol):
    """One run's memory: used by one thread at a time."""

    def infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> object:
        """Run the model; the outputs lie in the request until its next run."""

    def get_output_tensor(self, index: int) -> Tensor:
        """An output by its place."""


@dataclass(frozen=True)
class OpenvinoModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]  # in the file's order, which the compiled model keeps; its own names may be others
    request: InferRequest
    report: ProviderReport

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`; InputError where OpenVINO fails."""
        inputs = dict(zip(INPUT_NAMES, map(np.ascontiguousarray, (images, image_sizes)), strict=True))
        try:
            with _ONE_AT_A_TIME:
                self.request.infer(inputs)
                # Copied, since the next run writes into the same memory.
                tensors = (self.request.get_output_tensor(place) for place in range(len(self.output_names)))
                outputs = [np.array(tensor.data) for tensor in tensors]
        except RuntimeError as error:  # the one type of its Python package
            raise InputError(f"{self.path.name} fails in OpenVINO ({_reason(error)}); {_mend(self.path)}") from error
        return dict(zip(self.output_names, outputs, strict=True))

    def provider_report(self) -> ProviderReport:
        """OpenVINO runs the whole file or none of it, so no nodes are counted."""
        return self.report


def open_openvino(path: Path, *, threads: int = 0, choice: ProviderChoice) -> OpenvinoModel:
    """Open one exported file; threads 0 leaves their number to OpenVINO.

    Raises InputError where OpenVINO is missing, for a file that is missing, damaged or not of this project, and for a
    precision that the CPU does not compute in, which OpenVINO would replace without a word.
    """
    names: tuple[str, ...] | None = None
    if path.suffix == IR:
        description, names = read_description(path, "export.to --format openvino")
    else:
        description = describe_onnx(path)
    precision = choice.options.get("precision", "bf16" if description.precision == "bf16" else "f32")
    runtime = import_openvino()
    with _ONE_AT_A_TIME:
        found, request = _compile(runtime, path, threads, precision)
    computed = f"int8, {precision}" if description.precision == "int8" else precision
    return OpenvinoModel(path, description, names or found, request, ProviderReport(f"OpenVINO CPU {computed}", {}, ()))


def _compile(runtime: ModuleType, path: Path, threads: int, precision: str) -> tuple[tuple[str, ...], InferRequest]:
    """The names of the outputs, and what runs the file in this precision."""
    core = runtime.Core()
    if CAPABILITIES[precision] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise NotHereError(
            f"got precision={precision} for OpenVINO, but this CPU does not compute in it; omit it for the default "
            "(f32; of an .xml for bfloat16, give it), or take a CPU with AVX-512 BF16 or AMX"
        )
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        model = core.read_model(str(path))
        names = _output_names(model.outputs)
        request: InferRequest = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise InputError(
            f"{path} cannot be opened by OpenVINO ({_reason(error)}); copy it again, or {_mend(path)}"
        ) from error
    return names, request


def _output_names(ports: Sequence[Port]) -> tuple[str, ...]:
    """The outputs' names in the file's order, which is that of an export where they are those of detections."""
    found = [port.get_names() for port in ports]
    if len(found) == len(DETECTION_NAMES) and all(map(set.__contains__, found, DETECTION_NAMES)):
        return DETECTION_NAMES
    return tuple(min(names, default="") for names in found)


def import_openvino() -> ModuleType:
    """The module openvino; InputError where it is missing or broken."""
    return import_package(
        "openvino", f"the provider openvino needs {NEEDS['openvino']}, and it", "install it, or give the provider cpu"
    )


def _mend(path: Path) -> str:
    return "convert it again" if path.suffix == IR else "give the provider cpu, which is ONNX Runtime's"


def _reason(error: RuntimeError) -> str:
    """What an error says, without the lines before it that name OpenVINO's own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and " src/" not in line]
    return " ".join(lines)[:200] if lines else first_line(error)

"""An exported .onnx, run by OpenVINO itself instead of by ONNX Runtime. NumPy and OpenVINO, no PyTorch.

OpenVINO reads the file as it is. On CPUs that compute in bfloat16 it does so by default and without a word: of 100
boxes 52 moved by more than 0.1 px. Here the precision is float32 unless the option `precision` says otherwise.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError, first_line
from gfl.runtime.description import INPUT_NAMES, Arrays, Description
from gfl.runtime.onnx_file import describe_onnx
from gfl.runtime.providers import NEEDS, ProviderChoice, ProviderReport

CAPABILITIES = {"f32": "FP32", "bf16": "BF16"}  # the option's value -> OpenVINO's name of what a device can compute in


class Port(Protocol):
    """An output of a model that was read."""

    def get_any_name(self) -> str:
        """Its name in the file."""


class Tensor(Protocol):
    """An array of OpenVINO's."""

    data: NDArray[np.generic]  # a view


class InferRequest(Protocol):
    """One run's memory: used by one thread at a time."""

    def infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> object:
        """Run the model; the outputs lie in the request until its next run."""

    def get_output_tensor(self, index: int) -> Tensor:
        """An output by its place."""


class CompiledModel(Protocol):
    """The part of openvino.CompiledModel that is used here."""

    def create_infer_request(self) -> InferRequest:
        """Memory for the runs of one thread."""


@dataclass(frozen=True)
class OpenvinoModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]  # in the file's order, which the compiled model keeps; its own names may be others
    compiled: CompiledModel
    report: ProviderReport
    requests: threading.local = field(default_factory=threading.local, repr=False, compare=False)  # one a thread

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`; InputError where OpenVINO fails."""
        request: InferRequest | None = getattr(self.requests, "own", None)
        if request is None:
            request = self.requests.own = self.compiled.create_infer_request()
        try:
            request.infer(dict(zip(INPUT_NAMES, map(np.ascontiguousarray, (images, image_sizes)), strict=True)))
        except RuntimeError as error:  # the one type of its Python package
            raise InputError(
                f"{self.path.name} fails in OpenVINO ({_reason(error)}); give the provider cpu, which is ONNX Runtime's"
            ) from error
        # Copied, since the request's next run writes into the same memory.
        return {name: np.array(request.get_output_tensor(place).data) for place, name in enumerate(self.output_names)}

    def provider_report(self) -> ProviderReport:
        """OpenVINO runs the whole file or none of it, so no nodes are counted."""
        return self.report


def open_openvino(path: Path, *, threads: int = 0, choice: ProviderChoice) -> OpenvinoModel:
    """Open one exported file; threads 0 leaves their number to OpenVINO.

    Raises InputError where OpenVINO is missing, for a file that is missing, damaged or not of this project, and for a
    precision that the CPU does not compute in, which OpenVINO would replace without a word.
    """
    description = describe_onnx(path)
    runtime = import_openvino()
    core = runtime.Core()
    precision = choice.options.get("precision", "f32")
    if CAPABILITIES[precision] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise InputError(
            f"got precision={precision} for OpenVINO, but this CPU does not compute in it; omit it for the default "
            "(f32), or take a CPU with AVX-512 BF16 or AMX"
        )
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        model = core.read_model(str(path))
        names = tuple(port.get_any_name() for port in model.outputs)
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise InputError(
            f"{path} cannot be opened by OpenVINO ({_reason(error)}); export or copy it again, or give the provider "
            "cpu, which is ONNX Runtime's"
        ) from error
    return OpenvinoModel(path, description, names, compiled, ProviderReport(f"OpenVINO CPU {precision}", {}, ()))


def import_openvino() -> ModuleType:
    """The module openvino; InputError where it is missing or broken."""
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise InputError(
            f"the provider openvino needs {NEEDS['openvino']}, and it cannot be imported ({error}); install it, or "
            "give the provider cpu"
        ) from error


def _reason(error: RuntimeError) -> str:
    """What an error says, without the lines before it that name OpenVINO's own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and " src/" not in line]
    return " ".join(lines)[:200] if lines else first_line(error)

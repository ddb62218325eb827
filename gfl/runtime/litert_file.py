"""A .tflite, made by `python -m export.to --format litert`, run by LiteRT. NumPy and LiteRT, no PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError, first_line
from gfl.machine import usable_cores
from gfl.packages import import_package
from gfl.runtime.description import Arrays, Description
from gfl.runtime.description_file import read_description
from gfl.runtime.providers import ProviderReport

PACKAGE = "ai_edge_litert"


class Signature(Protocol):
    """LiteRT's function of the file's inputs by name."""

    def __call__(
        self, *, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]
    ) -> Mapping[str, NDArray[np.generic]]:
        """Run the model; the outputs are copies."""


@dataclass(frozen=True)
class LitertModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    signature: Signature
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`; InputError where LiteRT fails."""
        try:
            with self.one_at_a_time:  # an interpreter is one run's memory
                outputs = self.signature(images=images, image_sizes=image_sizes)
            return {name: outputs[name] for name in self.output_names}
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(f"{self.path.name} fails in LiteRT ({first_line(error)}); convert it again") from error

    def provider_report(self) -> ProviderReport:
        """LiteRT does not count the nodes of its delegates."""
        computed = "int8, f32" if self.description.precision == "int8" else "f32"
        return ProviderReport(f"LiteRT CPU (XNNPACK) {computed}", {}, ())


def open_litert(path: Path, *, threads: int = 0) -> LitertModel:
    """Open one converted file; threads 0: a thread a core.

    Raises InputError where LiteRT is missing, and for a file that is missing, damaged or without its description.
    """
    description, names = read_description(path, "export.to --format litert")
    runtime = import_package(
        f"{PACKAGE}.interpreter",
        f"{path.name} needs the package ai-edge-litert, which",
        "pip install ai-edge-litert, or give the .onnx",
    )
    try:
        interpreter = runtime.Interpreter(str(path), num_threads=threads or usable_cores())
        signature: Signature = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be opened by LiteRT ({first_line(error)}); convert or copy it again"
        ) from error
    return LitertModel(path, description, names, signature)

"""A .pte, made by `python -m export.to --format executorch`, run by ExecuTorch, whose Python package needs PyTorch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfl.errors import InputError, first_line
from gfl.packages import import_package
from gfl.runtime.description import Arrays, Description
from gfl.runtime.description_file import read_description
from gfl.runtime.on_torch.device import to_arrays
from gfl.runtime.providers import ProviderReport

PACKAGE = "executorch"
METHOD = "forward"


class Method(Protocol):
    """The part of ExecuTorch's method that is used here."""

    def execute(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run the model; the outputs lie in its memory until the next run."""


@dataclass(frozen=True)
class PteModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    method: Method
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`; InputError where ExecuTorch fails."""
        feed = [torch.from_numpy(np.ascontiguousarray(array)) for array in (images, image_sizes)]
        try:
            with self.one_at_a_time:
                outputs = tuple(tensor.clone() for tensor in self.method.execute(feed))
            return to_arrays(outputs, self.output_names)
        except (RuntimeError, ValueError) as error:  # its own; other outputs than the file describes
            raise InputError(
                f"{self.path.name} fails in ExecuTorch ({first_line(error)}); convert it again with the "
                "installed version"
            ) from error

    def provider_report(self) -> ProviderReport:
        """What XNNPACK takes of the file was settled when it was made, so no nodes are counted."""
        return ProviderReport("ExecuTorch XNNPACK f32", {}, ())


def open_pte(path: Path, *, threads: int = 0) -> PteModel:
    """Open one converted file; its threads, one a core, are ExecuTorch's own, whatever `threads` says.

    Raises InputError where ExecuTorch is missing, and for a file that is missing, damaged or without its description.
    """
    description, names = read_description(path, "export.to --format executorch")
    needed = f"{path.name} needs the package {PACKAGE}, which"
    mend = "pip install 'gflv2[executorch]', or give the .pt2 or the .onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its Python calls are experimental, which it says at each
        runtime = import_package(f"{PACKAGE}.runtime", needed, mend)
        try:
            method: Method = runtime.Runtime.get().load_program(path).load_method(METHOD)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{path} cannot be opened by ExecuTorch ({first_line(error)}); convert or copy it again"
            ) from error
    return PteModel(path, description, names, method)

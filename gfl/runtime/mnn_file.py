"""An .mnn, made by `python -m export.to --format mnn`, run by MNN. NumPy and MNN, no PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError, first_line
from gfl.machine import usable_cores
from gfl.packages import import_package
from gfl.runtime.description import INPUT_NAMES, Arrays, Description
from gfl.runtime.description_file import read_description
from gfl.runtime.providers import ProviderReport

PACKAGE = "MNN"
CPU = {"backend": 0, "precision": "high"}  # high: float32, where a CPU could also compute in less


class Variable(Protocol):
    """An array of MNN's."""

    def read(self) -> NDArray[np.generic]:
        """A copy."""


class Module(Protocol):
    """The part of MNN's module that is used here."""

    def forward(self, inputs: Sequence[Variable]) -> Sequence[Variable]:
        """Run the model."""


@dataclass(frozen=True)
class MnnModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    module: Module
    make_variable: Callable[[NDArray[np.generic]], Variable]
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`; InputError where MNN fails."""
        with self.one_at_a_time:  # a module of MNN's keeps the memory of its run
            feed = [self.make_variable(np.ascontiguousarray(array)) for array in (images, image_sizes)]
            outputs = [np.array(variable.read()) for variable in self.module.forward(feed)]
        if len(outputs) != len(self.output_names):  # it says why on the standard output
            raise InputError(f"{self.path.name} fails in MNN; convert it again with the installed version")
        return dict(zip(self.output_names, outputs, strict=True))

    def provider_report(self) -> ProviderReport:
        """MNN runs the whole file or none of it, so no nodes are counted."""
        return ProviderReport("MNN CPU f32", {}, ())


def open_mnn(path: Path, *, threads: int = 0) -> MnnModel:
    """Open one converted file; threads 0: a thread a core.

    Raises InputError where MNN is missing, and for a file that is missing, damaged or without its description.
    """
    description, names = read_description(path, "export.to --format mnn")
    needed = f"{path.name} needs the package MNN, which"
    nn = import_package(f"{PACKAGE}.nn", needed, "pip install 'gflv2[mnn]', or give the .onnx")
    expr = import_package(f"{PACKAGE}.expr", needed, "install it again")
    types = {"uint8": expr.uint8, "int32": expr.int}
    try:
        runtime = nn.create_runtime_manager(({**CPU, "numThread": threads or usable_cores()},))
        module: Module = nn.load_module_from_file(str(path), [*INPUT_NAMES], [*names], runtime_manager=runtime)
    except Exception as error:  # MNN names no types of its own
        raise InputError(f"{path} cannot be opened by MNN ({first_line(error)}); convert or copy it again") from error

    def make_variable(array: NDArray[np.generic]) -> Variable:
        variable: Variable = expr.const(array, array.shape, expr.NCHW, types[array.dtype.name])
        return variable

    return MnnModel(path, description, names, module, make_variable)

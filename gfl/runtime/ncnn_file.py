"""A .param with its .bin, made by `python -m export.to --format ncnn`, run by ncnn. NumPy and ncnn, no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError
from gfl.machine import usable_cores
from gfl.packages import import_package
from gfl.runtime.description import Arrays, Description
from gfl.runtime.description_file import read_description
from gfl.runtime.providers import ProviderReport

SUFFIX, WEIGHTS = ".param", ".bin"
# ncnn computes in 16 bits where a CPU can, and does not say so: boxes move by pixels.
HALF = ("use_fp16_arithmetic", "use_fp16_packed", "use_fp16_storage", "use_bf16_packed", "use_bf16_storage")


class Options(Protocol):
    """How a net computes."""

    num_threads: int


class Net(Protocol):
    """The part of ncnn's net that is used here."""

    opt: Options

    def load_param(self, path: str) -> int: ...
    def load_model(self, path: str) -> int: ...
    def create_extractor(self) -> Extractor: ...


class Extractor(Protocol):
    """One run."""

    def input(self, name: str, value: object) -> int: ...
    def extract(self, name: str) -> tuple[int, object]: ...


@dataclass(frozen=True)
class NcnnModel:
    """An open file of raw outputs."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    runtime: ModuleType
    net: Net

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`, of one picture; InputError where ncnn fails."""
        extractor = self.net.create_extractor()
        # Kept until the copies are made: a Mat of an array looks at memory that Python lets go with the array.
        arrays = [np.ascontiguousarray(array, np.float32) for array in (images[0], image_sizes[0])]
        for place, array in enumerate(arrays):
            extractor.input(f"in{place}", self.runtime.Mat(array).clone())
        outputs: Arrays = {}
        for place, name in enumerate(self.output_names):
            status, value = extractor.extract(f"out{place}")
            if status != 0:
                raise InputError(f"{self.path.name} fails in ncnn (status {status}); convert it again")
            outputs[name] = np.array(value)[None]
        return outputs

    def provider_report(self) -> ProviderReport:
        """ncnn runs the whole file or none of it, so no nodes are counted."""
        return ProviderReport("ncnn CPU f32", {}, ())


def open_ncnn(path: Path, *, threads: int = 0) -> NcnnModel:
    """Open one converted file; threads 0: a thread a core.

    Raises InputError where ncnn is missing, and for a file that is missing, damaged or without its description.
    """
    description, names = read_description(path, "export.to --format ncnn")
    ncnn = import_package("ncnn", f"{path.name} needs the package ncnn, which", "pip install 'gflv2[ncnn]'")
    net: Net = ncnn.Net()
    for name in filter(lambda each: hasattr(net.opt, each), HALF):
        setattr(net.opt, name, False)
    net.opt.num_threads = threads or usable_cores()
    weights = path.with_suffix(WEIGHTS)
    if not weights.is_file() or net.load_param(str(path)) != 0 or net.load_model(str(weights)) != 0:
        raise InputError(f"{path} and {weights.name} cannot be opened by ncnn; convert or copy both again")
    return NcnnModel(path, description, names, ncnn, net)

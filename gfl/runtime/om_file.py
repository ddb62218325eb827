"""An .om, compiled by Ascend's ATC from an export, run by Ascend's own inference package. NumPy, no PyTorch.

Never run on hardware by us: it is written to the documented surface of ais_bench.infer.interface.InferSession, and
tested with a stand-in for it. Shapes: B pictures of the file's batch; H, W its canvas.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError
from gfl.packages import import_package
from gfl.runtime.description import Arrays, Description
from gfl.runtime.description_file import read_description
from gfl.runtime.providers import ProviderReport

PACKAGE = "ais_bench.infer.interface"
NEVER_RUN = "this project's .om files have never been run on hardware by its authors"


class InferSession(Protocol):
    """The part of ais_bench's session that is used here."""

    def infer(self, feeds: Sequence[NDArray[np.generic]], mode: str = "static") -> Sequence[NDArray[np.generic]]:
        """Inputs in the file's order -> outputs in the file's order."""


@dataclass(frozen=True)
class OmModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    session: InferSession
    # The package does not say that a session may be used by several threads at once: one runs, the others wait.
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`."""
        feeds: list[NDArray[np.generic]] = [np.ascontiguousarray(images), np.ascontiguousarray(image_sizes)]
        with self.one_at_a_time:
            # Copied before the next run, which may write into the same memory.
            outputs = [np.array(array) for array in self.session.infer(feeds, mode="static")]
        if len(outputs) != len(self.output_names):
            raise InputError(
                f"{self.path} gives {len(outputs)} outputs, expected {len(self.output_names)} by the .json beside it; "
                "compile it again with `python -m export.om`"
            )
        return dict(zip(self.output_names, outputs, strict=True))

    def provider_report(self) -> ProviderReport:
        """The NPU runs the whole file; its runtime counts no nodes."""
        return ProviderReport("Ascend OM", {}, (NEVER_RUN,))


def open_om(path: Path, device_id: int = 0) -> OmModel:
    """Open one .om on an NPU, with the description that `python -m export.om` wrote beside it.

    Raises InputError where either file, Ascend's inference package or the NPU is missing. Never run on hardware by us.
    """
    description, output_names = read_description(path, "export.om")
    interface = import_package(
        PACKAGE,
        "an .om needs Ascend's package ais_bench, which",
        "install ais_bench and aclruntime from Ascend's tools and source CANN's set_env.sh, or give the .onnx",
    )
    try:
        session: InferSession = interface.InferSession(device_id, str(path))
    except Exception as error:  # the package names no types of its own
        raise InputError(
            f"{path} cannot be opened on NPU {device_id} ({error}); check `npu-smi info`, the device_id and that the "
            "file was compiled for this SoC"
        ) from error
    return OmModel(path, description, output_names, session)

"""Rockchip's format, for the NPU of the RK3588: one .rknn, by rknn-toolkit2. Simulated here, never run on a device."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from export.errors import CheckError
from export.formats.float_graph import float_inputs
from export.formats.interface import Conversion, Format
from export.formats.quiet import quiet
from gfl.packages import import_package
from gfl.runtime.description import Arrays, Description
from gfl.runtime.model import StaticFile
from gfl.runtime.providers import ProviderReport

CHIP = "rk3588"
BESIDES = " && pip install --no-deps rknn-toolkit2"


class Toolkit(Protocol):
    """The part of RKNN that is used here; each call gives 0 where it went well."""

    def config(self, *, target_platform: str, custom_string: str) -> int: ...
    def load_onnx(self, *, model: str) -> int: ...
    def build(self, *, do_quantization: bool) -> int: ...
    def export_rknn(self, export_path: str) -> int: ...
    def init_runtime(self) -> int: ...
    def inference(
        self, *, inputs: list[NDArray[np.float32]], data_format: list[str]
    ) -> list[NDArray[np.float32]] | None: ...


@dataclass(frozen=True)
class Simulated:
    """A file that was built just now: the simulator takes what the toolkit built, and no .rknn."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    toolkit: Toolkit

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`."""
        refusal = f"{self.path.name} fails in Rockchip's simulator"
        with toolkit_errors(refusal):
            outputs = self.toolkit.inference(
                inputs=[images.astype(np.float32), image_sizes.astype(np.float32)], data_format=["nchw", "nchw"]
            )
        if outputs is None:
            raise CheckError(refusal, [])
        return dict(zip(self.output_names, outputs, strict=True))

    def provider_report(self) -> ProviderReport:
        """The simulator runs the whole file."""
        return ProviderReport(f"RKNN simulator {CHIP} f16", {}, ())


@contextlib.contextmanager
def toolkit_errors(refusal: str) -> Iterator[None]:
    """Keep the toolkit quiet; CheckError of this title where it raises."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ValueError as error:  # its one type; the text is a traceback, which ends with the reason
            raise CheckError(refusal, str(error).strip().splitlines()[-1:]) from error


def convert(job: Conversion) -> StaticFile:
    """Build the graph in float16, its inputs float32, and give it in the simulator.

    Raises CheckError where the toolkit fails.
    """
    api = import_package(
        "rknn.api", "the format rknn needs the package rknn-toolkit2, which", f"pip install 'gflv2[rknn]'{BESIDES}"
    )
    model = onnx.load(job.source)
    float_inputs(model)  # 'Not Support Dtype: 2' of uint8
    refusal = f"rknn-toolkit2 did not convert {job.source}"
    with TemporaryDirectory(prefix="gfl_rknn_") as name, toolkit_errors(refusal):
        path = Path(name, "model.onnx")
        onnx.save(model, path)
        toolkit: Toolkit = api.RKNN(verbose=False)
        # At most 1,023 letters go in: the digest, and not the whole description.
        steps = (
            toolkit.config(target_platform=CHIP, custom_string=job.description.digest),
            toolkit.load_onnx(model=str(path)),
            toolkit.build(do_quantization=False),
            toolkit.export_rknn(str(job.target)),
            toolkit.init_runtime(),
        )
    if any(steps) or not job.target.is_file():
        raise CheckError(refusal, [f"its steps ended with {steps}"])
    return Simulated(job.target, job.description, job.output_names, toolkit)


FORMAT = Format(
    name="rknn",
    suffix=".rknn",
    source=".onnx",
    forms=("raw", "decoded"),
    precisions=("fp16",),
    packages=("rknn",),
    runtime="",
    extra="rknn",
    convert=convert,
    open=None,
    besides=BESIDES,
    remarks=(
        f"for {CHIP}; simulated by rknn-toolkit2, whose time says nothing of the chip, and never run on a device by us",
        "inputs are float32, NCHW, images 0 to 255; raw outputs are the head's: the choice of detections follows "
        "(gfl/runtime/decode.py and finish.py)",
    ),
)

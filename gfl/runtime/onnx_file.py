"""An exported .onnx, open. NumPy and ONNX Runtime, no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError, first_line
from gfl.runtime.description import INPUT_NAMES, Arrays, Description
from gfl.runtime.onnx_header import read_metadata
from gfl.runtime.onnx_session import ProviderSession
from gfl.runtime.providers import INT8_ON_CANN, ProviderChoice, ProviderReport


@dataclass(frozen=True)
class OnnxModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    session: ProviderSession

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`.

        The first run raises InputError where the provider that was asked for does not take the file.
        """
        try:
            outputs = self.session.run(self.output_names, dict(zip(INPUT_NAMES, (images, image_sizes), strict=True)))
        except Exception as error:  # ONNX Runtime's own types share no base class
            as_described = images.shape == (self.description.batch, 3, *self.description.size)
            if type(error).__name__ != "InvalidArgument" or not as_described:
                raise
            raise InputError(
                f"{self.path} does not take the pictures that it describes ({first_line(error)}); export it again from "
                "its checkpoint"
            ) from error
        return {name: np.asarray(array) for name, array in zip(self.output_names, outputs, strict=True)}

    def provider_report(self) -> ProviderReport:
        """What ran where; before the first run, what is going to be tried."""
        return self.session.provider_report()


def open_onnx(
    path: Path,
    *,
    threads: int = 0,
    choice: ProviderChoice = ProviderChoice("cpu"),  # noqa: B008  # frozen
) -> OnnxModel:
    """Open one exported file; threads 0 leaves their number to ONNX Runtime.

    Raises InputError as `open_session`, for a file that is missing, not of this project or in need of other files, and
    for a provider that cannot be started.
    """
    description = describe_onnx(path)
    session = ProviderSession(path, choice, threads)
    if description.precision == "int8":
        session.refuse("cann", INT8_ON_CANN)
    return OnnxModel(path, description, session.output_names, session)


def describe_onnx(path: Path) -> Description:
    """What a file says of itself, read before a runtime opens a stranger's file.

    Raises InputError for a file that is missing, not of this project or in need of other files.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected an .onnx; make one with `python -m export.onnx`")
    return Description.from_metadata(read_metadata(path), path)

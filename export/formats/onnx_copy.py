"""The .onnx itself, for runtimes that read it as it is: what they need is said beside it."""

from __future__ import annotations

import shutil

from export.formats.interface import Conversion


def convert(job: Conversion) -> None:
    """Copy the file, metadata and all."""
    shutil.copyfile(job.source, job.target)

"""What `python -m export.to` asks of a format: how a file of it is made of an export, and what opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gfl.data.picture_files import PictureFile
from gfl.runtime.description import Description
from gfl.runtime.model import StaticFile


class Conversion(NamedTuple):
    """One file to make."""

    source: Path  # an .onnx or a .pt2 of this project: not to be changed
    description: Description  # of the new file: the source's, in the precision asked for
    output_names: tuple[str, ...]  # in the source's order
    calibration: tuple[PictureFile, ...]  # pictures to take int8's ranges from
    target: Path  # what to write, in an empty folder; what lies beside it there goes with it


class Format(NamedTuple):
    """A format: one file of this folder each defines one as FORMAT."""

    name: str  # as of --format
    suffix: str  # of the file that is written
    source: str  # '.onnx' or '.pt2': what it is made of
    # Outputs that it takes, 'detections', 'decoded' or 'raw'; a checkpoint is exported with the first.
    forms: tuple[str, ...]
    precisions: tuple[str, ...]  # the first is the default
    packages: tuple[str, ...]  # modules that `convert` imports
    runtime: str  # the module that runs it; empty where none does
    extra: str  # of setup.py, which installs both; empty: nothing is missing in the project's own installation
    # Gives the file, open, where only what made it can run it; whatever it raises is told as a CheckError.
    convert: Callable[[Conversion], StaticFile | None]
    open: Callable[[Path, int], StaticFile] | None  # (the file, threads of the CPU); None where nothing here runs it
    int8_packages: tuple[str, ...] = ()  # that int8 needs besides; the extra of this name with '-int8' has them
    scale: float = 1.0  # of the tolerances in float32, where the runtime rounds more than others
    besides: str = ""  # what pip has to do after the extra, as the end of a command line
    remarks: tuple[str, ...] = ()  # what whoever opens the file with other programs must know

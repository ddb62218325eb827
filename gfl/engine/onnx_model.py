"""An exported .onnx and the session that runs it. NumPy and ONNX Runtime, no PyTorch.

Shapes: B pictures of the file's batch; H, W its canvas.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.engine.description import INPUT_NAMES, Arrays, Description
from gfl.errors import InputError


class Named(Protocol):
    """An input or output of a session."""

    name: str


class ModelMeta(Protocol):
    """What a session knows of its file."""

    custom_metadata_map: dict[str, str]


class Session(Protocol):
    """The part of onnxruntime.InferenceSession that is used here."""

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, NDArray[np.generic]]) -> list[object]:
        """Outputs in the order of the names."""

    def get_outputs(self) -> Sequence[Named]:
        """The model's outputs."""

    def get_modelmeta(self) -> ModelMeta:
        """The model's metadata."""


@dataclass(frozen=True)
class OnnxModel:
    """An open file."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    session: Session

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """uint8 (B,3,H,W) RGB and int32 (B,2) height, width -> the file's outputs by name."""
        found = self.session.run(list(self.output_names), dict(zip(INPUT_NAMES, (images, image_sizes), strict=True)))
        return {name: np.asarray(array) for name, array in zip(self.output_names, found, strict=True)}


def open_session(
    model: str | bytes, *, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Session:
    """A session on a file's path or content; InputError where ONNX Runtime is missing or refuses it."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(f"an .onnx needs onnxruntime, which cannot be imported ({error}); install it") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session: Session = runtime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's own types, one a cause, share no base class
        name = model if isinstance(model, str) else "the model"
        raise InputError(
            f"{name} cannot be opened by ONNX Runtime ({str(error).splitlines()[0]}); export or copy it again"
        ) from error
    return session


def open_onnx(path: Path, *, threads: int = 0, providers: Sequence[str] = ("CPUExecutionProvider",)) -> OnnxModel:
    """Open one exported file; threads 0 leaves their number to ONNX Runtime.

    Raises InputError as `open_session`, and for a file that is missing or not of this project.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected an .onnx; make one with `python -m export.onnx`")
    session = open_session(str(path), threads=threads, providers=providers)
    description = Description.from_metadata(session.get_modelmeta().custom_metadata_map, path)
    return OnnxModel(path, description, tuple(output.name for output in session.get_outputs()), session)


def open_exports(path: Path, *, threads: int = 0) -> tuple[OnnxModel, ...]:
    """Open one file, or every .onnx of a folder: exports of one model at several canvases, by area.

    Raises InputError as `open_onnx`, and for a folder without exports or with exports that do not belong together.
    """
    files = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} holds no .onnx; give a file, or the folder that `python -m export.onnx` wrote")
    models = sorted((open_onnx(file, threads=threads) for file in files), key=_area)
    for model in models[1:]:
        if _kin(model) != _kin(models[0]):
            raise InputError(
                f"{model.path} and {models[0].path} are not exports of one model in one batch size; give one of them"
            )
    sizes = [model.description.size for model in models]
    if len(set(sizes)) < len(sizes):
        raise InputError(f"{path} holds several files of one size ({sizes}); give one of them")
    return tuple(models)


def _area(model: OnnxModel) -> int:
    height, width = model.description.size
    return height * width


def _kin(model: OnnxModel) -> tuple[object, ...]:
    """What exports of one model in several sizes share."""
    about = model.description
    return about.names, about.category_ids, about.outputs, about.batch, about.short_side, about.long_side

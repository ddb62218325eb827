"""An exported .onnx: what it says of itself, and a session that runs it. NumPy and ONNX Runtime, no PyTorch.

Shapes: B pictures of the file's batch; H, W its canvas.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError

Arrays = dict[str, NDArray[np.generic]]  # output name -> array

INPUT_NAMES = ("images", "image_sizes")
DETECTION_NAMES = ("boxes", "scores", "labels", "count", "edge_std", "complete")  # in the order of Detections

LAYOUT = "NCHW uint8"
COLOUR_ORDER = "RGB"
RESIZE_RULE = (
    "keep the ratio: the largest size with no side above long_side and the shorter one not above short_side, each side "
    "int(side * scale + 0.5), bilinear (OpenCV INTER_LINEAR); a picture larger than the canvas is shrunk further to fit"
)
PAD_RULE = "zeros at the bottom and at the right, up to the canvas"
BOX_FORMAT = (
    "xyxy in canvas pixels; original pixels = canvas pixels / (resized side / original side), an axis at a time"
)


@dataclass(frozen=True)
class Thresholds:
    """Of the detections in the file; scores and IoU are compared strictly."""

    score: float
    nms_iou: float
    max_detections: int
    candidates: int
    rounds: int


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself, in its metadata."""

    version: str  # of this project
    outputs: str  # 'detections', 'decoded' or 'raw'
    precision: str
    names: tuple[str, ...]  # of the classes, label 0 first
    category_ids: tuple[int, ...]  # label -> category id of the data set
    batch: int
    size: tuple[int, int]  # the canvas: height, width
    mean: tuple[float, ...]  # RGB; in the graph already
    std: tuple[float, ...]
    short_side: int
    long_side: int
    thresholds: Thresholds
    config: str  # gin text of the run; empty when it was never known

    def to_metadata(self) -> dict[str, str]:
        """The metadata of the file: plain text and JSON."""
        values: dict[str, object] = {
            "names": self.names,
            "category_ids": self.category_ids,
            "batch": self.batch,
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
            "resize": {"short_side": self.short_side, "long_side": self.long_side, "rule": RESIZE_RULE},
            "thresholds": vars(self.thresholds),
        }
        return {
            "gfl_version": self.version,
            "outputs": self.outputs,
            "precision": self.precision,
            "layout": LAYOUT,
            "colour_order": COLOUR_ORDER,
            "pad": PAD_RULE,
            "box_format": BOX_FORMAT,
            "config": self.config,
            **{key: json.dumps(value, ensure_ascii=False) for key, value in values.items()},
        }

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], source: str | Path) -> Description:
        """The inverse of `to_metadata`; InputError for a file that this project did not export."""
        if "gfl_version" not in metadata:
            raise InputError(f"{source} is no export of this project: make one with `python -m export.onnx`")
        try:
            height, width = json.loads(metadata["size"])
            resize = json.loads(metadata["resize"])
            return Description(
                version=metadata["gfl_version"],
                outputs=metadata["outputs"],
                precision=metadata["precision"],
                names=tuple(json.loads(metadata["names"])),
                category_ids=tuple(json.loads(metadata["category_ids"])),
                batch=int(json.loads(metadata["batch"])),
                size=(int(height), int(width)),
                mean=tuple(json.loads(metadata["mean"])),
                std=tuple(json.loads(metadata["std"])),
                short_side=int(resize["short_side"]),
                long_side=int(resize["long_side"]),
                thresholds=Thresholds(**json.loads(metadata["thresholds"])),
                config=metadata["config"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{source} was exported by version {metadata['gfl_version']} and describes itself in a way that this "
                f"one cannot read ({error!r}); export it again"
            ) from error


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

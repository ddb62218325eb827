"""What an exported file says of itself in its metadata, whatever its format: preprocessing, classes, outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError
from gfl.report.best_f1 import DEFAULT_SCORE
from gfl.shapes import Canvas

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


MOST_BATCH_PX = 2**32  # of all pictures of a run: 12 GiB of uint8


@dataclass(frozen=True)
class Thresholds:
    """How the file chooses its detections, under the names of PredictConfig; scores and IoU must exceed theirs."""

    score: float
    nms_iou: float
    max_detections: int  # a picture
    candidates: int  # best (anchor, class) pairs that enter NMS
    rounds: int  # of NMS
    # Files from before there was a choice have none of these.
    nms: str = "hard"
    class_agnostic: bool = False
    soft_sigma: float = 0.5
    soft_min_score: float = 0.05


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself."""

    version: str  # of the project that exported it
    outputs: str  # 'detections', 'decoded' or 'raw'
    precision: str  # 'fp32', 'fp16' or 'int8'
    names: tuple[str, ...]  # of the classes, label 0 first
    category_ids: tuple[int, ...]  # label -> category id of the data set
    batch: int  # pictures a run
    size: Canvas
    mean: tuple[float, ...]  # RGB, of pixels 0..255; the graph subtracts it
    std: tuple[float, ...]  # RGB; the graph divides by it
    short_side: int  # px of a resized picture, at most
    long_side: int
    thresholds: Thresholds
    config: str  # gin text of the run; empty when it was never known
    score_thresholds: tuple[float, ...]  # a class: from here on a person wants to see its detections
    digest: str = ""  # sha256 over weights and settings: files of one model have the same; empty in older files

    def without_size(self) -> tuple[object, ...]:
        """What exports of one model at several sizes have in common."""
        return (
            self.names,
            self.category_ids,
            self.outputs,
            self.precision,
            self.batch,
            self.short_side,
            self.long_side,
        )

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
            "score_thresholds": self.score_thresholds,
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
            "digest": self.digest,
            **{key: json.dumps(value, ensure_ascii=False) for key, value in values.items()},
        }

    @staticmethod
    def from_metadata(metadata: Mapping[str, str], source: str | Path) -> Description:
        """The inverse of `to_metadata`; InputError, naming `source`, for a file that this project did not export."""
        if "gfl_version" not in metadata:
            raise InputError(f"{source} is no export of this project: make one with `python -m export.onnx`")
        try:
            height, width = json.loads(metadata["size"])
            resize = json.loads(metadata["resize"])
            names = tuple(json.loads(metadata["names"]))
            default = json.dumps([DEFAULT_SCORE] * len(names))  # of files from before 0.2
            described = Description(
                version=metadata["gfl_version"],
                outputs=metadata["outputs"],
                precision=metadata["precision"],
                names=names,
                category_ids=tuple(json.loads(metadata["category_ids"])),
                batch=int(json.loads(metadata["batch"])),
                size=(int(height), int(width)),
                mean=tuple(json.loads(metadata["mean"])),
                std=tuple(json.loads(metadata["std"])),
                short_side=int(resize["short_side"]),
                long_side=int(resize["long_side"]),
                thresholds=Thresholds(**json.loads(metadata["thresholds"])),
                config=metadata["config"],
                score_thresholds=tuple(json.loads(metadata.get("score_thresholds", default))),
                digest=metadata.get("digest", ""),
            )
            _require_kinds(described)
            _require_room(described)
            return described
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"{source} was exported by version {metadata['gfl_version']} and describes itself in a way that this "
                f"one cannot read ({error!r}); export it again"
            ) from error


def _require_kinds(described: Description) -> None:
    """Raise ValueError where a value is of another type than it should be, or is not there for each class."""
    for name, count in (("category_ids", len(described.names)), ("score_thresholds", len(described.names))):
        values = getattr(described, name)
        if len(values) != count:
            raise ValueError(f"{len(values)} {name} for {count} classes")
    if not described.names or not all(isinstance(name, str) for name in described.names):
        raise ValueError("class names that are no text")
    if not all(type(each) is int and abs(each) < 2**63 for each in described.category_ids):
        raise ValueError("category ids that are no whole numbers")
    limits = dict(vars(described.thresholds))
    if not isinstance(limits.pop("nms"), str) or not isinstance(limits.pop("class_agnostic"), bool):
        raise ValueError("an NMS that is no rule")
    numbers = (*described.mean, *described.std, *described.score_thresholds, *limits.values())
    if len(described.mean) != 3 or len(described.std) != 3 or not all(map(_is_number, numbers)):
        raise ValueError("means, deviations or thresholds that are no numbers")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9  # False for NaN too


def _require_room(described: Description) -> None:
    """Raise ValueError for a batch that no machine holds: its memory is taken before the file itself is asked."""
    height, width = described.size
    if min(height, width, described.batch, described.short_side, described.long_side) < 1:
        raise ValueError("a size or a batch below 1")
    if described.batch * height * width > MOST_BATCH_PX:
        raise ValueError(f"a batch of {described.batch} pictures of {height}x{width}")

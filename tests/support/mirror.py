"""A model that answers what it was shown, and remembers it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_onnx import DESCRIPTION

from gfl.runtime.description import Arrays, Description
from gfl.runtime.model import Model
from gfl.runtime.providers import ProviderReport
from gfl.shapes import Canvas

WIDE, TALL = (32, 64), (64, 32)
ABOUT = replace(DESCRIPTION, names=("thing",), category_ids=(7,), size=WIDE, short_side=32, long_side=64)


@dataclass
class Mirror:
    """What a model runs that finds each picture itself: a box around it, whose score is its mean."""

    batch: int = 2
    canvases: tuple[Canvas, ...] | None = (WIDE, TALL)
    before_run: Callable[[], None] = lambda: None
    about: Description = ABOUT
    seen: list[tuple[NDArray[np.uint8], NDArray[np.int32]]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    @property
    def model(self) -> Model:
        report = ProviderReport("an accelerator", {}, ())
        return Model(Path("mirror"), self.about, self.canvases, self.batch, self.run, lambda: report)

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        self.before_run()
        self.threads.add(threading.get_ident())
        self.seen.append((images.copy(), image_sizes.copy()))
        there = (image_sizes.prod(axis=1) > 0).astype(np.int32)
        boxes = np.zeros((len(images), 1, 4), np.float32)
        boxes[:, 0, 2:] = image_sizes[:, ::-1]
        sums = images.reshape(len(images), -1).sum(axis=1, dtype=np.float64)
        scores = sums / np.maximum(3 * 255 * image_sizes.prod(axis=1), 1)
        return {
            "boxes": boxes,
            "scores": scores[:, None].astype(np.float32),
            "labels": there[:, None] - 1,
            "count": there,
            "edge_std": np.ones((len(images), 1, 4), np.float32),
            "complete": np.ones(len(images), np.int32),
        }

"""`from gfl import load`: a model in any form as a function of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from gfl.data.transforms import resize
from gfl.runtime.inputs import as_image, stack
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice
from gfl.runtime.result import PictureInfo, Result, result_of
from gfl.shapes import Canvas

Picture: TypeAlias = "str | Path | NDArray[np.uint8]"


def load(
    path: str | Path,
    *,
    provider: str = "auto",
    batch: int | None = None,
    threads: int = 0,
    allow_fallback: bool = False,
    provider_options: Mapping[str, str] | None = None,
) -> Detect:
    """Open a .pt, .pt2, .onnx, .om or a folder of exports as a function of pictures.

    provider: 'auto', 'cpu', 'cuda' or 'cann' (an Ascend NPU). batch: pictures a run (a static file has its own).
    Raises InputError as `open_model`.
    """
    choice = ProviderChoice(provider, allow_fallback, dict(provider_options or {}))
    return Detect(open_model(path, batch=batch, threads=threads, choice=choice))


class Detect:
    """detect(picture) -> Result, detect([pictures]) -> their results in order."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, label 0 first."""
        return self.model.description.names

    @overload
    def __call__(self, pictures: Picture) -> Result: ...

    @overload
    def __call__(self, pictures: list[Picture] | tuple[Picture, ...]) -> list[Result]: ...

    def __call__(self, pictures: Picture | list[Picture] | tuple[Picture, ...]) -> Result | list[Result]:
        """Find the objects of a picture or of a list of them.

        A picture is a file's name or a uint8 array, (H,W,3) RGB or (H,W) grey. Boxes are in its own pixels.
        Raises InputError naming a file that cannot be read or an array of another kind.
        """
        if isinstance(pictures, (list, tuple)):
            return self._detect(pictures)
        return self._detect([pictures])[0]

    def _detect(self, pictures: Sequence[Picture]) -> list[Result]:
        waiting: dict[Canvas, list[int]] = {}
        placed, resized = [], []
        for index, picture in enumerate(pictures):
            image, source = as_image(picture, index)
            canvas, size_hw = self.model.canvas_for(image.shape[0], image.shape[1])
            waiting.setdefault(canvas, []).append(index)
            placed.append(PictureInfo(source, (image.shape[0], image.shape[1]), size_hw, image))
            resized.append(resize(image, size_hw))
        results: dict[int, Result] = {}
        for canvas, members in waiting.items():
            for start in range(0, len(members), self.model.batch):
                chosen = members[start : start + self.model.batch]
                arrays = self.model.run(*stack([resized[i] for i in chosen], canvas, self.model.batch))
                for place, index in enumerate(chosen):
                    results[index] = result_of(arrays, place, placed[index], self.model.description)
        return [results[index] for index in range(len(placed))]

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
    """Open a trained model, in any form that this project writes, as a function of pictures.

    Args:
        path: a .pt, .pth, .safetensors, .pt2, .onnx or .om, or a folder of exports at several sizes.
        provider: what runs it: 'auto' (the best that is installed), 'cpu', 'cuda' or 'cann' (an Ascend NPU).
        batch: pictures a run, 1 by default; an exported file has its own.
        threads: of the CPU; 0: the runtime's choice.
        allow_fallback: let the CPU run what the provider does not; otherwise that is an error.
        provider_options: ONNX Runtime's options of the provider, e.g. {"device_id": "1"}.

    Returns:
        The function, which gives the same results for every form of the model but for the last digits.

    Raises:
        InputError: the file is missing, damaged or not of this project, takes another batch, or the provider is not
            there.

    Example:
        >>> detect = load("best.pt")  # doctest: +SKIP
        >>> detect("dog.jpg").names  # doctest: +SKIP
        ('dog', 'bicycle')
        >>> load("best.onx")
        Traceback (most recent call last):
        gfl.errors.InputError: got the model best.onx, expected one of .pt, .pth, .safetensors, .onnx, .pt2, .om or a \
folder of exports; check the name
    """
    choice = ProviderChoice(provider, allow_fallback, dict(provider_options or {}))
    return Detect(open_model(path, batch=batch, threads=threads, choice=choice))


class Detect:
    """An open model as a function: detect(picture) -> Result, detect([pictures]) -> their results in order."""

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
        """Find the objects in one picture or in several.

        Args:
            pictures: a picture, or a list or tuple of them. A picture is a file's name or a uint8 array, (H,W,3) RGB or
                (H,W) grey, of any size.

        Returns:
            The detections of the picture, in its own pixels; for a list, one result a picture, in order.

        Raises:
            InputError: a file cannot be read as a picture, or an array is of another kind.

        Example:
            >>> detect = load("best.onnx")  # doctest: +SKIP
            >>> first, second = detect(["dog.jpg", np.zeros((480, 640, 3), np.uint8)])  # doctest: +SKIP
            >>> first.boxes_xyxy[0], first.scores[0]  # doctest: +SKIP
            (array([131.2, 219.4, 310.8, 540.1], dtype=float32), 0.87)
        """
        if isinstance(pictures, (list, tuple)):
            return self._detect(pictures)
        return self._detect([pictures])[0]

    def _detect(self, pictures: Sequence[Picture]) -> list[Result]:
        infos, resized = [], []
        indices_by_canvas: dict[Canvas, list[int]] = {}
        for index, picture in enumerate(pictures):
            image, source = as_image(picture, index)
            height, width = image.shape[:2]
            canvas, resized_hw = self.model.canvas_for(height, width)
            indices_by_canvas.setdefault(canvas, []).append(index)
            infos.append(PictureInfo(source, (height, width), resized_hw, image))
            resized.append(resize(image, resized_hw))
        results: dict[int, Result] = {}
        for canvas, indices in indices_by_canvas.items():
            for start in range(0, len(indices), self.model.batch):
                batch = indices[start : start + self.model.batch]
                outputs = self.model.run(*stack([resized[i] for i in batch], canvas, self.model.batch))
                for slot, index in enumerate(batch):
                    results[index] = result_of(outputs, slot, infos[index], self.model.description)
        return [results[index] for index in range(len(infos))]

"""Pictures on their way into a model: from what a caller has to the static batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gfl.data.picture_files import read_picture
from gfl.data.transforms import Image, place_on_canvas
from gfl.errors import InputError
from gfl.shapes import Canvas


def as_image(picture: ArrayLike | str | Path, index: int = 0) -> tuple[Image, str]:
    """A picture as uint8 (H,W,3) RGB, and what to call it; InputError for anything else."""
    if isinstance(picture, (str, Path)):
        return read_picture(Path(picture)), str(picture)
    array = np.asarray(picture)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(
            f"got an array of {array.dtype} {array.shape}, expected uint8 (H,W,3) in RGB or (H,W) in grey; convert it"
        )
    return array, f"array {index}"


def stack(images: Sequence[Image], canvas: Canvas, batch: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Resized pictures -> uint8 (B,3,H,W) and their int32 (B,2) sizes; those without a picture are blank."""
    stacked = np.zeros((batch, 3, *canvas), np.uint8)
    sizes = np.zeros((batch, 2), np.int32)
    for index, image in enumerate(images):
        place_on_canvas(image, stacked[index])
        sizes[index] = image.shape[:2]
    return stacked, sizes

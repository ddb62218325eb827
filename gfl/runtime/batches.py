"""Pictures gathered into batches of one canvas each, in the order of the input.

Shapes: B pictures a batch; H, W its canvas. NumPy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.runtime.result import PictureInfo
from gfl.shapes import Canvas

PATIENCE = 64  # batches' worth of later pictures after which a batch of a rare canvas goes out unfilled
OWN_OPEN = 4  # unfilled batches at a time where every picture has a canvas of its own


class InputPicture(NamedTuple):
    """A picture that is ready for the model."""

    position: int  # among the sources, from 0
    info: PictureInfo
    planes: NDArray[np.uint8]  # (3,H,W) RGB, zeros beside and below the picture
    is_first: bool = False  # of several pictures in its file

    @property
    def canvas(self) -> Canvas:
        """Height and width of the planes."""
        return self.planes.shape[1], self.planes.shape[2]


def fill_batches(pictures: Iterable[InputPicture], size: int, most_open: int) -> Iterator[list[InputPicture]]:
    """Gather pictures, which come in the order of the input, into batches of at most `size` on one canvas.

    A batch goes out when it is full; when its first picture is PATIENCE batches behind, since results are written in
    the order of the input and all later ones wait for it; when there would be more than `most_open` unfilled batches,
    the oldest first; and at the end.
    """
    unfilled: dict[Canvas, list[InputPicture]] = {}  # the oldest first
    for picture in pictures:
        oldest_position = picture.position - PATIENCE * size
        for canvas in [canvas for canvas, batch in unfilled.items() if batch[0].position <= oldest_position]:
            yield unfilled.pop(canvas)
        if picture.canvas not in unfilled and len(unfilled) == most_open:
            yield unfilled.pop(next(iter(unfilled)))
        unfilled.setdefault(picture.canvas, []).append(picture)
        if len(unfilled[picture.canvas]) == size:
            yield unfilled.pop(picture.canvas)
    yield from unfilled.values()


def batch_arrays(pictures: Sequence[InputPicture], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Pictures of one canvas, one at least -> `size` images uint8 (B,3,H,W) and their int32 (B,2) height, width.

    Where there are fewer pictures, blanks of size (0,0) follow them.
    """
    blanks = size - len(pictures)
    planes = [picture.planes for picture in pictures] + blanks * [np.zeros_like(pictures[0].planes)]
    sizes = [picture.info.resized_hw for picture in pictures] + blanks * [(0, 0)]
    return planes[0][None] if size == 1 else np.stack(planes), np.array(sizes, np.int32)

"""The size of a picture as it is read, from its header alone where that is safe."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gfl.data.picture_files import read_picture
from gfl.errors import InputError


class PictureSize(NamedTuple):
    """Height and width in px of a picture as `read_picture` gives it, and its EXIF orientation, 1..8."""

    height: int
    width: int
    orientation: int


def upright_size(path: Path) -> PictureSize:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                orientation = int(image.getexif().get(0x0112, 1) or 1)
                width, height = image.size
                if orientation in (5, 6, 7, 8):
                    width, height = height, width
                return PictureSize(height, width, orientation if 1 <= orientation <= 8 else 1)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        pass
    height, width = read_picture(path).shape[:2]
    return PictureSize(height, width, 1)


def upright_sizes(paths: Sequence[Path], threads: int = 8) -> list[PictureSize | InputError]:
    def size(path: Path) -> PictureSize | InputError:
        try:
            return upright_size(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(size, paths))

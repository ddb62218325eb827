"""Pictures on their way into a model: from what a caller has to the static batch. NumPy and OpenCV only.

Pillow and PyTorch are recognised by what their objects can do, and never imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gfl.data.depth import to_uint8
from gfl.data.picture_files import decode_picture, read_picture
from gfl.data.transforms import Image, place_on_canvas
from gfl.errors import InputError, first_line
from gfl.shapes import Canvas

LAYOUTS = ("HWC", "CHW")
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")  # what a name of a file does not begin with
ORIENTATION = 0x0112  # the tag of EXIF
# A tag's value -> the places that rows and columns come from, and which of the two then run backwards.
UPRIGHT: dict[int, tuple[bool, bool, bool]] = {  # (transposed, rows backwards, columns backwards)
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
DEEP_MODES = ("I", "F")  # Pillow's, of more than 8 bits a channel; 'I;16' and its byte orders begin so, too


@runtime_checkable
class PillowPicture(Protocol):
    """The part of PIL.Image.Image that is used here."""

    mode: str

    def convert(self, mode: str) -> PillowPicture:
        """The same picture with other channels."""

    def getexif(self) -> Mapping[int, object]:
        """Its EXIF tags."""


@runtime_checkable
class TorchTensor(Protocol):
    """The part of torch.Tensor that is used here."""

    def detach(self) -> TorchTensor:
        """Without a gradient."""

    def cpu(self) -> TorchTensor:
        """On the CPU."""

    def numpy(self) -> NDArray[np.generic]:
        """As an array."""


@runtime_checkable
class OpenFile(Protocol):
    """A file that is open for reading in binary mode."""

    def read(self) -> bytes:
        """The rest of its content."""


Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.generic] | PillowPicture | TorchTensor"
)


class Reading(NamedTuple):
    """How pictures are understood that do not say it themselves."""

    layout: str | None = None  # of arrays and tensors; None: HWC for arrays, and an error for tensors
    depth: str = "auto"  # as of `gfl.data.depth`, where there are more than 8 bits a channel


AS_FILES = Reading()


def check_layout(layout: str | None) -> None:
    """Raise InputError for anything but None and the two layouts."""
    if layout is not None and layout not in LAYOUTS:
        raise InputError(
            f"got the layout {layout!r}, expected 'HWC' (height, width, channels) or 'CHW'; give one of them"
        )


def as_image(picture: object, index: int = 0, reading: Reading = AS_FILES) -> tuple[Image, str]:
    """A picture of any kind as uint8 (H,W,3) RGB, and what to call it; the array may be the caller's own.

    index: of the picture among those of a call, for its name. Raises InputError for what cannot be understood without
    guessing.
    """
    if isinstance(picture, (str, os.PathLike)):
        return _read_file(os.fsdecode(picture), reading)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _decode(bytes(picture), f"bytes {index}", reading)
    if isinstance(picture, np.ndarray):
        return _array_to_rgb(picture, reading.layout or "HWC", reading.depth), f"array {index}"
    if isinstance(picture, PillowPicture):
        return _pillow_to_rgb(picture, reading.depth), str(getattr(picture, "filename", "") or f"picture {index}")
    if isinstance(picture, TorchTensor):
        return _tensor_to_rgb(picture, reading), f"tensor {index}"
    if isinstance(picture, OpenFile):
        content = picture.read()
        name = str(getattr(picture, "name", f"file {index}"))
        if not isinstance(content, bytes):
            raise InputError(f'got {name} open as text, expected an open picture file; open it with mode "rb"')
        return _decode(content, name, reading)
    if picture is None:
        raise InputError(
            "got None, expected a picture; cv2.imread gives None for a file that it cannot read: give the file's name"
        )
    if hasattr(picture, "__array__") and not isinstance(picture, (list, tuple)):
        return _array_to_rgb(np.asarray(picture), reading.layout or "HWC", reading.depth), f"array {index}"
    raise InputError(
        f"got an object of type {type(picture).__name__}, expected a picture: the name of a file, its bytes, an array "
        "(H,W,3) in RGB, a Pillow picture or a tensor; convert it, of numbers with numpy.array"
    )


def _read_file(name: str, reading: Reading) -> tuple[Image, str]:
    if URL.match(name):
        raise InputError(
            f"got the address {name[:80]}, expected the name of a file, for nothing is downloaded; fetch "
            "it yourself and give its bytes"
        )
    return read_picture(Path(name), reading.depth), name


def _decode(content: bytes, name: str, reading: Reading) -> tuple[Image, str]:
    return decode_picture(content, name, reading.depth), name


def _array_to_rgb(array: NDArray[np.generic], layout: str, depth: str) -> Image:
    """(H,W), or (H,W,C) or (C,H,W) by the layout, of C channels grey, RGB or RGBA; transparency is dropped, as of files
    (cv2.IMREAD_COLOR)."""
    got = f"an array of {array.dtype} {array.shape}"
    expected = "expected (H,W), (H,W,1), (H,W,3) in RGB or (H,W,4) in RGBA" + (
        ", with the channels first by layout='CHW'" if layout == "CHW" else ""
    )
    if array.ndim == 4:
        raise InputError(f"got {got}, {expected}; give several pictures as a list: list(array)")
    if array.ndim not in (2, 3) or array.size == 0:
        raise InputError(f"got {got}, {expected}; convert it")
    planes = array[:, :, None] if array.ndim == 2 else array
    if array.ndim == 3 and layout == "CHW":
        planes = array.transpose(1, 2, 0)
    if planes.shape[2] not in CHANNELS:
        other = "HWC" if layout == "CHW" else "CHW"
        first = array.shape[0 if other == "CHW" else -1]
        raise InputError(f"got {got}, {expected}; " + (f"give layout='{other}'" if first in CHANNELS else "convert it"))
    rgb = np.repeat(planes, 3, axis=2) if planes.shape[2] == 1 else planes[:, :, :3]
    return np.ascontiguousarray(to_uint8(rgb, depth))


def _tensor_to_rgb(tensor: TorchTensor, reading: Reading) -> Image:
    if reading.layout is None:
        shape = tuple(getattr(tensor, "shape", ()))
        raise InputError(
            f"got a tensor {shape} without its layout, which is not guessed; give layout='CHW' (torchvision's) or "
            "layout='HWC'"
        )
    try:
        array = tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, sparse, quantised
        raise InputError(
            f"got a tensor that cannot become an array ({first_line(error)}); convert it to uint8"
        ) from None
    return _array_to_rgb(array, reading.layout, reading.depth)


def _pillow_to_rgb(picture: PillowPicture, depth: str) -> Image:
    """Any mode of Pillow, turned upright by its EXIF orientation as a file is."""
    try:
        if picture.mode.startswith(DEEP_MODES):  # its own conversion would cut off what is above 255
            image = _array_to_rgb(np.asarray(picture), "HWC", depth)
        else:
            # Premultiplied transparency has no direct way to RGB.
            straight = {"RGBa": "RGBA", "La": "LA"}.get(picture.mode)
            image = np.asarray((picture.convert(straight) if straight else picture).convert("RGB"))
        orientation = picture.getexif().get(ORIENTATION, 1)
    except InputError:
        raise
    except Exception as error:  # a lazy file that is damaged raises many types; a mode without a way to RGB, ValueError
        raise InputError(
            f"got a Pillow picture of mode {picture.mode} that cannot be read as RGB ({first_line(error)}); convert it "
            "to RGB, or copy its file again"
        ) from error
    transposed, rows_backwards, columns_backwards = UPRIGHT.get(
        orientation if isinstance(orientation, int) else 1, (False, False, False)
    )
    image = image.transpose(1, 0, 2) if transposed else image
    image = image[:: -1 if rows_backwards else 1, :: -1 if columns_backwards else 1]
    return np.ascontiguousarray(image, np.uint8)


def stack(images: Sequence[Image], canvas: Canvas, batch: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Resized pictures -> uint8 (B,3,H,W) and their int32 (B,2) sizes; those without a picture are blank."""
    stacked = np.zeros((batch, 3, *canvas), np.uint8)
    sizes = np.zeros((batch, 2), np.int32)
    for index, image in enumerate(images):
        place_on_canvas(image, stacked[index])
        sizes[index] = image.shape[:2]
    return stacked, sizes

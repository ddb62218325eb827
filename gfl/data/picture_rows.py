"""Picture files that are read by rows: what is too large to be decoded whole, by GDAL (the package rasterio)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.data.picture_files import open_file, pixel_limit
from gfl.data.picture_headers import J2K_START, JP2_START, JPEG_START, PNG_START, TIFF_STARTS
from gfl.data.transforms import Image
from gfl.errors import InputError, first_line
from gfl.packages import import_package

# How files begin -> GDAL's name of the format. It knows many more, of which some name other files and addresses.
DRIVERS = {
    **dict.fromkeys(TIFF_STARTS, "GTiff"),
    JPEG_START: "JPEG",
    PNG_START: "PNG",
    **dict.fromkeys((JP2_START, J2K_START), "JP2OpenJPEG"),
}
MOST_PIXELS = 40_000_000_000  # 200,000 x 200,000: some hours
SHRUNK_SIDE = 4096  # px, of the whole picture that is held
CACHE_MB = 64


class Dataset(Protocol):
    """The part of rasterio's open file that is used here."""

    height: int
    width: int
    count: int
    dtypes: tuple[str, ...]
    colorinterp: tuple[object, ...]

    def read(self, bands: list[int], **options: object) -> NDArray[np.uint8]:
        """Bands (C,H,W)."""

    def tags(self, ns: str | None = None) -> dict[str, str]:
        """What the file says of itself."""

    def close(self) -> None:
        """Let the file go."""


class FileRows:
    """An open picture file as `gfl.runtime.slices.Rows`."""

    def __init__(self, path: Path, rasterio: ModuleType, dataset: Dataset) -> None:
        self._path, self._rasterio, self._dataset = path, rasterio, dataset
        self._bands = [1, 2, 3] if dataset.count >= 3 else [1, 1, 1]
        self._held: tuple[int, Image] = (0, np.zeros((0, dataset.width, 3), np.uint8))  # the rows of the last call

    def __enter__(self) -> FileRows:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._dataset.close()

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, px."""
        return self._dataset.height, self._dataset.width

    def rows(self, top: int, bottom: int) -> Image:
        """These rows (bottom - top, width, 3) RGB; those of the last call are not read again."""
        start, held = self._held
        held = held[max(top - start, 0) :]
        read = top + len(held)
        window = ((read, bottom), (0, self._dataset.width))
        rows = np.concatenate([held, self._read(window=window)])
        self._held = (top, rows)
        return rows

    def shrunk(self) -> Image:
        """The whole picture, its longer side SHRUNK_SIDE px at most."""
        height, width = self.size_hw
        scale = min(1.0, SHRUNK_SIDE / max(height, width))
        shape = (3, max(1, round(height * scale)), max(1, round(width * scale)))
        return self._read(out_shape=shape, resampling=self._rasterio.enums.Resampling.average)

    def _read(self, **options: object) -> Image:
        """Part of the picture, (H,W,3); InputError where the file is damaged."""
        with memory_of(self._rasterio):
            try:
                return np.ascontiguousarray(self._dataset.read(self._bands, **options).transpose(1, 2, 0))
            except self._rasterio.errors.RasterioError as error:
                raise InputError(
                    f"got a file that cannot be decoded, {self._path} ({first_line(error)}), expected a whole picture; "
                    "copy it again"
                ) from error


def open_rows(path: Path, most_pixels: int | None = None) -> FileRows | None:
    """A picture file to be read by rows; None for one that is decoded whole, or that GDAL does not read.

    most_pixels: larger ones are refused by whoever decodes them; None: `pixel_limit` counts for what is decoded whole,
    and MOST_PIXELS for what is read by rows. Raises InputError for a file that rows cannot be read of.
    """
    try:
        with open_file(path) as stream:
            start = stream.read(max(map(len, DRIVERS)))
    except (OSError, ValueError):
        return None
    driver = next((name for begin, name in DRIVERS.items() if start.startswith(begin)), None)
    if most_pixels is not None or driver is None or find_spec("rasterio") is None:
        return None
    rasterio = import_package("rasterio", "slices of large pictures need rasterio, which", "pip install rasterio")
    with memory_of(rasterio):
        try:
            dataset: Dataset = rasterio.open(path, driver=driver, sharing=False)
        except rasterio.errors.RasterioError:
            return None
    rows = FileRows(path, rasterio, dataset)
    if dataset.height * dataset.width <= pixel_limit():
        dataset.close()
        return None
    if fault := _unlike_decoding(dataset):
        dataset.close()
        raise InputError(f"got {path} of {fault}, which is not read by rows; write it as 8-bit RGB, upright")
    return rows


def _unlike_decoding(dataset: Dataset) -> str | None:
    """What would make rows other than the decoded picture."""
    if dataset.height * dataset.width > MOST_PIXELS:
        return f"{dataset.height * dataset.width:,} pixels, more than {MOST_PIXELS:,}"
    if set(dataset.dtypes) != {"uint8"}:
        return f"{dataset.dtypes[0]} pixels"
    colours = [getattr(band, "name", str(band)) for band in dataset.colorinterp]
    if colours[:3] != ["red", "green", "blue"] and colours[:1] not in (["gray"], ["grey"]):
        return f"colours {', '.join(colours)}"
    if dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        return "inverted grey"
    tags = dataset.tags()
    turned = {tags.get("EXIF_Orientation", "1"), tags.get("TIFFTAG_ORIENTATION", "1")[:1]} - {"1"}
    return f"orientation {turned.pop()}" if turned else None


@contextmanager
def memory_of(rasterio: ModuleType) -> Iterator[None]:
    """GDAL with a small cache, whose default is a share of the machine's memory, and no word on maps."""
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield

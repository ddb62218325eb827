"""Sizes from headers: what OpenCV decodes to, over formats, orientations and damage."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from gfl.data import picture_sizes
from gfl.data.picture_files import read_picture
from gfl.data.picture_sizes import PictureSize, turn, upright_size, upright_sizes
from gfl.errors import InputError

HEIGHT, WIDTH = 20, 30
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def exif_block(*orientations: int, order: str = "<", kind: int = 3) -> bytes:
    """TIFF's header and one directory with the tag as often as there are values."""
    entries = b"".join(
        struct.pack(f"{order}HHIHH", 0x0112, kind, 1, value, 0)
        if kind == 3
        else struct.pack(f"{order}HHII", 0x0112, kind, 1, value)
        for value in orientations
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", 8, len(orientations)) + entries + b"\0\0\0\0"


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    picture = Pillow.fromarray(PIXELS)
    picture = Pillow.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*segments: bytes, **options: object) -> bytes:
    """A JPEG with segments right after its start."""
    data = encoded("JPEG", **options)
    return data[:2] + b"".join(segments) + data[2:]


def exif_segment(*orientations: int, order: str = "<", kind: int = 3) -> bytes:
    return segment(b"Exif\0\0" + exif_block(*orientations, order=order, kind=kind))


def png(before: bytes = b"", after: bytes = b"", **options: object) -> bytes:
    """A PNG with chunks before and after its data."""
    data = encoded("PNG", **options)
    first, last = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:first] + before + data[first:last] + after + data[last:]


def chunk(content: bytes, name: bytes = b"eXIf") -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


XMP = b"http://ns.adobe.com/xap/1.0/\0" + b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'

# Each read from its header alone.
SAFE: dict[str, Callable[[int], bytes]] = {
    "jpeg": lambda orientation: jpeg(exif_segment(orientation)),
    "big-endian": lambda orientation: jpeg(exif_segment(orientation, order=">")),
    "progressive": lambda orientation: jpeg(exif_segment(orientation), progressive=True),
    "grey": lambda orientation: jpeg(exif_segment(orientation), mode="L"),
    "cmyk": lambda orientation: jpeg(exif_segment(orientation), mode="CMYK"),
    "before XMP": lambda orientation: jpeg(exif_segment(orientation), segment(XMP)),
    "no EXIF tag": lambda _: jpeg(exif_segment()),
    "XMP alone": lambda _: jpeg(segment(XMP)),
    "plain jpeg": lambda _: jpeg(),
    "png": lambda orientation: png(chunk(exif_block(orientation))),
    "png, big-endian": lambda orientation: png(chunk(exif_block(orientation, order=">"))),
    "png, after the data": lambda orientation: png(after=chunk(exif_block(orientation))),
    "png of 16 bits": lambda orientation: png(chunk(exif_block(orientation)), mode="I;16"),
    "png with alpha": lambda orientation: png(chunk(exif_block(orientation)), mode="RGBA"),
    "png with a palette": lambda orientation: png(chunk(exif_block(orientation)), mode="P"),
    "plain png": lambda _: png(),
}

# Each decoded, because the header alone may mean two things.
ODD: dict[str, Callable[[int], bytes]] = {
    "two EXIF blocks": lambda orientation: jpeg(exif_segment(orientation), exif_segment(3)),
    "after XMP": lambda orientation: jpeg(segment(XMP), exif_segment(orientation)),
    "two tags": lambda orientation: jpeg(exif_segment(orientation, 1)),
    "a long": lambda orientation: jpeg(exif_segment(orientation, kind=4)),
    "a big-endian long": lambda orientation: jpeg(exif_segment(orientation, kind=4, order=">")),
    "no byte order": lambda orientation: jpeg(segment(b"Exif\0\0??" + exif_block(orientation)[2:])),
    "cut EXIF": lambda orientation: jpeg(segment(b"Exif\0\0" + exif_block(orientation)[:12])),
    "filling": lambda orientation: jpeg(b"\xff", exif_segment(orientation)),
    "bytes after the end": lambda orientation: jpeg(exif_segment(orientation)) + b"\0\0\0",
    "EXIF's start in a png": lambda orientation: png(chunk(b"Exif\0\0" + exif_block(orientation))),
    "two in a png": lambda orientation: png(chunk(exif_block(orientation)), chunk(exif_block(3))),
    "webp": lambda orientation: encoded("WEBP", exif=b"Exif\0\0" + exif_block(orientation), lossless=True),
    "bmp": lambda _: encoded("BMP"),
    "tiff": lambda _: encoded("TIFF"),
}


def size_by_decoding(path: Path) -> tuple[int, int]:
    height, width, _ = read_picture(path).shape
    return height, width


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("case", SAFE)
def test_header_says_what_decoding_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, orientation: int
) -> None:
    path = tmp_path / "picture"
    path.write_bytes(SAFE[case](orientation))
    by_decoding = picture_sizes._decoded_size(path)

    def refuse(path: Path) -> PictureSize:
        raise AssertionError(f"{path} was decoded")

    monkeypatch.setattr(picture_sizes, "_decoded_size", refuse)
    assert upright_size(path)[:2] == size_by_decoding(path)
    assert upright_size(path) == by_decoding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_decoded(tmp_path: Path, case: str, orientation: int) -> None:
    path = tmp_path / "picture"
    path.write_bytes(ODD[case](orientation))
    assert upright_size(path) == picture_sizes._decoded_size(path)
    assert upright_size(path)[:2] == size_by_decoding(path)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientations_that_mean_nothing_turn_nothing(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "picture"
    for data in (jpeg(exif_segment(orientation)), png(chunk(exif_block(orientation)))):
        path.write_bytes(data)
        assert upright_size(path) == (*size_by_decoding(path), 1) == (HEIGHT, WIDTH, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_is_what_decoding_does(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "picture"
    path.write_bytes(png(chunk(exif_block(orientation))))
    np.testing.assert_array_equal(turn(PIXELS, orientation), read_picture(path))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_file_is_refused_as_decoding_refuses_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "picture"
    data = encoded(kind, exif=b"Exif\0\0" + exif_block(6))
    for length in (*range(0, len(data) - 1, 97), len(data) - 12 if kind == "PNG" else len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError) as by_decoding:
            read_picture(path)
        with pytest.raises(InputError) as found:
            upright_size(path)
        assert str(found.value) == str(by_decoding.value)


def test_sizes_beyond_what_opencv_decodes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    data = png()
    header = data[12:16] + struct.pack(">II", 2**16, 2**16) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    with pytest.raises(InputError, match="got a picture of 4,294,967,296 pixels"):
        upright_size(path)


def test_a_list_says_what_is_wrong_with_each(tmp_path: Path) -> None:
    good, text = tmp_path / "good.jpg", tmp_path / "text.jpg"
    good.write_bytes(jpeg(exif_segment(6)))
    text.write_text("no picture")
    first, missing, third, folder = upright_sizes([good, tmp_path / "missing.jpg", text, tmp_path])
    assert first == PictureSize(WIDTH, HEIGHT, 6)
    assert isinstance(missing, InputError)
    assert "No such file" in str(missing)
    assert isinstance(third, InputError)
    assert "cannot be decoded" in str(third)
    assert isinstance(folder, InputError)
    assert upright_sizes([]) == []

"""Pixels that a header states, before anything is decoded, in every format that OpenCV decodes here."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from gfl.data.picture_files import decode, decode_picture, read_picture
from gfl.data.picture_headers import holds_several, stated_pixels
from gfl.errors import InputError
from gfl.shapes import MOST_PIXELS

HEIGHT, WIDTH = 60, 80
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
KINDS = (
    *(".jpg", ".png", ".bmp", ".webp", ".tif", ".jp2", ".avif", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pam", ".pfm", ".ras", ".hdr"),
)


def written(kind: str, image: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = NOISE) -> bytes:
    """A picture as OpenCV writes it; skips where this build does not."""
    try:
        done, data = cv2.imencode(kind, image[..., 0] if kind in (".pgm", ".pbm") else image)
    except cv2.error:
        done = False
    if not done:
        pytest.skip(f"this build of OpenCV writes no {kind}")
    return data.tobytes()


def by_pillow(kind: str, count: int = 1, **options: object) -> bytes:
    pictures = [Pillow.fromarray(np.roll(NOISE, shift, axis=0)) for shift in range(count)]
    stream = io.BytesIO()
    several: dict[str, object] = {"save_all": True, "append_images": pictures[1:]} if count > 1 else {}
    pictures[0].save(stream, kind, **several, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_that_are_decoded(kind: str) -> None:
    data = written(kind)
    decoded = decode(data)
    assert decoded is None or decoded.shape[:2] == (HEIGHT, WIDTH)  # .pam is written and not read
    assert stated_pixels(data) == HEIGHT * WIDTH
    assert not holds_several(data)
    assert all((stated_pixels(data[:length]) or 0) <= HEIGHT * WIDTH for length in range(min(len(data), 400)))


BOMBS: dict[str, Callable[[int, int], bytes]] = {
    "png": lambda h, w: (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", w, h, 8, 0, 0, 0, 0) + b"\0\0\0\0"
        b"\0\0\0\0IEND\xaeB`\x82"
    ),
    "jpeg": lambda h, w: b"\xff\xd8\xff\xe0\0\2junk\xff\xff\xc2\0\x11\x08" + struct.pack(">HH", h, w) + b"\3\xff\xd9",
    "bmp": lambda h, w: b"BM" + bytes(12) + struct.pack("<Iii", 40, w, -h) + bytes(28),
    "old bmp": lambda h, w: b"BM" + bytes(12) + struct.pack("<IHH", 12, w, h) + bytes(28),
    "gif": lambda h, w: b"GIF89a" + struct.pack("<HH", w, h) + bytes(20),
    "webp": lambda h, w: b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"".join(
        (side - 1).to_bytes(3, "little") for side in (w, h)
    ),
    "tiff": lambda h, w: b"MM\0*\0\0\0\x08\0\2" + struct.pack(">HHII", 256, 4, 1, w) + struct.pack(
        ">HHII", 257, 4, 1, h
    ) + bytes(8),
    "tiles": lambda h, w: b"II*\0\x08\0\0\0\4\0" + b"".join(
        struct.pack("<HHII", tag, 4, 1, side) for tag, side in ((256, 1), (257, 1), (322, w), (323, h))
    ) + bytes(8),
    "big tiff": lambda h, w: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2) + b"".join(
        struct.pack("<HHQQ", tag, 16, 1, side) for tag, side in ((256, w), (257, h))
    ) + bytes(16),
    "pnm": lambda h, w: b"P6\n# a comment 1 1\n%d # another\n%d\n255\n" % (w, h),
    "pam": lambda h, w: b"P7\nHEIGHT %d\nWIDTH %d\nDEPTH 3\nMAXVAL 255\nENDHDR\n" % (h, w),
    "pfm": lambda h, w: b"PF\n%d %d\n-1.0\n" % (w, h),
    "hdr": lambda h, w: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (h, w),
    "sun": lambda h, w: b"\x59\xa6\x6a\x95" + struct.pack(">II", w, h) + bytes(24),
    "jpeg 2000": lambda h, w: b"\xff\x4f\xff\x51\0\x2f\0\0" + struct.pack(">IIII", w + 7, h + 9, 7, 9) + bytes(40),
    "jp2": lambda h, w: b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\0jp2c\xff\x4f\xff\x51\0\x2f\0\0"
    + struct.pack(">IIII", w, h, 0, 0) + bytes(40),
    "avif": lambda h, w: b"\0\0\0\x10ftypavif\0\0\0\0\0\0\0\x24meta\0\0\0\0\0\0\0\x14ispe\0\0\0\0"
    + struct.pack(">II", w, h) + bytes(4),
    "exr": lambda h, w: b"\x76\x2f\x31\x01\2\0\0\0dataWindow\0box2i\0\x10\0\0\0"
    + struct.pack("<iiii", -5, 10, w - 6, h + 9) + b"\0",
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_headers_of_every_format_are_read(kind: str) -> None:
    assert stated_pixels(BOMBS[kind](9_000, 30_000)) == 270_000_000


@pytest.mark.parametrize("kind", BOMBS)
def test_pictures_beyond_the_limit_are_refused_before_they_are_decoded(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecode", fail)
    monkeypatch.setattr("gfl.data.picture_files.is_truncated", lambda data: False)
    path = tmp_path / "bomb.jpg"
    path.write_bytes(BOMBS[kind](9_000, 30_000))
    with pytest.raises(InputError, match=r"got a picture of 270,000,000 pixels, .*bomb\.jpg, expected at most 180,0"):
        read_picture(path)


def test_the_limit_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(written(".png"))
    assert HEIGHT * WIDTH <= MOST_PIXELS
    with pytest.raises(InputError, match="expected at most 4,799"):
        read_picture(path, most_pixels=HEIGHT * WIDTH - 1)
    assert read_picture(path, most_pixels=HEIGHT * WIDTH).shape == NOISE.shape
    monkeypatch.setenv("GFL_MOST_PIXELS", "4799")
    with pytest.raises(InputError, match="expected at most 4,799"):
        read_picture(path)
    monkeypatch.setenv("GFL_MOST_PIXELS", "many")
    with pytest.raises(InputError, match="got GFL_MOST_PIXELS=many, expected a number"):
        read_picture(path)


def test_formats_that_are_unknown_here_are_left_to_the_decoder() -> None:
    assert stated_pixels(b"something else") is None
    assert stated_pixels(b"") is None


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_files_of_several_pictures_are_told(kind: str) -> None:
    try:
        assert holds_several(by_pillow(kind, 3))
    except KeyError:
        pytest.skip(f"this build of Pillow writes no {kind}")
    assert not holds_several(by_pillow(kind))


def test_a_smaller_copy_in_a_tiff_is_no_second_page() -> None:
    data = by_pillow("TIFF", 2)
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    second = struct.unpack_from("<I", data, first + 2 + 12 * entries)[0]
    marked = data[: second + 2] + struct.pack("<HHII", 254, 4, 1, 1) + data[second + 14 :]
    assert holds_several(data)
    assert not holds_several(marked)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_headers_never_raise_and_never_state_less_than_is_decoded(kind: str) -> None:
    data = written(kind)
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 160), rng.integers(1, 6)):
            damaged[at] = rng.integers(0, 256)
        stated = stated_pixels(bytes(damaged))
        holds_several(bytes(damaged))
        with suppress(InputError):
            image = decode_picture(bytes(damaged), "damaged", most_pixels=1_000_000)
            assert stated is None or stated >= image.shape[0] * image.shape[1]

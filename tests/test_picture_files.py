"""Picture files: decoded to upright RGB, or named with what is wrong."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from gfl.data import picture_files
from gfl.data.picture_files import is_truncated, read_picture
from gfl.data.transforms import Image
from gfl.errors import InputError

# An APP1 segment with one EXIF entry: orientation 6, to be shown turned 90 degrees clockwise.
TIFF = b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"
EXIF = b"\xff\xe1" + (8 + len(TIFF)).to_bytes(2, "big") + b"Exif\x00\x00" + TIFF


def picture(height: int = 24, width: int = 40, seed: int = 0) -> Image:
    """A smooth random picture, so that JPEG keeps it nearly as it is."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def encoded(kind: str, image: Image | None = None) -> bytes:
    """The bytes of a file of that kind."""
    source = picture() if image is None else image
    done, data = cv2.imencode(kind, cv2.cvtColor(source, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_png_is_read_as_rgb(tmp_path: Path) -> None:
    image = picture()
    np.testing.assert_array_equal(read_picture(write(tmp_path / "a.png", encoded(".png", image))), image)


def test_grey_pictures_become_three_channels(tmp_path: Path) -> None:
    done, data = cv2.imencode(".png", np.arange(48, dtype=np.uint8).reshape(6, 8))
    assert done
    image = read_picture(write(tmp_path / "grey.png", data.tobytes()))
    assert image.shape == (6, 8, 3)
    assert (image == image[..., :1]).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    data = encoded(".jpg")
    upright = read_picture(write(tmp_path / "upright.jpg", data))
    turned = read_picture(write(tmp_path / "turned.jpg", data[:2] + EXIF + data[2:]))
    np.testing.assert_array_equal(turned, np.rot90(upright, k=-1))


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_an_input_error_naming_it(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind)
    path = write(tmp_path / f"cut{kind}", data[: int(len(data) * share)])
    with pytest.raises(InputError, match=f"cut{kind}"):
        read_picture(path)


@pytest.mark.parametrize("flags", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]])
def test_whole_jpegs_of_every_kind_are_not_called_truncated(flags: list[int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    done, array = cv2.imencode(".jpg", noise, flags)
    assert done
    data = array.tobytes()
    assert not is_truncated(data)
    assert not is_truncated(data + b"\xff\xda trailer \xff\xda")  # what some phones append
    assert all(is_truncated(data[:end]) for end in range(2, len(data), 97))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    data = encoded(".jpg")
    segment = b"\xff\xe1" + (2 + len(data)).to_bytes(2, "big") + data
    whole = data[:2] + segment + data[2:]
    assert not is_truncated(whole)
    assert is_truncated(whole[:-10])


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xd9", b"BM" + bytes(20)])
def test_a_file_that_is_no_picture_is_an_input_error_naming_it(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError, match=r"notes\.jpg"):
        read_picture(write(tmp_path / "notes.jpg", data))


def test_a_missing_file_is_an_input_error_naming_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jpg"):
        read_picture(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=tmp_path.name):
        read_picture(tmp_path)


# ---- more than 8 bits ----

RAMP = np.linspace(0, 1, 40 * 60).reshape(40, 60)


@pytest.mark.parametrize(
    ("kind", "pixels"),
    [
        (".png", (RAMP * 4095).astype(np.uint16)),
        (".png", (np.dstack([RAMP] * 4) * 4095).astype(np.uint16)),
        (".tif", (RAMP * 65535).astype(np.uint16)),
        (".tif", (RAMP * 4095).astype(np.int16)),
        (".tif", RAMP.astype(np.float32)),
        (".tif", RAMP * 0.5 - 7),
        (".tif", np.dstack([RAMP] * 3)),
        (".tif", (RAMP * 100_000).astype(np.int32)),
        (".pfm", (RAMP * 30).astype(np.float32)),
        (".pgm", (RAMP * 1023).astype(np.uint16)),
        (".jp2", (RAMP * 4095).astype(np.uint16)),
    ],
)
def test_deep_pictures_are_neither_black_nor_wrapped(
    tmp_path: Path, kind: str, pixels: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    done, data = cv2.imencode(kind, pixels)
    if not done:
        pytest.skip(f"this build of OpenCV writes no {kind}")
    image = read_picture(write(tmp_path / f"a{kind}", data.tobytes()))
    assert image.shape == (40, 60, 3)
    levels = image[..., 1].astype(int).reshape(-1)
    assert np.abs(levels - 255 * RAMP.reshape(-1)).max() <= 6


def test_the_rule_for_deep_pictures_can_be_chosen(tmp_path: Path) -> None:
    done, data = cv2.imencode(".png", (RAMP * 1023).astype(np.uint16))
    assert done
    path = write(tmp_path / "a.png", data.tobytes())
    highest = {depth: int(read_picture(path, depth).max()) for depth in ("auto", "full", "range", "10", "12")}
    assert highest == {"auto": 255, "full": 3, "range": 255, "10": 255, "12": 63}
    with pytest.raises(InputError, match="got the depth 'dark'"):
        read_picture(path, "dark")


def test_deep_pictures_are_turned_upright_too(tmp_path: Path) -> None:
    done, data = cv2.imencode(".png", (RAMP * 4095).astype(np.uint16))
    assert done
    content = data.tobytes()
    chunk = b"eXIf" + TIFF
    turned = content[:33] + len(TIFF).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + content[33:]
    upright = read_picture(write(tmp_path / "a.png", content))
    np.testing.assert_array_equal(read_picture(write(tmp_path / "b.png", turned)), np.rot90(upright, k=-1))


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm", ".gif", ".jp2", ".avif", ".ras"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_eight_bits_are_read_as_imread_color_does(tmp_path: Path, kind: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, channels)).astype(np.uint8)
    try:
        done, data = cv2.imencode(kind, pixels)
    except cv2.error:
        done = False
    if not done:
        pytest.skip(f"this build of OpenCV writes no such {kind}")
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(read_picture(write(tmp_path / f"a{kind}", data.tobytes())), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_jpeg_decoded_as_rgb_has_the_bytes_of_one_turned_afterwards(
    tmp_path: Path, mode: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    Pillow.fromarray(picture(49, 67)).convert(mode).save(path, quality=90)
    if not at_once:  # as before OpenCV 4.11
        monkeypatch.setattr(picture_files, "RGB_AT_ONCE", cv2.IMREAD_COLOR)
    expected = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    decoded, imdecode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decoded.append(imdecode(*given)) or decoded[-1])
    np.testing.assert_array_equal(read_picture(path), expected)
    assert len(decoded) == 1

"""What a picture's header states before anything is decoded: how many pixels, and whether more pictures follow.

A few hundred bytes can stand for gigabytes of pixels, so that they are counted first, in every format that OpenCV's
packages decode. Where a format can state its size twice, the larger one counts: a file may lie in one of them.
Sources: ITU-T T.81 (JPEG) and T.800 (JPEG 2000), ISO/IEC 15948 (PNG), 23008-12 (AVIF), RFC 9649 (WebP), TIFF 6.0.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8"
JP2_START, J2K_START = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}  # those with a plus have 64-bit offsets
TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the types that sizes have
TIFF_WIDTH, TIFF_HEIGHT, TIFF_TILE_WIDTH, TIFF_TILE_HEIGHT, TIFF_KIND = 256, 257, 322, 323, 254
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # segments that state the picture's size
GAP = rb"(?:\s|#[^\r\n]*[\r\n])"  # space or a comment between the numbers of a PNM
PNM = re.compile(rb"P[1-6]" + GAP + rb"+(\d+)" + GAP + rb"+(\d+)")
PFM = re.compile(rb"P[Ff]\s+(\d+)\s+(\d+)")
PAM_WIDTH, PAM_HEIGHT = re.compile(rb"WIDTH\s+(\d+)"), re.compile(rb"HEIGHT\s+(\d+)")
HDR = re.compile(rb"-Y\s*(\d+)\s*\+X\s*(\d+)")
EXR = re.compile(rb"(?:dataWindow|displayWindow)\0box2i\0\x10\0\0\0(.{16})", re.DOTALL)
AVIF_PICTURE, AVIF_TRACK = re.compile(rb"ispe.{4}(.{8})", re.DOTALL), re.compile(rb"av01.{24}(.{4})", re.DOTALL)
AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"miaf")
MOST_DIGITS = 12  # of a number in a header that is read; longer ones are larger than any picture


def stated_pixels(data: bytes) -> int | None:
    """Pixels that the header of a file states; 0 where a format that is known here states none, None for others."""
    try:
        return _stated_pixels(data)
    except (struct.error, IndexError):  # the file ends within its header
        return 0


def _stated_pixels(data: bytes) -> int | None:
    if data.startswith(JPEG_START):
        return _jpeg_pixels(data)
    if data.startswith(PNG_START):
        return _area(*struct.unpack_from(">II", data, 16))
    if data[:2] == b"BM":
        core = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2's header
        return _area(*struct.unpack_from("<HH" if core else "<ii", data, 18))
    if data[:4] in TIFF_STARTS:
        tags = _tiff_tags(data)[0]
        tile = _area(tags.get(TIFF_TILE_WIDTH, 0), tags.get(TIFF_TILE_HEIGHT, 0))
        return max(_area(tags.get(TIFF_WIDTH, 0), tags.get(TIFF_HEIGHT, 0)), tile)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_pixels(data)
    if data[:4] == b"GIF8":
        return _area(*struct.unpack_from("<HH", data, 6))
    if data.startswith((JP2_START, J2K_START)):
        return max(_jpeg_2000_pixels(data), default=0)
    if data[:4] == b"\x59\xa6\x6a\x95":  # SunRaster
        return _area(*struct.unpack_from(">II", data, 4))
    if data[4:8] == b"ftyp" and any(brand in data[8 : _box_length(data, 0)] for brand in AVIF_BRANDS):
        return max(_avif_pixels(data), default=0)
    return _text_pixels(data)


def _area(width: int, height: int) -> int:
    return abs(width) * abs(height)


def _text_pixels(data: bytes) -> int | None:
    """As `stated_pixels`, of the formats whose header is text, and OpenEXR, whose header has names."""
    if data[:2] == b"P7":
        sides = [max(map(_number, side.findall(data)), default=0) for side in (PAM_WIDTH, PAM_HEIGHT)]
        return _area(*sides)
    for start, pattern in ((rb"P[1-6]\s", PNM), (rb"P[Ff]\s", PFM)):
        if re.match(start, data):
            found = pattern.match(data)
            return _area(_number(found[1]), _number(found[2])) if found else 0
    if data.startswith((b"#?RGBE", b"#?RADIANCE")):
        return max((_area(_number(height), _number(width)) for height, width in HDR.findall(data)), default=0)
    if data[:4] == b"\x76\x2f\x31\x01":  # OpenEXR
        windows = [struct.unpack("<iiii", window) for window in EXR.findall(data)]
        return max((_area(right - left + 1, low - high + 1) for left, high, right, low in windows), default=0)
    return None


def _number(digits: bytes) -> int:
    return int(digits) if len(digits) <= MOST_DIGITS else 10**MOST_DIGITS


def _jpeg_pixels(data: bytes) -> int:
    """Walk the segments to the frame's, as decoders do: they skip what is no marker between two segments."""
    at = len(JPEG_START)
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            return 0
        while data[at] == 0xFF:  # filling
            at += 1
        marker = data[at]
        at += 1
        if marker in JPEG_FRAMES:
            return _area(*struct.unpack_from(">HH", data, at + 3))
        if marker in (0xD9, 0xDA):  # the end, or the data begins
            return 0
        if not (marker <= 0x01 or 0xD0 <= marker <= 0xD8):  # those have no segment
            at += struct.unpack_from(">H", data, at)[0]


def _tiff_tags(data: bytes, at: int | None = None) -> tuple[dict[int, int], int]:
    """The numbers of a TIFF's directory by tag, the largest where one comes twice, and where the next directory is."""
    order, big = TIFF_STARTS[data[:4]], data[2:4] in (b"+\0", b"\0+")
    count_as, offset_as, size = ("Q", "Q", 20) if big else ("H", "I", 12)
    if at is None:
        (at,) = struct.unpack_from(order + offset_as, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count_as, data, at)
    start = at + struct.calcsize(count_as)
    tags: dict[int, int] = {}
    for entry in range(start, min(start + entries * size, len(data) - size), size):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if kind in TIFF_NUMBERS:
            (value,) = struct.unpack_from(order + TIFF_NUMBERS[kind], data, entry + (12 if big else 8))
            tags[tag] = max(tags.get(tag, 0), value)
    end = start + entries * size
    return tags, struct.unpack_from(order + offset_as, data, end)[0] if end + 8 <= len(data) else 0


def _webp_pixels(data: bytes) -> int:
    kind = data[12:16]
    if kind == b"VP8X":
        return (int.from_bytes(data[24:27], "little") + 1) * (int.from_bytes(data[27:30], "little") + 1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return _area((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _area(width & 0x3FFF, height & 0x3FFF)
    return 0


def _box_length(data: bytes, at: int) -> int:
    """Bytes of a box of the ISO base media format, which JPEG 2000 and AVIF share."""
    (length,) = struct.unpack_from(">I", data, at)
    if length == 1:
        (length,) = struct.unpack_from(">Q", data, at + 8)
    return length if length >= 8 else len(data) - at  # 0: it is the last; less than 8 is none


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of a file: name, and content with what follows of a long length."""
    at = 0
    while at + 8 <= len(data):
        length = _box_length(data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _jpeg_2000_pixels(data: bytes) -> Iterator[int]:
    if data.startswith(J2K_START):
        yield _codestream_pixels(data)
        return
    for name, content in _boxes(data):
        if name == b"jp2h" and (at := content.find(b"ihdr")) >= 0:
            yield _area(*struct.unpack_from(">II", content, at + 4))
        if name == b"jp2c" and (at := content.find(J2K_START, 0, 16)) >= 0:
            yield _codestream_pixels(content[at:])


def _codestream_pixels(data: bytes) -> int:
    right, low, left, high = struct.unpack_from(">IIII", data, 8)
    return _area(max(right - left, 0), max(low - high, 0))


def _avif_pixels(data: bytes) -> Iterator[int]:
    for name, content in _boxes(data):
        if name == b"meta":
            yield from (_area(*struct.unpack(">II", sides)) for sides in AVIF_PICTURE.findall(content))
        if name == b"moov":
            yield from (_area(*struct.unpack(">HH", sides)) for sides in AVIF_TRACK.findall(content))


# ---- several pictures in a file ----


def holds_several(data: bytes) -> bool:
    """Whether a file holds pictures after its first, which is the one that is read: an animation, or pages."""
    try:
        if data.startswith(PNG_START):
            return data.find(b"acTL", 0, data.find(b"IDAT")) > 0
        if data[:4] in TIFF_STARTS:
            return _has_pages(data)
        if data[:4] == b"RIFF" and data[12:16] == b"VP8X":
            return bool(data[20] & 2)
        if data[:4] == b"GIF8":
            return _gif_pictures(data) > 1
        return data[4:12] == b"ftypavis"
    except (struct.error, IndexError):
        return False


def _has_pages(data: bytes) -> bool:
    """Whether a directory after a TIFF's first is not a smaller copy, or a mask, of another."""
    next_at, seen = _tiff_tags(data)[1], set[int]()
    while next_at and next_at not in seen:
        seen.add(next_at)
        tags, following = _tiff_tags(data, next_at)
        if not tags.get(TIFF_KIND, 0) & 0b101:
            return True
        next_at = following
    return False


def _gif_pictures(data: bytes) -> int:
    """The pictures of a GIF, two at most."""
    at, pictures = 13 + _colours(data[10]), 0
    while at < len(data) and pictures < 2:
        if data[at] == 0x2C:  # a picture: its place, size and colours, then blocks of data
            pictures += 1
            at += 11 + _colours(data[at + 9])
        elif data[at] == 0x21:  # an extension: its kind, then blocks
            at += 2
        else:
            break
        while data[at]:
            at += 1 + data[at]
        at += 1
    return pictures


def _colours(flags: int) -> int:
    """Bytes of the table of colours that a GIF's flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

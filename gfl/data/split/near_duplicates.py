"""Pictures that look alike: frames of one video, and copies that were re-encoded, resized, brightened or cropped a bit.

A picture's look is 128 bits, which of two neighbouring cells of an 8x8 mosaic is the brighter one (a difference hash
along rows and along columns), and a 16x16 mosaic. Two pictures look alike where few bits differ and the mosaics
correlate: bits alone would merge pictures that are mostly empty, mosaics alone those with the sky above the ground.
Letters: P pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.picture_files import is_truncated
from gfl.data.picture_headers import JPEG_START
from gfl.machine import usable_cores

CELLS, FINE_CELLS = 8, 16  # a side of the mosaics
BITS = 2 * CELLS * CELLS
# Measured on 452 photographs and micrographs: two distinct ones differ in 29 bits or more, a picture and its copy in 19
# or fewer (JPEG quality 20, half the size, 20% brighter, 2% cut off each side); with 3% cut off, 98 of 100 are found.
MOST_BITS = 20
LEAST_CORRELATION = 0.9  # distinct ones reach 0.80, copies with 2% cut off each side fall to 0.91
BRIGHTER = 1  # grey levels by which a cell must be brighter than its neighbour: less is noise
NOISE = 2.0  # grey levels between two pictures of one even colour
SMALLEST = 32  # px: below it a reduced decoding has too few pixels for the mosaics
BLOCK = 256  # pictures compared with all others at once


class Looks(NamedTuple):
    """What some pictures look like."""

    bits: NDArray[np.bool_]  # (P,128)
    mosaics: NDArray[np.uint8]  # (P,256) grey levels


def read_looks(paths: Sequence[Path]) -> tuple[Looks, list[int]]:
    """The looks of the pictures that can be read, and their positions among the paths."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(_read_look, paths))
    readable = [index for index, look in enumerate(found) if look is not None]
    looks = [look for look in found if look is not None]
    bits = np.array([bits for bits, _ in looks], dtype=np.bool_).reshape(-1, BITS)
    mosaics = np.array([mosaic for _, mosaic in looks], dtype=np.uint8).reshape(-1, FINE_CELLS**2)
    return Looks(bits, mosaics), readable


def look_at(grey: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """(H,W) grey -> (128,) bits and (256,) mosaic."""

    def mosaic(height: int, width: int) -> NDArray[np.int16]:
        return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), dtype=np.int16)

    along_rows, along_columns = mosaic(CELLS, CELLS + 1), mosaic(CELLS + 1, CELLS)
    brighter = along_rows[:, 1:] > along_rows[:, :-1] + BRIGHTER, along_columns[1:] > along_columns[:-1] + BRIGHTER
    return np.concatenate([part.ravel() for part in brighter]), mosaic(FINE_CELLS, FINE_CELLS).ravel().astype(np.uint8)


def _read_look(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.uint8]] | None:
    """A picture's look; None where it is missing, truncated or no picture."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError):  # a name with a zero byte is a ValueError
        return None
    if is_truncated(data):
        return None
    grey = None
    with suppress(cv2.error):
        content = np.frombuffer(data, dtype=np.uint8)
        if data.startswith(JPEG_START):  # a JPEG is decoded to an eighth in a third of the time
            grey = cv2.imdecode(content, cv2.IMREAD_REDUCED_GRAYSCALE_8)
        if grey is None or min(grey.shape) < SMALLEST:
            grey = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    return None if grey is None else look_at(np.asarray(grey, dtype=np.uint8))


def group_alike(looks: Looks, most_bits: int = MOST_BITS) -> list[list[int]]:
    """Groups of positions of pictures that look alike, directly or by way of others; who is like nobody is in none.

    All pairs are compared, a block at a time as a product of matrices: 100,000 pictures take half a minute.
    """
    count = len(looks.bits)
    signs = looks.bits.astype(np.float32) * 2 - 1
    group_of = np.arange(count)
    members = {index: [index] for index in range(count)}
    for start in range(0, count, BLOCK):
        agreeing = signs[start : start + BLOCK] @ signs[start:].T  # 128 less twice the bits that differ
        close = np.triu(agreeing >= BITS - 2 * most_bits, k=1)
        for row in np.flatnonzero(close.any(axis=1)).tolist():
            here = start + row
            others = start + np.flatnonzero(close[row])
            others = others[group_of[others] != group_of[here]]
            for other in others[_correlate(looks.mosaics, here, others)].tolist():
                one, two = group_of[here], group_of[other]
                if one != two:
                    if len(members[one]) < len(members[two]):
                        one, two = two, one
                    group_of[members[two]] = one
                    members[one] += members.pop(two)
    return sorted(sorted(group) for group in members.values() if len(group) > 1)


def cut_chains(looks: Looks, groups: list[list[int]], largest: int) -> list[list[int]]:
    """The groups; one of more than `largest` pictures in parts, that fewer and fewer bits may differ within.

    By way of others, pictures that are quite unlike can come into one group: all that a fixed camera takes in a year.
    """
    most_bits = MOST_BITS
    while most_bits and any(len(group) > largest for group in groups):
        most_bits //= 2
        parts: list[list[int]] = []
        for group in groups:
            if len(group) > largest:
                alike = group_alike(Looks(looks.bits[group], looks.mosaics[group]), most_bits)
                parts += [[group[position] for position in part] for part in alike]
            else:
                parts.append(group)
        groups = parts
    return sorted(groups)


def _correlate(mosaics: NDArray[np.uint8], here: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each of the others, whether its mosaic is that of `here` but for brightness and contrast."""
    one, many = mosaics[here].astype(np.float32), mosaics[others].astype(np.float32)
    even = ((many - one) ** 2).mean(axis=1) <= NOISE**2  # pictures of one colour have nothing that could correlate
    one -= one.mean()
    many -= many.mean(axis=1, keepdims=True)
    scale = np.sqrt((one @ one) * (many**2).sum(axis=1))
    return np.asarray(even | (many @ one >= LEAST_CORRELATION * np.maximum(scale, 1e-6)), dtype=np.bool_)

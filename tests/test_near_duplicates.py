"""Pictures that look alike: copies are found, distinct pictures are not merged."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gfl.data.split.near_duplicates import BITS, Looks, cut_chains, group_alike, look_at, read_looks

Image = NDArray[np.uint8]


def scene(seed: int, height: int = 120, width: int = 160) -> Image:
    """A picture of soft blotches that no other seed has."""
    coarse = np.random.default_rng(seed).integers(40, 200, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def looks_of(*pictures: Image) -> Looks:
    found = [look_at(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), dtype=np.uint8)) for picture in pictures]
    return Looks(np.array([bits for bits, _ in found]), np.array([mosaic for _, mosaic in found]))


CHANGES = {
    "brighter": lambda picture: cv2.convertScaleAbs(picture, alpha=1.2, beta=5),
    "darker": lambda picture: cv2.convertScaleAbs(picture, alpha=0.7),
    "half": lambda picture: cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "cropped": lambda picture: picture[2:-2, 3:-3],
    "encoded": lambda picture: cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1),
    "grey": lambda picture: cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found(change: str) -> None:
    pictures = [scene(seed) for seed in range(20)]
    copies = [np.asarray(CHANGES[change](picture), dtype=np.uint8) for picture in pictures]
    assert group_alike(looks_of(*pictures, *copies)) == [[at, at + 20] for at in range(20)]


def test_distinct_pictures_are_not_merged() -> None:
    assert group_alike(looks_of(*(scene(seed) for seed in range(300)))) == []


def test_pages_that_are_mostly_empty_are_not_merged() -> None:
    pages = [np.full((120, 160, 3), 250, np.uint8) for _ in range(6)]
    for at, page in enumerate(pages):
        page[10 + 16 * at : 22 + 16 * at, 20:60] = 20
    assert group_alike(looks_of(*pages)) == []


def test_pictures_of_one_colour_are_alike_only_in_that_colour() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (2, 120, 160, 3), dtype=np.uint8)
    assert group_alike(looks_of(noise[0], noise[1], noise[0] + np.uint8(90))) == [[0, 1]]


def test_alike_by_way_of_another_is_one_group() -> None:
    looks = Looks(np.zeros((3, BITS), bool), np.tile(np.arange(256, dtype=np.uint8), (3, 1)))
    looks.bits[1, :15] = looks.bits[2, :30] = True
    assert group_alike(looks) == [[0, 1, 2]]
    assert group_alike(looks, most_bits=14) == []


def test_a_chain_is_cut_where_its_pictures_differ_more() -> None:
    looks = Looks(np.zeros((6, BITS), bool), np.tile(np.arange(256, dtype=np.uint8), (6, 1)))
    for at in range(6):
        looks.bits[at, : 18 * (at // 2)] = True  # three pairs, 18 bits from each to the next
    whole = group_alike(looks)
    assert whole == [[0, 1, 2, 3, 4, 5]]
    assert cut_chains(looks, whole, largest=6) == whole
    assert cut_chains(looks, whole, largest=5) == [[0, 1], [2, 3], [4, 5]]


def test_groups_across_blocks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [scene(seed % 5) for seed in range(13)]
    expected = [[at, *range(at + 5, 13, 5)] for at in range(5)]
    assert group_alike(looks_of(*pictures)) == expected
    monkeypatch.setattr("gfl.data.split.near_duplicates.BLOCK", 3)
    assert group_alike(looks_of(*pictures)) == expected


def test_no_picture_has_no_group() -> None:
    assert group_alike(Looks(np.zeros((0, BITS), bool), np.zeros((0, 256), np.uint8))) == []


def test_files_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    large, tiny = tmp_path / "large.jpg", tmp_path / "tiny.png"
    cv2.imwrite(str(large), scene(0, 480, 640))
    cv2.imwrite(str(tiny), scene(0, 24, 32))
    cut, text = tmp_path / "cut.jpg", tmp_path / "text.jpg"
    cut.write_bytes(large.read_bytes()[:-400])
    text.write_text("no picture")
    looks, readable = read_looks([cut, large, text, tmp_path / "missing.jpg", tiny, Path("a\0b.jpg")])
    assert readable == [1, 4]
    assert group_alike(looks) == [[0, 1]]
    assert read_looks([])[0].bits.shape == (0, BITS)


@pytest.mark.parametrize(("name", "pairs"), [("bccd", 1), ("coco_tiny", 0)])
def test_photographs_are_not_merged_and_their_copies_are_found(test_data: Path, name: str, pairs: int) -> None:
    looks, readable = read_looks(paths := sorted((test_data / name).rglob("*.jpg")))
    assert len(readable) == len(paths)
    assert [len(group) for group in group_alike(looks)] == [2] * pairs  # bccd has one field of view in two focuses
    cropped = [cv2.imread(str(path))[8:-8, 8:-8] for path in paths[:40]]
    copies = looks_of(*(np.asarray(cv2.convertScaleAbs(each, alpha=1.1), dtype=np.uint8) for each in cropped))
    both = Looks(*(np.concatenate([first[:40], second]) for first, second in zip(looks, copies, strict=True)))
    assert all({at, at + 40} <= set(group) for at, group in enumerate(group_alike(both)[:40]))

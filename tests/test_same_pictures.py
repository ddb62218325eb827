"""Files of the same content in two lists, without reading all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfl.data import same_pictures as module
from gfl.data.same_pictures import same_pictures


def write(folder: Path, **contents: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_same_bytes_are_paired_under_any_name(tmp_path: Path) -> None:
    a, b, c = write(tmp_path / "first", a=b"one", b=b"two", c=b"three")
    x, y, z = write(tmp_path / "second", x=b"three", y=b"six", z=b"one")
    assert same_pictures([a, b, c], [x, y, z]) == [(a, z), (c, x)]


def test_each_pair_is_named_once_in_the_order_of_the_lists(tmp_path: Path) -> None:
    a, b = write(tmp_path / "first", a=b"one", b=b"one")
    x, y = write(tmp_path / "second", x=b"one", y=b"one")
    assert same_pictures([b, a, b], [y, x]) == [(b, y), (b, x), (a, y), (a, x)]


def test_a_path_in_both_lists_is_a_pair(tmp_path: Path) -> None:
    (a,) = write(tmp_path, a=b"one")
    assert same_pictures([a], [a]) == [(a, a)]


def test_missing_and_empty_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    a, empty = write(tmp_path, a=b"one", empty=b"")
    none = [tmp_path / "missing", tmp_path, Path("a\0b")]
    assert same_pictures([a, empty, *none], [empty, *none]) == []
    assert same_pictures([], [a]) == same_pictures([a], []) == []


def test_only_files_of_a_shared_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = module._digest

    def watched(path: Path) -> bytes | None:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(module, "_digest", watched)
    first = write(tmp_path, a=b"1", b=b"12", c=b"123", d=b"12")
    second = write(tmp_path, x=b"1234", y=b"34")
    assert same_pictures(first, second) == []
    assert sorted(read) == ["b", "d", "y"]


def test_files_longer_than_a_chunk_are_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    a, b = write(tmp_path, a=b"123456789", b=b"123456780")
    (x,) = write(tmp_path, x=b"123456789")
    assert same_pictures([a, b], [x]) == [(a, x)]

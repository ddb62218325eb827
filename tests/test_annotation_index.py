"""Large annotation files by way of their index: the same data, the same sentences, parsed once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gfl.data import annotation_index, host_cache, json_stream
from gfl.data.annotation_index import read_coco_columns
from gfl.data.coco import CocoData, read_coco
from gfl.data.coco_json import read_coco_file
from gfl.data.synthetic import write_synthetic
from gfl.errors import InputError

Content = dict[str, list[dict[str, object]]]


@pytest.fixture(autouse=True)
def small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large, and is read a few bytes and rows at a time."""
    monkeypatch.setenv("GFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(annotation_index, "INDEX_FROM", 0)
    monkeypatch.setattr(annotation_index, "CHUNK", 3)
    monkeypatch.setattr(json_stream, "READ_BYTES", 50)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_synthetic(tmp_path / "data", train=7, val=1, size_hw=(64, 96))
    return tmp_path / "data"


def file_of(data: Path) -> Path:
    return data / "annotations" / "instances_train2017.json"


def change(data: Path, edit: Callable[[Content], None]) -> None:
    content = json.loads(file_of(data).read_text())
    edit(content)
    file_of(data).write_text(json.dumps(content, indent=1))


def read(data: Path) -> CocoData:
    return read_coco(file_of(data), data / "train2017", keep_empty=True)


def plain(data: Path, monkeypatch: pytest.MonkeyPatch) -> CocoData:
    with monkeypatch.context() as patches:
        patches.setattr("gfl.data.coco.read_coco_columns", read_coco_file)
        return read(data)


def refuse(*_: object) -> None:
    raise AssertionError("the file was parsed again")


def assert_same(found: CocoData, expected: CocoData) -> None:
    assert (found.names, found.category_ids, found.notes) == (expected.names, expected.category_ids, expected.notes)
    assert len(found.pictures) == len(expected.pictures)
    for ours, theirs in zip(found.pictures, expected.pictures, strict=True):
        assert (ours.id, ours.file_name, ours.path, ours.height) == (
            theirs.id,
            theirs.file_name,
            theirs.path,
            theirs.height,
        )
        for name in ("boxes_xyxy", "labels", "ignored_xyxy"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for name in ("image_ids", "image_id", "category_id", "boxes_xywh", "areas", "crowd"):
        np.testing.assert_array_equal(getattr(found.truth, name), getattr(expected.truth, name))


def odd(content: Content) -> None:
    """What tools write: numbers as text, no ids, crowds, sizes of 0, pictures in another order, names beyond ASCII."""
    content["images"].reverse()
    content["images"][0]["height"] = 0
    for number, row in enumerate(content["annotations"]):
        row |= {"image_id": str(row["image_id"]), "iscrowd": number % 3 == 1, "ignore": None}
        if number % 2:
            del row["id"]
    content["categories"].append({"id": 90, "name": "größe", "supercategory": None})


@pytest.mark.parametrize("edit", [lambda content: None, odd])
def test_an_index_says_what_the_file_says(
    edit: Callable[[Content], None], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(data, edit)
    expected = plain(data, monkeypatch)
    assert_same(read(data), expected)
    monkeypatch.setattr(annotation_index, "rows_of_lists", refuse)
    assert_same(read(data), expected)  # from the cache


def test_a_changed_file_is_read_anew(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(data)
    change(data, lambda content: content["annotations"].pop())
    assert_same(read(data), plain(data, monkeypatch))


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["annotations"][5].update(bbox=[1, 2, 3]),
        lambda content: content["annotations"][5].pop("id") and content["annotations"][5].update(bbox="x"),
        lambda content: content["annotations"][4].update(image_id=999),
        lambda content: content["annotations"][4].update(id=content["annotations"][0]["id"]),
        lambda content: content["annotations"][4].update(bbox=[900.5, 900.5, 10.5, 10.5]),
        lambda content: content["annotations"].insert(4, 17),
        lambda content: content["images"][4].update(file_name=""),
        lambda content: content["images"][4].update(id=content["images"][0]["id"]),
        lambda content: content.pop("categories"),
        lambda content: content.update(categories=[]),
        lambda content: content.update(images={}),
    ],
)
def test_what_is_wrong_is_said_in_the_same_words(
    edit: Callable[[Content], None], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(data, edit)
    with pytest.raises(InputError) as expected:
        plain(data, monkeypatch)
    with pytest.raises(InputError) as found:
        read(data)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("cut", [1, 100, 2000])
def test_a_file_cut_short_is_named(cut: int, data: Path) -> None:
    file_of(data).write_bytes(file_of(data).read_bytes()[:-cut])
    with pytest.raises(InputError, match="not JSON at line"):
        read(data)


def test_without_a_cache_the_file_is_read_all_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(data)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("GFL_CACHE", str(tmp_path / "a file"))
    assert_same(read(data), expected)


def test_of_several_readers_one_parses(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    rows_of_lists = json_stream.rows_of_lists

    def counted(*arguments: object) -> object:
        parsed.append(1)
        return rows_of_lists(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(annotation_index, "rows_of_lists", counted)
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(read_coco_columns, [file_of(data)] * 4))
    assert len(parsed) == 1
    assert len({len(file.annotations.integers("image_id")) for file in files}) == 1


def test_an_index_that_was_not_finished_is_none(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(data)
    (tmp,) = (host_cache.cache_folder() / "annotations").glob("*-2")
    (tmp / "annotations.bbox").unlink()
    assert_same(read(data), expected)


def test_lists_come_in_pieces_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, [2, "]"], {"b": 3}], "x": {"a": [7]}, "b" : [ ] , "n": 12345678901234567890}')
    assert list(json_stream.rows_of_lists(path, ("a", "b"), 2)) == [
        ("a", []),
        ("a", [1, [2, "]"]]),
        ("a", [{"b": 3}]),
        ("b", []),
    ]
    for text in ("", "[1]", '{"a": 1}', '{"a": [1, ]}', '{"a": [1]} x', '{"a" [1]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"\w"):
            list(json_stream.rows_of_lists(path, ("a",), 2))


@pytest.mark.parametrize("size", [20, 33, 80, 1000])
def test_entries_that_look_like_the_end_of_others_are_read_whole(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"a": [{"b": 1}, {"c": 2}]}, {"text": '}, {"d": 1}, {'}, {"e": {}}, {"f": 1}, {"g": [2]}, {"h": 3}, 7]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"x": rows, "y": rows[::-1]}))
    monkeypatch.setattr(json_stream, "READ_BYTES", size)
    found: dict[str, list[object]] = {"x": [], "y": []}
    for key, some in json_stream.rows_of_lists(path, ("x", "y"), 3):
        assert len(some) <= 3
        found[key] += some
    assert found == {"x": rows, "y": rows[::-1]}

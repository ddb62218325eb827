"""`python -m gfl.data split`: every picture once, near-duplicates on one side, nothing lost, nothing half written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import pytest

from gfl.data.coco import read_coco
from gfl.data.paths import split_paths
from gfl.data.split import add_flags, run
from gfl.errors import InputError
from gfl.settings import DataConfig

Row: TypeAlias = dict[str, object]
Content: TypeAlias = dict[str, list[Row]]


def split(*flags: object) -> int:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return run(parser.parse_args([str(flag) for flag in flags]))


def write_picture(path: Path, seed: int, *, quality: int = 95) -> None:
    """Soft blotches that no other seed has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(40, 200, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(
        str(path), cv2.resize(coarse, (96, 72), interpolation=cv2.INTER_CUBIC), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )


def images(count: int, name: Callable[[int], str] = "{:03}.jpg".format) -> list[Row]:
    return [{"id": 10 + at, "file_name": name(at), "width": 96, "height": 72, "camera": "a"} for at in range(count)]


def content(rows: Sequence[Row], classes: Callable[[int], list[int]] = lambda at: [1 + at % 2]) -> Content:
    """The pictures, each with a box of the classes that it has."""
    pairs = [(row, kind) for at, row in enumerate(rows) for kind in classes(at)]
    boxes: list[Row] = [
        {"id": at, "image_id": row["id"], "category_id": kind, "bbox": [1, 2, 30, 40], "iscrowd": 0, "note": "é"}
        for at, (row, kind) in enumerate(pairs)
    ]
    return {
        "images": list(rows),
        "annotations": boxes,
        "categories": [{"id": kind, "name": f"class {kind}"} for kind in (1, 2, 3)],
        "licenses": [{"id": 1, "name": "none"}],
    }


def write(folder: Path, data: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all.json").write_text(json.dumps(data), encoding="utf-8")
    return folder / "all.json"


def with_pictures(folder: Path, count: int = 20) -> Path:
    """A file of distinct pictures beside it."""
    for at in range(count):
        write_picture(folder / f"{at:03}.jpg", at)
    return write(folder, content(images(count)))


def read(folder: Path) -> tuple[Content, Content]:
    train, val = (json.loads((folder / "annotations" / f"instances_{side}.json").read_text()) for side in SIDES)
    return train, val


SIDES = ("train", "val")


def names(side: Content) -> list[str]:
    return [str(row["file_name"]) for row in side["images"]]


# ---- what is written ----


def test_every_row_is_on_one_side_as_it_was_written(tmp_path: Path) -> None:
    file = with_pictures(tmp_path)
    assert split(file) == 0
    before, after = json.loads(file.read_text()), read(tmp_path / "all_split")
    for key in ("images", "annotations"):
        both = [row for side in after for row in side[key]]
        assert sorted(both, key=lambda row: row["id"]) == before[key]
    assert [len(side["images"]) for side in after] == [16, 4]
    for side in after:
        assert (side["categories"], side["licenses"]) == (before["categories"], before["licenses"])
        assert {row["image_id"] for row in side["annotations"]} <= {row["id"] for row in side["images"]}


def test_folder_is_one_that_training_reads(tmp_path: Path) -> None:
    split(with_pictures(tmp_path / "data"), "--output", tmp_path / "new")
    for side, count in zip(SIDES, (16, 4), strict=True):
        data = read_coco(*split_paths(DataConfig(root=str(tmp_path / "new")), side), keep_empty=True)
        assert len(data.pictures) == count
        assert all(picture.path.is_file() for picture in data.pictures)
        assert data.notes == ()


def test_links_hold_for_paths_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pictures(tmp_path / "data", 4)
    monkeypatch.chdir(tmp_path)
    split("data/all.json", "--output", "made/new")
    assert len([path for path in Path("made/new").glob("*/*.jpg") if path.is_file()]) == 4


def test_copies_are_files_of_their_own(tmp_path: Path) -> None:
    split(with_pictures(tmp_path / "data", 4), "--output", tmp_path / "new", "--copy")
    copies = sorted((tmp_path / "new").glob("*/*.jpg"), key=lambda path: path.name)
    assert [path.name for path in copies] == [f"{at:03}.jpg" for at in range(4)]
    for path in copies:
        assert not path.is_symlink()
        assert not path.samefile(tmp_path / "data" / path.name)
        assert path.read_bytes() == (tmp_path / "data" / path.name).read_bytes()


def test_file_names_keep_their_folders(tmp_path: Path) -> None:
    for at in range(6):
        write_picture(tmp_path / f"camera{at % 2}" / f"{at // 2}.jpg", at)
    data = content(images(6, lambda at: f"camera{at % 2}{'/' if at < 3 else chr(92)}{at // 2}.jpg"))
    split(write(tmp_path, data), "--val", 0.5)
    for side, rows in zip(SIDES, read(tmp_path / "all_split"), strict=True):
        for name in names(rows):
            assert (tmp_path / "all_split" / side / name.replace("\\", "/")).is_file()


def test_names_that_lead_out_become_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = tmp_path / "elsewhere"
    for at in range(4):
        write_picture(outside / f"{at}.jpg", at)
    write_picture(tmp_path / "data" / "1.jpg", 9)
    rows = images(5, lambda at: ["../elsewhere/0.jpg", str(outside / "1.jpg"), "1.jpg", "../elsewhere/2.jpg", ".."][at])
    split(write(tmp_path / "data", content(rows)), "--output", tmp_path / "new", "--val", 0.4)
    found = sorted(name for side in read(tmp_path / "new") for name in names(side))
    assert found == ["0.jpg", "1.jpg", "1_2.jpg", "2.jpg", "picture_14"]
    assert sorted(path.name for path in (tmp_path / "new").glob("*/*.jpg")) == found[:-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "elsewhere", "new"]
    assert "4 pictures got another file name" in capsys.readouterr().out


def test_rows_of_one_file_are_on_one_side(tmp_path: Path) -> None:
    for at in range(10):
        write_picture(tmp_path / f"{at}.jpg", at)
    split(write(tmp_path, content(images(20, lambda at: f"{at % 10}.jpg"))), "--val", 0.5)
    train, val = read(tmp_path / "all_split")
    assert {*names(train)}.isdisjoint(names(val))
    assert len(val["images"]) == 10


# ---- which side ----


def test_near_duplicates_are_never_on_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(30):
        write_picture(tmp_path / f"{at:03}.jpg", at // 3, quality=95 - 20 * (at % 3))
    split(write(tmp_path, content(images(30))), "--val", 0.3)
    train, val = read(tmp_path / "all_split")
    assert {int(name[:3]) // 3 for name in names(train)}.isdisjoint(int(name[:3]) // 3 for name in names(val))
    assert len(val["images"]) == 9
    said = capsys.readouterr().out
    assert "10 groups of 30 pictures" in said
    assert "(e.g. 000.jpg and 001.jpg)" in said


def test_near_duplicates_are_taken_apart_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for at in range(10):
        write_picture(tmp_path / f"{at:03}.jpg", 0)
    split(write(tmp_path, content(images(10))), "--ignore_near_duplicates")
    assert [len(side["images"]) for side in read(tmp_path / "all_split")] == [8, 2]
    assert "near-duplicates may be on both sides" in capsys.readouterr().out


def test_a_group_larger_than_val_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(10):
        write_picture(tmp_path / f"{at:03}.jpg", max(at - 4, 0))
    split(write(tmp_path, content(images(10))))
    train, _ = read(tmp_path / "all_split")
    assert {f"{at:03}.jpg" for at in range(5)} <= {*names(train)}
    assert "the largest group has more than the 2 pictures asked for in val" in capsys.readouterr().out


def test_a_chain_of_all_pictures_is_cut_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = np.random.default_rng(0).integers(40, 200, (6, 40, 3), dtype=np.uint8)
    wide = cv2.resize(coarse, (480, 72), interpolation=cv2.INTER_CUBIC)
    for at in range(40):  # a camera that pans: each frame is like the next
        cv2.imwrite(str(tmp_path / f"{at:03}.jpg"), wide[:, 2 * at : 2 * at + 96])
    split(write(tmp_path, content(images(40))))
    assert "a group of 40 pictures that look alike, or are alike by way of others" in capsys.readouterr().out
    train, val = read(tmp_path / "all_split")
    assert len(train["images"]) > len(val["images"]) > 0


def test_pictures_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    for at in range(5):
        write_picture(tmp_path / f"{at:03}.jpg", 0, quality=95 - at)
    with pytest.raises(InputError, match=r"all 5 pictures look alike .*--ignore_near_duplicates"):
        split(write(tmp_path, content(images(5))))
    assert not (tmp_path / "all_split").exists()


def test_order_of_the_rows_does_not_matter_but_the_seed_does(tmp_path: Path) -> None:
    data = content(images(40), lambda at: [1 + at % 3] * (at % 4 > 0))
    mixed = {key: [rows[at] for at in np.random.default_rng(0).permutation(len(rows))] for key, rows in data.items()}
    chosen = []
    for number, (rows, seed) in enumerate([(data, 0), (mixed, 0), (data, 1)]):
        split(write(tmp_path / str(number), rows), "--without_pictures", "--seed", seed)
        chosen.append({*names(read(tmp_path / str(number) / "all_split")[1])})
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]


def test_classes_on_one_side_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split(write(tmp_path, content(images(20), lambda at: [1, 2] if at == 0 else [1])), "--without_pictures")
    said = capsys.readouterr().out
    assert "1 class in train only (1 of them with a single picture): class 2" in said
    assert "class 1        20    20.0%        20    20.0%" in said
    assert "class 3         0        -         0        -" in said


def test_pictures_without_boxes_are_shared_out(tmp_path: Path) -> None:
    split(write(tmp_path, content(images(20), lambda at: [1] * (at % 2))), "--without_pictures")
    for side, count in zip(read(tmp_path / "all_split"), (8, 2), strict=True):
        assert len({row["image_id"] for row in side["annotations"]}) == count


def test_a_file_without_boxes_is_split(tmp_path: Path) -> None:
    split(write(tmp_path, content(images(10), lambda at: [])), "--without_pictures")
    assert [len(side["images"]) for side in read(tmp_path / "all_split")] == [8, 2]


@pytest.mark.parametrize(("val", "count"), [(0.0001, 1), (0.26, 3), (0.9999, 9)])
def test_both_sides_have_a_picture(tmp_path: Path, val: float, count: int) -> None:
    split(write(tmp_path, content(images(10))), "--without_pictures", "--val", val)
    assert len(read(tmp_path / "all_split")[1]["images"]) == count


# ---- pictures ----


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("all.json", "."),
        ("all.json", "images"),
        ("all.json", "all"),
        ("annotations/instances_all.json", "all"),
        ("annotations/instances_all.json", "images/all"),
        ("annotations/instances_all.json", "images"),
    ],
)
def test_pictures_are_found_around_the_file(tmp_path: Path, file: str, folder: str) -> None:
    for at in range(4):
        write_picture(tmp_path / folder / f"{at:03}.jpg", at)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    write(tmp_path, content(images(4))).rename(tmp_path / file)
    split(tmp_path / file, "--output", tmp_path / "new")
    assert len([*(tmp_path / "new").glob("*/*.jpg")]) == 4


def test_pictures_that_cannot_be_read_are_split_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = with_pictures(tmp_path)
    (tmp_path / "003.jpg").unlink()
    (tmp_path / "007.jpg").write_text("no picture")
    split(file)
    said = capsys.readouterr().out
    assert "1 picture not found and not linked, in the split all the same: 003.jpg" in said
    assert "1 picture not readable, in the split all the same: 007.jpg" in said
    assert sum(len(side["images"]) for side in read(tmp_path / "all_split")) == 20
    assert len([*(tmp_path / "all_split").glob("*/*.jpg")]) == 19


def test_at_most_ten_pictures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(tmp_path / "000.jpg", 0)
    split(write(tmp_path, content(images(15))))
    assert "010.jpg, 4 more\n" in capsys.readouterr().out


def test_without_pictures_only_annotations_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, content(images(10)))
    with pytest.raises(InputError, match="--without_pictures"):
        split(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.json"]
    split(file, "--without_pictures")
    assert [path.name for path in (tmp_path / "all_split").iterdir()] == ["annotations"]
    assert "TRAIN_JSON" in capsys.readouterr().out


def test_annotations_of_no_picture_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = content(images(10))
    data["annotations"] += [{**data["annotations"][0], "id": 99, "image_id": 5}]
    data["annotations"] += [{**data["annotations"][0], "id": 98, "category_id": 8}]
    split(write(tmp_path, data), "--without_pictures")
    said = capsys.readouterr().out
    assert "1 annotation of no picture in the file left out (e.g. annotation 99)" in said
    assert "1 annotation of no class in the file kept as written (e.g. annotation 98)" in said
    assert sum(len(side["annotations"]) for side in read(tmp_path / "all_split")) == 11


# ---- what is refused ----


@pytest.mark.parametrize("val", ["0", "1", "-0.2", "20", "nan"])
def test_val_is_a_share(tmp_path: Path, val: str) -> None:
    with pytest.raises(InputError, match="expected a share between 0 and 1"):
        split(write(tmp_path, content(images(4))), f"--val={val}")


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(InputError, match=rf"got {count} picture.* expected at least 2"):
        split(write(tmp_path, content(images(count))), "--without_pictures")


def test_one_file_for_all_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all 4 pictures are one file"):
        split(write(tmp_path, content(images(4, lambda at: "a.jpg"))), "--without_pictures")


def test_ids_used_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image id 10 is used 2 times"):
        split(write(tmp_path, content([*images(2), *images(1)])), "--without_pictures")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    file = write(tmp_path, content(images(4)))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").write_text("")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        split(file, "--without_pictures", "--output", tmp_path / "new")
    (tmp_path / "new" / "mine.txt").unlink()
    assert split(file, "--without_pictures", "--output", tmp_path / "new") == 0


def test_a_split_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = with_pictures(tmp_path, 4)
    before = sorted(tmp_path.iterdir())

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gfl.data.split.folder.link_picture", refuse)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        split(file)
    assert sorted(tmp_path.iterdir()) == before

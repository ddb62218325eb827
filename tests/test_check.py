"""`gfl.data check`: what is found in a data set, in what words, with which exit status, and on the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pictures import Content, box, content, image

from gfl.data.__main__ import main
from gfl.data.boxes import scale_boxes
from gfl.data.canvas import own_canvas
from gfl.data.check.anchors import check_anchors, positives
from gfl.data.check.outlook import look_ahead
from gfl.data.coco import read_coco
from gfl.data.pictures import Picture
from gfl.data.plan import draw_changes
from gfl.model.anchors import make_grid, padded_sizes
from gfl.model.assign import ATSSConfig, assign
from gfl.model.structures import Batch
from gfl.settings import DataConfig

Change = Callable[[Content], None]


def write(root: Path, split: str, data: Content, *, pictures: bool = True) -> None:
    """A split in COCO's layout, with a picture of noise for each entry, the same for the same name."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data), encoding="utf-8")
    for row in data["images"] if pictures else []:
        seed = sum(map(ord, split + str(row["file_name"])))
        noise = np.random.default_rng(seed).integers(0, 256, (100, 200, 3), np.uint8)
        cv2.imwrite(str(root / split / str(row["file_name"])), noise)


def clean() -> Content:
    """Two pictures of 100x200 px with a box each."""
    data = content(box(1, [20, 20, 60, 50]), box(2, [50, 30, 70, 60], image=2))
    data["images"] = [image(1), image(2)]
    return data


def check(root: Path, *flags: str) -> int:
    return main(["check", "--data_root", str(root), *flags])


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Change], tuple[int, str]]:
    """Check the clean data set after a change of its training annotations -> the exit status and what was printed."""

    def look(change: Change) -> tuple[int, str]:
        data = clean()
        change(data)
        write(tmp_path, "train", data)
        write(tmp_path, "val", clean())
        status = check(tmp_path)
        return status, capsys.readouterr().out

    return look


def with_box(*boxes: dict[str, object]) -> Change:
    return lambda data: data["annotations"].extend(boxes)


def with_image(**fields: object) -> Change:
    return lambda data: data["images"][0].update(fields)


def with_classes(*names: str) -> Change:
    return lambda data: data["categories"].extend({"id": 5 + i, "name": name} for i, name in enumerate(names))


def all_boxes(*boxes: list[float]) -> Change:
    return lambda data: data.update(annotations=[box(i, xywh) for i, xywh in enumerate(boxes)])


def empty_third(data: Content) -> None:
    data["images"].append(image(3))


def text_ids(data: Content) -> None:
    for row in data["images"]:
        row["id"] = str(row["id"])


CASES: dict[str, tuple[Change, int, str]] = {
    "clean": (lambda data: None, 0, "nothing is wrong"),
    "outside": (with_box(box(3, [300, 10, 30, 30])), 2, "finding: boxes wholly outside their pictures (1)"),
    "clipped": (with_box(box(3, [150, 10, 60, 30])), 1, "over the border by more than a pixel (1)"),
    "rounding": (with_box(box(3, [150, 10, 50.6, 30])), 0, "nothing is wrong"),
    "no area": (with_box(box(3, [10, 10, 0, 30])), 1, "less than a pixel wide or high (1)"),
    "doubled": (with_box(box(3, [20, 20, 60, 50])), 1, "repeat one of their picture and class (1)"),
    "corners": (all_boxes([60, 40, 190, 90], [70, 50, 180, 99], [80, 60, 190, 80]), 2, "look like x1, y1, x2, y2"),
    "shares": (all_boxes([0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.1, 0.1]), 2, "shares of the picture from 0 to 1"),
    "a share": (with_box(box(3, [0.1, 0.2, 0.3, 0.4])), 1, "boxes within 0..1"),
    "swapped": (all_boxes([10, 120, 90, 50], [20, 130, 70, 60]), 2, "look like y, x, height, width"),
    "class without box": (with_classes("dog"), 1, "classes without a box (1)"),
    "crowd": (with_box(box(3, [5, 5, 50, 50], iscrowd=1)), 0, "note: crowd boxes, iscrowd 1 (1)"),
    "class of crowds": (with_classes("dog"), 1, "dog"),
    "empty": (empty_third, 0, "note: pictures without a box (1)"),
    "gaps": (with_classes(), 0, "nothing"),
    "text ids": (text_ids, 0, "note: images with a text as id (2)"),
    "no annotation id": (lambda data: data["annotations"][0].pop("id"), 0, "annotations without an id (1): given"),
    "no image id": (lambda data: data["images"][0].pop("id"), 2, "images without an id (1): number them"),
    "doubled id": (with_image(id=2), 2, "ids of several images (1)"),
    "doubled name": (with_image(file_name="2.jpg"), 1, "stand for several pictures (1)"),
    "unknown class": (with_box(box(3, [5, 5, 50, 50], category=9)), 2, "category_id that the file does not list (1)"),
    "no width": (with_image(width=None), 0, "note: pictures without a height or width (1)"),
    "many": (with_box(*(box(3 + i, [i, i % 60, 40, 30]) for i in range(101))), 1, "1.jpg: 102 boxes"),
}


@pytest.mark.parametrize(("change", "status", "words"), CASES.values(), ids=CASES)
def test_what_is_odd_is_found_and_what_is_not_is_not(
    told: Callable[[Change], tuple[int, str]], change: Change, status: int, words: str
) -> None:
    got, said = told(change)
    assert words in said
    assert got == status


def test_missing_and_damaged_pictures_are_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = content(*(box(i, [20, 20, 60, 50], image=i) for i in range(1, 16)))
    data["images"] = [image(i) for i in range(1, 16)]
    write(tmp_path, "train", data)
    write(tmp_path, "val", clean())
    for i in range(1, 13):
        (tmp_path / "train" / f"{i}.jpg").unlink()
    (tmp_path / "train" / "13.jpg").write_bytes(b"\xff\xd8\xff half")
    cv2.imwrite(str(tmp_path / "train" / "14.jpg"), np.zeros((60, 200, 3), np.uint8))
    assert check(tmp_path, "--read_pictures") == 1
    said = capsys.readouterr().out
    assert "pictures that are missing (12): passed over" in said
    assert "and 2 more" in said
    assert "pictures that cannot be used (2): passed over" in said
    assert "14.jpg is 200x60, the annotations say 200x100" in said


def test_a_picture_whose_header_is_damaged_is_found_without_decoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "train", clean())
    write(tmp_path, "val", clean())
    (tmp_path / "train" / "1.jpg").write_bytes(b"")
    assert check(tmp_path) == 1
    assert "pictures that cannot be used (1): passed over" in capsys.readouterr().out


def test_a_picture_on_both_sides_is_found_by_its_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "train", clean())
    write(tmp_path, "val", clean())
    (tmp_path / "val" / "2.jpg").write_bytes((tmp_path / "train" / "1.jpg").read_bytes())
    assert check(tmp_path) == 1
    assert "1.jpg = 2.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("binding", "words"), [("MAX_BOXES = 1", "raise MAX_BOXES"), ("CANVASES = ((64, 64),)", "fit no canvas")]
)
def test_settings_that_do_not_suit_the_data_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], binding: str, words: str
) -> None:
    data = clean()
    with_box(box(3, [90, 20, 60, 50]))(data)
    write(tmp_path, "train", data)
    write(tmp_path, "val", clean())
    assert check(tmp_path, "--gin_bindings", binding) == 2
    assert words in capsys.readouterr().out


def test_canvases_of_another_orientation_are_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "train", clean())
    write(tmp_path, "val", clean())
    assert check(tmp_path) == 0
    assert "% of their pixels are picture (0% of the pictures stand upright)" in capsys.readouterr().out
    assert check(tmp_path, "--gin_bindings", "CANVASES = ((1344, 1344),)") == 1
    assert "finding: canvases 1344x1344: 49% of their pixels are picture" in capsys.readouterr().out


def test_findings_are_written_for_programs_and_for_people(tmp_path: Path) -> None:
    data = clean()
    with_box(box(3, [150, 10, 60, 30]))(data)
    data["categories"][0]["name"] = "<script>cat & dog"
    write(tmp_path, "train", data)
    found, page = tmp_path / "found.json", tmp_path / "page.html"
    file, images = tmp_path / "annotations/instances_train.json", tmp_path / "train"
    flags = ["check", "--annotations", str(file), "--images", str(images), "--json", str(found), "--html", str(page)]
    assert main(flags) == 1
    split = json.loads(found.read_text(encoding="utf-8"))["splits"]["train"]
    assert (split["pictures"], split["boxes"], split["findings"][0]["name"]) == (2, 3, "boxes_clipped")
    assert sum(group["boxes"] for group in split["anchors"]) == 3
    text = page.read_text(encoding="utf-8")
    HTMLParser().feed(text)
    assert "<script>cat" not in text
    assert "&lt;script&gt;cat &amp; dog" in text
    assert "<title>Data set instances_train.json</title>" in text
    assert "1 finding below is worth mending first: boxes clipped." in text
    assert '<td>width, px</td><td class="number">200</td>' in text
    assert text.count("data:image/jpeg") == 2
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", text) == []  # nothing is fetched


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data_root", "nowhere"], "no such folder"),
        (["--images", "x"], "without --annotations"),
        (["--annotations", "no.json"], "no such annotation file"),
    ],
)
def test_what_cannot_be_looked_at_ends_in_a_sentence(
    capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["check", *flags]) == 2
    captured = capsys.readouterr()
    assert words in captured.out + captured.err


@pytest.mark.parametrize(("short", "long"), [(64, 128), (300, 500), (800, 1333)])
def test_positives_are_those_that_training_assigns(test_data: Path, short: int, long: int) -> None:
    root = test_data / "coco_tiny"
    data = read_coco(root / "annotations/instances_val2017.json", root / "val2017", keep_empty=False)
    pictures, cfg = data.pictures[:12], DataConfig(short_side=short, long_side=long)
    sizes_hw = draw_changes(pictures, cfg, 0, 0).sizes_hw
    assert positives(pictures, sizes_hw).tolist() == [
        count
        for picture, (height, width) in zip(pictures, sizes_hw.tolist(), strict=True)
        for count in assigned(picture, (height, width))
    ]


def assigned(picture: Picture, size_hw: tuple[int, int]) -> list[int]:
    """The positives of each box, by the step's own assignment on a canvas larger than the picture."""
    boxes = torch.from_numpy(scale_boxes(picture.boxes_xyxy, (picture.height, picture.width), size_hw)).unsqueeze(0)
    count = boxes.shape[1]
    masks, none = torch.ones((1, count), dtype=torch.bool), torch.zeros((1, 1, 4))
    labels, sizes = torch.zeros((1, count), dtype=torch.int32), torch.tensor([size_hw], dtype=torch.int32)
    batch = Batch(
        torch.zeros(0), sizes, boxes, labels, masks, none, torch.zeros((1, 1), dtype=torch.bool), torch.ones(1)
    )
    canvas = own_canvas(size_hw[0] + 64, size_hw[1] + 96)
    positive = assign(make_grid(canvas), padded_sizes(sizes), batch, ATSSConfig()).positive
    return [int(number) for number in positive[0].sum(dim=1)]


def test_boxes_without_an_anchor_come_by_size_with_the_short_side_that_mends_them(test_data: Path) -> None:
    root = test_data / "bccd"
    data = read_coco(root / "annotations/instances_train.json", root / "train", keep_empty=False)
    found, groups = check_anchors(data.pictures, DataConfig(short_side=128, long_side=200), seed=0)
    assert sum(group.boxes for group in groups) == 2804
    assert sum(group.without for group in groups) == found[0].count > 10
    assert "SHORT_SIDE = 160" in found[0].text
    assert check_anchors(data.pictures, DataConfig(), seed=0)[0] == []


def test_a_run_is_told_of_pictures_that_it_would_judge_itself_by_and_of_far_off_sizes(tmp_path: Path) -> None:
    write(tmp_path, "train", clean())
    both = read_coco(tmp_path / "annotations/instances_train.json", tmp_path / "train", keep_empty=False)
    cfg = DataConfig(short_side=64, long_side=96, eval_short_side=160)
    told = {each.name: each.text for each in look_ahead(both, cfg, 0, both).findings}
    number = len(both.pictures)
    assert f"{number} of {number} validation pictures are among those of training too" in told["same_pictures"]
    assert "the AP says nothing of new pictures" in told["same_pictures"]
    others = [replace(each, path=Path(f"{i}.png")) for i, each in enumerate(list(both.pictures) * 3)]
    few = look_ahead(both, cfg, 0, replace(both, pictures=[*both.pictures, *others])).findings
    (text,) = [each.text for each in few if each.name == "same_pictures"]
    assert f"{number} of {4 * number} validation" in text
    assert "the AP flatters" in text
    assert "set EVAL_SHORT_SIDE = 64" in told["eval_size"]
    moved = replace(both, pictures=[replace(both.pictures[0], path=Path("gone.png")), *both.pictures[1:]])
    outlook = look_ahead(both, cfg, 0, moved)
    assert (outlook.readable, outlook.readable_val) == (len(both.pictures), len(both.pictures) - 1)
    near = DataConfig(short_side=64, long_side=96, eval_short_side=80)
    assert "eval_size" not in {each.name for each in look_ahead(both, near, 0, both).findings}

"""Contents of annotation files, and data sets that no annotation file describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from gfl.data.coco import CocoData
from gfl.data.coco_json import GroundTruth
from gfl.data.pictures import Picture
from gfl.errors import InputError

Content: TypeAlias = dict[str, list[dict[str, object]]]


def box(
    annotation_id: int, xywh: list[float], *, image: int = 1, category: int = 1, **more: object
) -> dict[str, object]:
    return {"id": annotation_id, "image_id": image, "category_id": category, "bbox": xywh, **more}


def image(image_id: int, *, height: int = 100, width: int = 200) -> dict[str, object]:
    return {"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width}


def content(*annotations: dict[str, object]) -> Content:
    """One picture of 100x200 px and one class with the given annotations."""
    return {"images": [image(1)], "annotations": list(annotations), "categories": [{"id": 1, "name": "cat"}]}


def data_set(pictures: Sequence[Picture], folder: Path = Path("images"), classes: int = 1) -> CocoData:
    """The pictures as a data set of classes called a, b, and so on; their boxes are not in its `truth`."""
    names, none = dict(enumerate("abc"[:classes], start=1)), np.zeros(0, np.int64)
    truth = GroundTruth(folder / "a.json", none, names, none, none, np.zeros((0, 4)), np.zeros(0), none.astype(bool))
    return CocoData(truth.path, tuple(pictures), tuple(names.values()), tuple(names), 0, 0, 0, truth)


def data_of_sizes(count: int, seed: int = 0, boxes: int = 1, crowds: int = 0) -> CocoData:
    """Pictures that exist only as sizes, with one box each; boxes, crowds: of the first."""
    sides = np.random.default_rng(seed).integers(40, 160, (count, 2)).tolist()
    box, label = np.array([[1, 2, 30, 31]], np.float32), np.zeros(1, np.int32)
    return data_set(
        [
            Picture(
                id=100 + 3 * i,
                file_name=f"{i}.jpg",
                path=Path(f"{i}.jpg"),
                height=height,
                width=width,
                boxes_xyxy=box.repeat(boxes if i == 0 else 1, axis=0),
                labels=label.repeat(boxes if i == 0 else 1),
                ignored_xyxy=box.repeat(crowds if i == 0 else 0, axis=0),
            )
            for i, (height, width) in enumerate(sides)
        ]
    )


def assert_told(attempt: Callable[[], object], words: Sequence[str]) -> None:
    """That an attempt fails with one sentence which has these words."""
    with pytest.raises(InputError) as error:
        attempt()
    assert "\n" not in str(error.value)
    assert [word for word in words if word not in str(error.value)] == []

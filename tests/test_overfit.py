"""Model, assignment, losses, schedule and NMS together: a small model learns 16 real pictures by heart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gfl import train
from gfl.data.coco import read_coco
from gfl.data.pictures import Picture

PICTURES = 16
LEAST_SIDE = 32.0  # px, root of the area: what is smaller is a cell or two at the size that a CPU trains in minutes
AP = 0.80
BINDINGS = (
    "SHORT_SIDE = 256",
    "LONG_SIDE = 384",
    "EVAL_SHORT_SIDE = None",
    "FLIP = 0.0",
    "FLIP_VERTICAL = 0.0",
    "BRIGHTNESS = 0.0",
    "CONTRAST = 0.0",
    "BATCH_SIZE = 2",
    "LR = 0.008",
    "WARMUP_STEPS = 50",
    "WEIGHT_DECAY = 0.0",
    "EMA = 0.98",
    "EPOCHS = 120",
    "EVAL_EVERY = 40",
    "WORKERS = 0",
    "DEVICE = 'cpu'",
)


@pytest.mark.slow
def test_small_model_overfits_sixteen_real_pictures(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "coco_tiny"
    annotations = sixteen(folder / "annotations" / "instances_train2017.json", folder / "train2017", tmp_path)
    bindings = [
        f"{split}_{name} = {str(path)!r}"
        for split in ("TRAIN", "VAL")
        for name, path in (("JSON", annotations), ("IMAGES", folder / "train2017"))
    ]
    arguments = ["--gin_file", "scratch_small.gin", "--workdir", str(tmp_path / "run")]
    assert train.main([*arguments, "--gin_bindings", *bindings, *BINDINGS]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["images"] == PICTURES
    assert metrics["AP"] >= AP


def sixteen(annotations: Path, images: Path, folder: Path) -> Path:
    """A file of the first pictures whose boxes are all large enough, with the classes that they have."""
    content = json.loads(annotations.read_text())
    data = read_coco(annotations, images, keep_empty=False)
    chosen = {picture.id for picture in [each for each in data.pictures if has_no_small_box(each)][:PICTURES]}
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in chosen]
    present = {each["category_id"] for each in content["annotations"]}
    content["categories"] = [category for category in content["categories"] if category["id"] in present]
    path = folder / "sixteen.json"
    path.write_text(json.dumps(content))
    return path


def has_no_small_box(picture: Picture) -> bool:
    sides = picture.boxes_xyxy[:, 2:] - picture.boxes_xyxy[:, :2]
    return bool((sides.prod(axis=1) >= LEAST_SIDE**2).all())

"""Counting an evaluation: COCO's twelve numbers from detections, by each backend: `python -m benchmarks.evaluate`.

Ours beside the way that pycocotools' own example goes, through two JSON files. Boxes are made up, of COCO's numbers: 80
classes, 7 boxes a picture, and 100 detections a picture, of which some are near a box.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.measure import Form, figures_of, interleave, paired_ratio, rates, timed
from benchmarks.program import add_rounds, flags_of, positive, rounds_of, run_program
from benchmarks.tables import Found, Table
from gfl.report.coco_eval import CocoResult, evaluate_detections

CLASSES, BOXES, DETECTIONS = 80, 7, 100
SIZE_HW = (480, 640)
EXAMPLE = "pycocotools' example"
BACKENDS = ("pycocotools", *(["faster"] if find_spec("faster_coco_eval") is not None else []))


def write_truth(path: Path, pictures: int) -> None:
    """A COCO instances file of made-up boxes."""
    rng = np.random.default_rng(0)
    boxes = random_boxes(rng, pictures * BOXES)
    annotations = [
        {
            "id": number + 1,
            "image_id": number // BOXES,
            "category_id": int(rng.integers(CLASSES)) + 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, box in enumerate(boxes)
    ]
    content = {
        "images": [{"id": image, "height": SIZE_HW[0], "width": SIZE_HW[1]} for image in range(pictures)],
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": f"class {number}"} for number in range(CLASSES)],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def random_boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    """Boxes [x, y, width, height], sides log-uniform from 8 px to half of the picture."""
    size = np.array(SIZE_HW[::-1], dtype=np.float64)
    side = 8.0 * (size / 16.0) ** rng.random((count, 2))
    boxes: list[list[float]] = np.concatenate([rng.random((count, 2)) * (size - side), side], axis=1).round(2).tolist()
    return boxes


def make_detections(truth: Path) -> list[CocoResult]:
    """Two near each true box, one of them of its class, and others anywhere with lower scores."""
    rng = np.random.default_rng(1)
    content = json.loads(truth.read_text(encoding="utf-8"))
    found: list[CocoResult] = []

    def add(image_id: int, category_id: int, bbox: Sequence[float], highest: float) -> None:
        score = round(rng.uniform(0.0, highest), 4)
        found.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score})

    def any_class() -> int:
        return int(rng.integers(CLASSES)) + 1

    for entry in content["annotations"]:
        near = (np.array(entry["bbox"]) * rng.uniform(0.95, 1.05, 4)).tolist()
        add(entry["image_id"], entry["category_id"], near, 1.0)
        add(entry["image_id"], any_class(), near, 0.5)
    others = DETECTIONS - 2 * BOXES
    for number, box in enumerate(random_boxes(rng, len(content["images"]) * others)):
        add(number // others, any_class(), box, 0.2)
    return sorted(found, key=lambda result: result["image_id"])


def example(truth: Path, detections: Sequence[CocoResult]) -> float:
    """AP, the detections written to a file and both files read."""
    results = truth.with_name("results.json")
    results.write_text(json.dumps(detections), encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks through print
        boxes = COCO(str(truth))
        evaluation = COCOeval(boxes, boxes.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def ours(truth: Path, detections: Sequence[CocoResult], backend: str) -> float:
    """AP as `gfl.evaluate` counts it."""
    return evaluate_detections(truth, detections, backend=backend).AP


def measure(arguments: argparse.Namespace) -> Found:
    """Every backend that is installed, on the same detections."""
    pictures = arguments.pictures or (20 if arguments.quick else 500)
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "instances.json"
        write_truth(truth, pictures)
        detections = make_detections(truth)
        counts: dict[str, Callable[[], float]] = {EXAMPLE: partial(example, truth, detections)}
        counts |= {f"ours, {backend}": partial(ours, truth, detections, backend) for backend in BACKENDS}
        forms: list[Form] = [timed(label, count) for label, count in counts.items()]
        timings = interleave(forms, rounds_of(arguments))
        aps = {label: count() for label, count in counts.items()}
    rows = tuple(
        (label, *rates(timing, pictures), str(paired_ratio(timing, timings[EXAMPLE])), f"{aps[label]:.6f}")
        for label, timing in timings.items()
    )
    table = Table(
        f"Counting: {pictures} pictures, {len(detections):,} detections, {CLASSES} classes",
        ("", "pictures/s", "min", "max", "against the example", "AP"),
        rows,
        "From the detections in memory to the twelve numbers, reading the annotations included.",
    )
    return Found((table,), {"pictures": pictures, "AP": aps, **figures_of(timings)})


def parser() -> argparse.ArgumentParser:
    flags = flags_of("benchmarks.evaluate", __doc__)
    flags.add_argument("--pictures", type=positive, help="how many (default 500)")
    add_rounds(flags)
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

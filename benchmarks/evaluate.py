"""COCO's twelve numbers from detections, with each backend: `python -m benchmarks.evaluate [--json FILE]`.

Ours beside pycocotools' own example, which goes through two JSON files. The boxes are random, in COCO's numbers: 80
classes, 7 boxes and 100 detections a picture, of which some are near a box.
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

from benchmarks.command_line import benchmark_flags, positive, rounds_of, run_program
from benchmarks.measure import Form, figures_of, interleave, paired_ratio, rates, timed
from benchmarks.tables import Findings, Table
from gfl.data.coco_json import CocoDetection
from gfl.report.coco_eval import evaluate_detections

CLASSES, BOXES, DETECTIONS = 80, 7, 100
SIZE_HW = (480, 640)
EXAMPLE = "pycocotools' example"
BACKENDS = ("pycocotools", *(["faster"] if find_spec("faster_coco_eval") is not None else []))


def write_annotations(path: Path, pictures: int) -> None:
    """A COCO instances file of random boxes."""
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


def make_detections(annotations: Path) -> list[CocoDetection]:
    """Two near each true box, one of them of its class, and others anywhere with lower scores."""
    rng = np.random.default_rng(1)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    detections: list[CocoDetection] = []

    def add(image_id: int, category_id: int, bbox: Sequence[float], highest: float) -> None:
        score = round(rng.uniform(0.0, highest), 4)
        detections.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score})

    def any_class() -> int:
        return int(rng.integers(CLASSES)) + 1

    for entry in content["annotations"]:
        near = (np.array(entry["bbox"]) * rng.uniform(0.95, 1.05, 4)).tolist()
        add(entry["image_id"], entry["category_id"], near, 1.0)
        add(entry["image_id"], any_class(), near, 0.5)
    others = DETECTIONS - 2 * BOXES
    for number, box in enumerate(random_boxes(rng, len(content["images"]) * others)):
        add(number // others, any_class(), box, 0.2)
    return sorted(detections, key=lambda detection: detection["image_id"])


def pycocotools_example(annotations: Path, detections: Sequence[CocoDetection]) -> list[float]:
    """COCO's twelve numbers as pycocotools' own example computes them: detections in a file, both files read."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints tables
        results = Path(folder) / "results.json"
        results.write_text(json.dumps(detections), encoding="utf-8")
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def ours(annotations: Path, detections: Sequence[CocoDetection], backend: str) -> list[float]:
    """COCO's twelve numbers as `gfl.evaluate` computes them."""
    return list(evaluate_detections(annotations, detections, backend=backend).summary().values())


def measure(arguments: argparse.Namespace) -> Findings:
    """Every backend that is installed, on the same detections."""
    pictures = arguments.pictures or (20 if arguments.quick else 500)
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder) / "instances.json"
        write_annotations(annotations, pictures)
        detections = make_detections(annotations)
        evaluations: dict[str, Callable[[], list[float]]] = {
            EXAMPLE: partial(pycocotools_example, annotations, detections),
            **{f"ours, {backend}": partial(ours, annotations, detections, backend) for backend in BACKENDS},
        }
        forms: list[Form] = [timed(label, evaluate) for label, evaluate in evaluations.items()]
        timings = interleave(forms, rounds_of(arguments))
        aps = {label: evaluate()[0] for label, evaluate in evaluations.items()}
    rows = tuple(
        (label, *rates(timing, pictures), str(paired_ratio(timing, timings[EXAMPLE])), f"{aps[label]:.6f}")
        for label, timing in timings.items()
    )
    table = Table(
        f"Evaluation: {pictures} pictures, {len(detections):,} detections, {CLASSES} classes",
        ("", "pictures/s", "min", "max", "against the example", "AP"),
        rows,
        "From the detections in memory to the twelve numbers, reading the annotations included.",
    )
    return Findings((table,), {"pictures": pictures, "AP": aps, **figures_of(timings)})


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.evaluate", __doc__)
    flags.add_argument("--pictures", type=positive, help="number of pictures (default 500)")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

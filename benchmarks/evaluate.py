"""COCO's twelve numbers from detections, with each backend: `python -m benchmarks.evaluate [--json FILE]`.

Ours beside pycocotools' own example, which goes through two JSON files; then ours alone at the size of COCO's val2017:
5,000 pictures, 500,000 detections. The boxes are random, in COCO's numbers: 80 classes, 7.2 boxes and 100 detections a
picture, of which some are near a box, and an outline of 20 points a box in the file, which has to be read.
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
from benchmarks.measure import Form, figures_of, interleave, milliseconds, paired_ratio, rates, timed
from benchmarks.tables import Findings, Table
from gfl.data.coco_columns import CocoResults, DetectionColumns, join_columns, sorted_by_image
from gfl.data.coco_json import CocoDetection, Floats, Ints
from gfl.report.coco_eval import evaluate_detections

CLASSES, DETECTIONS, POINTS = 80, 100, 20
SIZE_HW = (480, 640)
WHOLE = 5000  # pictures of COCO's val2017
EXAMPLE = "pycocotools' example"
BACKENDS = ("pycocotools", *(["hotcoco"] if find_spec("hotcoco") is not None else []))


def boxes_of(pictures: int) -> Ints:
    """The picture of each true box: seven a picture, eight in every fifth."""
    return np.repeat(np.arange(pictures), 7 + (np.arange(pictures) % 5 == 0))


def write_annotations(path: Path, pictures: int) -> None:
    """A COCO instances file of random boxes."""
    rng = np.random.default_rng(0)
    picture = boxes_of(pictures)
    boxes = random_boxes(rng, len(picture))
    outlines = (boxes[:, None, :2] + boxes[:, None, 2:] * rng.random((len(picture), POINTS, 2))).round(2)
    annotations = [
        {
            "id": number + 1,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "segmentation": [outline],
        }
        for number, (image_id, category_id, box, outline) in enumerate(
            zip(
                picture.tolist(),
                rng.integers(1, CLASSES + 1, len(picture)).tolist(),
                boxes.tolist(),
                outlines.reshape(len(picture), -1).tolist(),
                strict=True,
            )
        )
    ]
    content = {
        "images": [{"id": image, "height": SIZE_HW[0], "width": SIZE_HW[1]} for image in range(pictures)],
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": f"class {number}"} for number in range(CLASSES)],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def random_boxes(rng: np.random.Generator, count: int) -> Floats:
    """Boxes x, y, width, height, sides log-uniform from 8 px to half of the picture."""
    size = np.array(SIZE_HW[::-1], dtype=np.float64)
    side = 8.0 * (size / 16.0) ** rng.random((count, 2))
    return np.concatenate([rng.random((count, 2)) * (size - side), side], axis=1).round(2)


def make_detections(annotations: Path) -> DetectionColumns:
    """Two near each true box, one of them of its class, and others anywhere with lower scores; by picture."""
    rng = np.random.default_rng(1)
    content = json.loads(annotations.read_text(encoding="utf-8"))
    rows = content["annotations"]
    picture, class_ = (np.array([row[key] for row in rows]) for key in ("image_id", "category_id"))
    near = np.array([row["bbox"] for row in rows]) * rng.uniform(0.95, 1.05, (len(rows), 4))
    pictures = np.arange(len(content["images"]))
    others = np.repeat(pictures, DETECTIONS - 2 * np.bincount(picture, minlength=len(pictures)))

    def some(picture: Ints, class_: Ints, boxes: Floats, highest: float) -> DetectionColumns:
        return DetectionColumns(picture, class_, boxes, rng.uniform(0.0, highest, len(picture)).round(4))

    def any_class(count: int) -> Ints:
        return rng.integers(1, CLASSES + 1, count)

    return sorted_by_image(
        join_columns(
            [
                some(picture, class_, near, 1.0),
                some(picture, any_class(len(picture)), near, 0.5),
                some(others, any_class(len(others)), random_boxes(rng, len(others)), 0.2),
            ]
        )
    )


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


def ours(annotations: Path, detections: CocoResults, backend: str) -> list[float]:
    """COCO's twelve numbers as `gfl.evaluate` computes them."""
    return list(evaluate_detections(annotations, detections, backend=backend).summary().values())


def measure(arguments: argparse.Namespace) -> Findings:
    """Every backend that is installed on the same detections, and the default one on ten times as many."""
    pictures = arguments.pictures or (20 if arguments.quick else 500)
    rounds = rounds_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        beside, figures = compare_backends(Path(folder), pictures, rounds)
        alone, whole = time_default(
            Path(folder), 10 * pictures if arguments.pictures or arguments.quick else WHOLE, rounds
        )
    return Findings((beside, alone), {"pictures": pictures, **figures, "whole": whole})


def compare_backends(folder: Path, pictures: int, rounds: int) -> tuple[Table, dict[str, object]]:
    """pycocotools' example, and ours with each backend."""
    annotations = folder / "instances.json"
    write_annotations(annotations, pictures)
    detections = make_detections(annotations).rows()
    evaluations: dict[str, Callable[[], list[float]]] = {
        EXAMPLE: partial(pycocotools_example, annotations, detections),
        **{f"ours, {backend}": partial(ours, annotations, detections, backend) for backend in BACKENDS},
    }
    forms: list[Form] = [timed(label, evaluate) for label, evaluate in evaluations.items()]
    timings = interleave(forms, rounds)
    numbers = {label: evaluate() for label, evaluate in evaluations.items()}
    rows = tuple(
        (
            label,
            *rates(timing, pictures),
            str(paired_ratio(timing, timings[EXAMPLE])),
            f"{numbers[label][0]:.6f}",
            "yes" if numbers[label] == numbers[EXAMPLE] else "NO",
        )
        for label, timing in timings.items()
    )
    table = Table(
        f"Evaluation: {pictures:,} pictures, {len(detections):,} detections, {CLASSES} classes",
        ("", "pictures/s", "min", "max", "against the example", "AP", "all twelve to the bit"),
        rows,
        "From the detections in memory to the twelve numbers, reading the annotations included.",
    )
    return table, {"AP": {label: each[0] for label, each in numbers.items()}, **figures_of(timings)}


def time_default(folder: Path, pictures: int, rounds: int) -> tuple[Table, dict[str, object]]:
    """Ours with the default backend: detections as `gfl.evaluate` has them, and as COCO results."""
    annotations = folder / "whole.json"
    write_annotations(annotations, pictures)
    detections = make_detections(annotations)
    given: dict[str, CocoResults] = {"detections as columns": detections, "as a dict each": detections.rows()}
    timings = interleave(
        [timed(label, partial(ours, annotations, each, "auto")) for label, each in given.items()], rounds
    )
    table = Table(
        f"Evaluation: {pictures:,} pictures, {len(detections.scores):,} detections, {len(boxes_of(pictures)):,} boxes",
        ("", "ms", "min", "max"),
        tuple(
            (label, *(milliseconds(each) for each in (timing.median, timing.low, timing.high)))
            for label, timing in timings.items()
        ),
        "The default backend; reading the annotations included.",
    )
    return table, {"pictures": pictures, "detections": len(detections.scores), **figures_of(timings)}


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.evaluate", __doc__)
    flags.add_argument(
        "--pictures",
        type=positive,
        help="number of pictures (default 500, and 5,000 for ours alone; 10 times as many where given)",
    )
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

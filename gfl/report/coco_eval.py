"""COCO's twelve numbers and the AP of each class, from an annotation file and detections in COCO results form.

pycocotools is the reference; faster-coco-eval gives the same numbers several times faster when it is installed.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError

# The twelve numbers, in the order of pycocotools' `stats`.
SUMMARY_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BACKENDS = ("auto", "pycocotools", "faster")

_Json = dict[str, Any]  # an object as json.load gives it: its fields are checked below, one at a time


class CocoResult(TypedDict):
    """One detection in COCO results form; other keys may be present and are not read."""

    image_id: int
    category_id: int
    bbox: Sequence[float]  # x, y, width, height in original pixels
    score: float


@dataclass(frozen=True)
class Metrics:
    """What an evaluation gives, as shares of 1; -1 where nothing was there to find, as pycocotools gives it."""

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: dict[str, float | None]  # in the order of the category ids; None for a class without ground truth
    images: int
    seconds: float  # wall time of the evaluation, reading the annotations included

    def summary(self) -> dict[str, float]:
        """The twelve numbers by name, in pycocotools' order."""
        return {name: getattr(self, name) for name in SUMMARY_NAMES}

    def as_dict(self) -> dict[str, float | int | dict[str, float | None]]:
        """The content of metrics.json: free of NaN, so that every JSON reader takes it."""
        return {**self.summary(), "per_class": dict(self.per_class), "images": self.images, "seconds": self.seconds}


def evaluate_detections(
    annotations: Path,
    detections: Sequence[CocoResult],
    *,
    image_ids: Iterable[int] | None = None,
    backend: str = "auto",
) -> Metrics:
    """Evaluate boxes as COCO does.

    annotations: a COCO instances file. What real files lack is filled in memory: `area` = width * height,
        `iscrowd` = 0; annotations without a box are left out, and `id`s are renumbered from 1, because pycocotools
        reads a match with an annotation of id 0 as no match.
    detections: original pixels, the file's own image and category ids; may be empty (every AP is then 0).
    image_ids: evaluate these pictures only; detections on the file's other pictures are then not counted.
    backend: 'pycocotools', 'faster' (faster-coco-eval), or 'auto': the faster one when it is installed.

    Raises InputError for a file that is no COCO file, for detections whose ids the file does not have, for values
    that are not finite, and for backend='faster' where faster-coco-eval is missing.
    """
    started = time.perf_counter()
    chosen = _choose_backend(backend)
    dataset = _read_annotations(annotations)
    results = _checked_results(detections, dataset, annotations)
    images = _chosen_images(image_ids, dataset, annotations)
    stats, precision = _run_backend(chosen, dataset, results, images)
    return Metrics(
        **dict(zip(SUMMARY_NAMES, stats, strict=True)),
        per_class=_per_class(precision, _class_names(dataset["categories"])),
        images=len(images),
        seconds=time.perf_counter() - started,
    )


def _choose_backend(backend: str) -> str:
    if backend not in BACKENDS:
        raise InputError(f"got backend {backend!r}, expected one of {BACKENDS}")
    installed = find_spec("faster_coco_eval") is not None
    if backend == "faster" and not installed:
        raise InputError(
            "backend 'faster' needs faster-coco-eval, which is not installed: "
            "pip install faster-coco-eval, or take backend 'pycocotools'"
        )
    return "faster" if installed and backend != "pycocotools" else "pycocotools"


def _read_annotations(path: Path) -> _Json:
    """The parts of a COCO file that evaluation reads, with the missing fields filled."""
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read the annotations {path}: {error.strerror}; check the path") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise InputError(f"{path} is not JSON ({error}); expected a COCO instances file") from error
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if missing:
        raise InputError(f"{path} has no list of {' and of '.join(missing)}; expected a COCO instances file")
    try:
        return {
            "images": [{"id": int(image["id"])} for image in content["images"]],
            "annotations": _filled_annotations(content["annotations"]),
            "categories": [
                {"id": int(entry["id"]), "name": str(entry.get("name", entry["id"]))} for entry in content["categories"]
            ],
        }
    except KeyError as error:
        raise InputError(f"an entry of {path} lacks the key {error}; expected a COCO instances file") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"an entry of {path} cannot be read ({error}); expected integer ids and boxes [x, y, width, height]"
        ) from error


def _filled_annotations(entries: Sequence[_Json]) -> list[_Json]:
    filled: list[_Json] = []
    for entry in entries:
        if not entry.get("bbox"):
            continue
        x, y, width, height = map(float, entry["bbox"])
        area = entry.get("area")
        filled.append(
            {
                "id": len(filled) + 1,
                "image_id": int(entry["image_id"]),
                "category_id": int(entry["category_id"]),
                "bbox": [x, y, width, height],
                "area": width * height if area is None else float(area),
                "iscrowd": int(entry.get("iscrowd") or 0),
            }
        )
    return filled


def _checked_results(detections: Sequence[CocoResult], dataset: _Json, path: Path) -> list[_Json]:
    """Copies of the detections with the fields that pycocotools' own loadRes adds; the caller's stay untouched."""
    results: list[_Json] = []
    for index, detection in enumerate(detections):
        try:
            box = [float(value) for value in detection["bbox"]]
            score = float(detection["score"])
            image_id, category_id = int(detection["image_id"]), int(detection["category_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"detection {index} is not in COCO results form ({error!r}); "
                "expected image_id, category_id, bbox [x, y, width, height] and score"
            ) from error
        if len(box) != 4 or not all(map(math.isfinite, (*box, score))):
            raise InputError(f"detection {index} has bbox {box} and score {score}; expected finite x, y, width, height")
        results.append(
            {
                "id": index + 1,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": box,
                "score": score,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    _check_ids("image", {result["image_id"] for result in results}, dataset["images"], path)
    _check_ids("category", {result["category_id"] for result in results}, dataset["categories"], path)
    return results


def _check_ids(noun: str, got: set[int], entries: Sequence[_Json], path: Path) -> None:
    unknown = sorted(got - {entry["id"] for entry in entries})
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise InputError(
            f"the detections name {len(unknown)} {noun} id(s) that {path} does not have ({shown}); "
            "evaluate them against the annotations of the pictures they were made on"
        )


def _chosen_images(image_ids: Iterable[int] | None, dataset: _Json, path: Path) -> list[int]:
    if image_ids is None:
        chosen = {image["id"] for image in dataset["images"]}
    else:
        chosen = {int(image_id) for image_id in image_ids}
        unknown = sorted(chosen - {image["id"] for image in dataset["images"]})
        if unknown:
            raise InputError(f"got image_ids that {path} does not have ({unknown[:5]}); expected ids of its `images`")
    if not chosen:
        raise InputError(f"no picture to evaluate: {path} or the chosen image_ids are empty; expected at least one")
    return sorted(chosen)


def _run_backend(
    backend: str, dataset: _Json, results: list[_Json], images: list[int]
) -> tuple[list[float], NDArray[np.float64]]:
    """The twelve numbers, and the precision (T thresholds, R recalls, K classes, areas, detection limits)."""
    if backend == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # both speak through print
        truth, found = COCO(), COCO()
        truth.dataset = dataset
        found.dataset = {**dataset, "annotations": results}
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, iouType="bbox")
        evaluation.params.imgIds = images
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats[: len(SUMMARY_NAMES)]]  # the faster one appends more
    return stats, np.asarray(evaluation.eval["precision"], dtype=np.float64)


def _class_names(categories: Sequence[_Json]) -> list[str]:
    """A distinct name a class, in the order of the ids, which is the order of the evaluation's K axis."""
    names = {entry["id"]: entry["name"] for entry in categories}
    uses = Counter(names.values())
    return [name if uses[name] == 1 else f"{name} ({key})" for key, name in sorted(names.items())]


def _per_class(precision: NDArray[np.float64], names: Sequence[str]) -> dict[str, float | None]:
    per_class: dict[str, float | None] = {}
    for index, name in enumerate(names):
        values = precision[:, :, index, 0, -1]  # all areas, 100 detections
        present = values[values > -1]  # -1 marks a class without ground truth
        per_class[name] = float(present.mean()) if present.size else None
    return per_class

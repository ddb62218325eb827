"""COCO's twelve numbers and the AP of each class, from an annotation file and detections in COCO results form.

pycocotools is the reference; faster-coco-eval gives the same numbers several times faster when it is installed.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gfl.data.coco_json import CocoDetection, GroundTruth, ground_truth, read_coco_file
from gfl.errors import InputError
from gfl.report.best_f1 import BestF1, best_f1

COCO_LIMIT = 100  # best detections of a picture that COCO's numbers count
BACKENDS = ("auto", "pycocotools", "faster")

_Row: TypeAlias = dict[str, object]  # an annotation or a detection as pycocotools takes it


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
    seconds: float  # wall time of the evaluation; reading the annotations included where a path was given
    max_detections: int = COCO_LIMIT  # that count a picture
    best_f1: dict[str, BestF1 | None] = field(default_factory=dict)  # as per_class; None also where nothing was found

    def summary(self) -> dict[str, float]:
        """The twelve numbers by name, in pycocotools' order."""
        return {name: getattr(self, name) for name in SUMMARY_NAMES}

    def as_dict(self) -> dict[str, object]:
        """The content of metrics.json: free of NaN, so that every JSON reader takes it."""
        content = asdict(self)
        content["best_f1"] = {name: best and best._asdict() for name, best in self.best_f1.items()}
        return content


SUMMARY_NAMES = tuple(entry.name for entry in fields(Metrics))[:12]  # as Metrics, in the order of pycocotools' `stats`


def evaluate_detections(
    truth: GroundTruth | str | Path,
    detections: Sequence[CocoDetection],
    *,
    image_ids: Iterable[int] | None = None,
    backend: str = "auto",
    max_detections: int = COCO_LIMIT,
) -> Metrics:
    """Evaluate boxes as COCO does.

    Args:
        truth: the true boxes (`CocoData.truth`), or a COCO instances file, which may lack what `ground_truth` says.
        detections: px of the original pictures, the file's own image and category ids; none: every AP is 0.
        image_ids: evaluate these pictures only; detections on the file's other pictures are then not counted.
        max_detections: best detections of a picture that count; the numbers named AR100 are then of so many.
        backend: 'pycocotools', 'faster' (faster-coco-eval), or 'auto': the faster one when it is installed.

    Raises:
        InputError: the file is no COCO file, detections have ids that it does not have or values that are not finite,
            or faster-coco-eval is asked for and not installed.
    """
    started = time.perf_counter()
    backend = _choose_backend(backend)
    if not isinstance(truth, GroundTruth):
        truth = ground_truth(read_coco_file(truth), strict=False)
    results, images = _checked_results(detections, truth), _chosen_images(image_ids, truth)
    stats, precision, scores = _run_backend(backend, truth, results, images, max_detections)
    names = distinct_names(truth.class_names)
    return Metrics(
        **dict(zip(SUMMARY_NAMES, stats, strict=True)),
        per_class={name: _mean_precision(precision[:, :, index, 0, -1]) for index, name in enumerate(names)},
        best_f1={
            name: best_f1(precision[0, :, index, 0, -1], scores[0, :, index, 0, -1]) for index, name in enumerate(names)
        },
        images=len(images),
        max_detections=max_detections,
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


def _true_rows(truth: GroundTruth) -> list[_Row]:
    """Ids from 1, whatever the file's: pycocotools reads a match with an annotation of id 0 as no match."""
    columns = (truth.image_id, truth.category_id, truth.boxes_xywh, truth.areas, truth.crowd.astype(np.int64))
    return [
        {"id": index, "image_id": image_id, "category_id": category_id, "bbox": box, "area": area, "iscrowd": crowd}
        for index, (image_id, category_id, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


def _checked_results(detections: Sequence[CocoDetection], truth: GroundTruth) -> list[_Row]:
    """Copies of the detections with the fields that pycocotools' own loadRes adds; the caller's stay untouched."""
    results: list[_Row] = []
    unknown_ids: dict[str, set[int]] = {"image": set(), "category": set()}
    known_images = set(truth.image_ids.tolist())
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
        ids = {"id": index + 1, "image_id": image_id, "category_id": category_id}
        results.append({**ids, "bbox": box, "score": score, "area": box[2] * box[3], "iscrowd": 0})
        if image_id not in known_images:
            unknown_ids["image"].add(image_id)
        if category_id not in truth.class_names:
            unknown_ids["category"].add(category_id)
    for noun, unknown in unknown_ids.items():
        if unknown:
            listed = ", ".join(map(str, sorted(unknown)[:5])) + (", ..." if len(unknown) > 5 else "")
            raise InputError(
                f"the detections name {len(unknown)} {noun} id(s) that {truth.path} does not have ({listed}); "
                "evaluate them against the annotations of the pictures they were made on"
            )
    return results


def _chosen_images(image_ids: Iterable[int] | None, truth: GroundTruth) -> list[int]:
    known = set(truth.image_ids.tolist())
    chosen = known if image_ids is None else {int(image_id) for image_id in image_ids}
    if unknown := sorted(chosen - known):
        raise InputError(f"got image_ids that {truth.path} does not have ({unknown[:5]}); expected ids of its `images`")
    if not chosen:
        raise InputError(
            f"no picture to evaluate: {truth.path} or the chosen image_ids are empty; expected at least one"
        )
    return sorted(chosen)


def _run_backend(
    backend: str, truth: GroundTruth, results: list[_Row], images: list[int], max_detections: int
) -> tuple[list[float], NDArray[np.float64], NDArray[np.float64]]:
    """The twelve numbers, the precision (T thresholds, R recalls, K classes, areas, limits), and the scores there."""
    if backend == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

    pictures = [{"id": image_id} for image_id in truth.image_ids.tolist()]
    categories = [{"id": category_id, "name": name} for category_id, name in truth.class_names.items()]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # both backends speak through print
        for rows in (_true_rows(truth), results):
            side = COCO()
            side.dataset = {"images": pictures, "annotations": rows, "categories": categories}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iouType="bbox")
        evaluation.params.imgIds = images
        evaluation.params.maxDets = [min(limit, max_detections) for limit in (1, 10)] + [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections == COCO_LIMIT:
            evaluation.summarize()
    precision, scores = (np.asarray(evaluation.eval[name], dtype=np.float64) for name in ("precision", "scores"))
    if max_detections != COCO_LIMIT:  # summarize looks for a limit of 100, and gives -1 where there is none
        return _summarised(precision, np.asarray(evaluation.eval["recall"], dtype=np.float64)), precision, scores
    stats = [float(value) for value in evaluation.stats[: len(SUMMARY_NAMES)]]  # the faster one appends more
    return stats, precision, scores


def _summarised(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> list[float]:
    """The twelve numbers, from precision (T,R,K,areas,limits) and recall (T,K,areas,limits), as summarize has them."""

    def mean(values: NDArray[np.float64]) -> float:
        present = values[values > -1]
        return float(present.mean()) if present.size else -1.0

    areas, largest = range(4), recall.shape[-1] - 1  # all, small, medium, large
    overlaps = [mean(precision[i, :, :, 0, largest]) for i in (0, 5)]  # IoU .50 and .75
    by_area = [mean(precision[..., area, largest]) for area in areas]
    recalls = [mean(recall[..., 0, limit]) for limit in range(largest + 1)]
    return [by_area[0], *overlaps, *by_area[1:], *recalls, *(mean(recall[..., area, largest]) for area in areas[1:])]


def limit_notes(truth: GroundTruth, detections: Sequence[CocoDetection], limit: int) -> list[str]:
    """What is to be said where the limit on detections of a picture leaves objects uncounted."""
    ids, counts = np.unique(truth.image_id[~truth.crowd], return_counts=True)
    crowded = counts > limit
    if not crowded.any():
        return []
    found = Counter(detection["image_id"] for detection in detections)
    full = sum(found[key] >= limit for key in ids[crowded].tolist())
    return [
        f"the limit of {limit} detections a picture binds: pictures with more objects ({crowded.sum():,}, at most "
        f"{counts.max():,} objects), of them with as many detections ({full:,}); "
        f"evaluate with --max_detections {_next_limit(int(counts.max()))}"
    ]


def _next_limit(objects: int) -> int:
    """A limit with room for false detections: half as many again, in round numbers."""
    return -(-objects * 3 // 2 // 50) * 50


def _mean_precision(precision: NDArray[np.float64]) -> float | None:
    """The AP of one class from its precision (T,R), all areas; None without ground truth, which -1 marks."""
    present = precision[precision > -1]
    return float(present.mean()) if present.size else None


def distinct_names(class_names: Mapping[int, str]) -> list[str]:
    """Class names in the order of the ids, which is that of the K axis; those of one name are told apart by id."""
    uses = Counter(class_names.values())
    return [name if uses[name] == 1 else f"{name} ({category_id})" for category_id, name in class_names.items()]

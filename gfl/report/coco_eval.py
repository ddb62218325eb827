"""COCO's twelve numbers and the AP of each class, from an annotation file and detections in COCO results form.

pycocotools is the reference; hotcoco gives the same numbers, to the last bit, in a hundredth of the time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from gfl.data.coco_columns import CocoResults, DetectionColumns, checked_columns
from gfl.data.coco_json import Floats, GroundTruth, Ints, ground_truth, read_coco_file
from gfl.errors import InputError
from gfl.report.best_f1 import BestF1, best_f1
from gfl.report.coco_matching import Boxes, Curves, Matching, choose_backend, curves

COCO_LIMIT = 100  # best detections of a picture that COCO's numbers count


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

    def limits(self) -> list[int]:
        """How many detections a picture AR1, AR10 and AR100 are of, which is what their names say up to a limit."""
        return limits_of(self.max_detections)

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
    detections: CocoResults,
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
        backend: 'pycocotools', 'hotcoco', or 'auto': hotcoco where it is installed.

    Raises:
        InputError: the file is no COCO file, detections have ids that it does not have or values that are not finite,
            or hotcoco is asked for and not installed.
    """
    started = time.perf_counter()
    backend = choose_backend(backend)
    if not isinstance(truth, GroundTruth):
        truth = ground_truth(read_coco_file(truth), strict=False)
    matching = matching_of(truth, detections, image_ids=image_ids, max_detections=max_detections)
    found = curves(matching, backend)
    return metrics_of(found, truth, matching, started)


def matching_of(
    truth: GroundTruth,
    detections: CocoResults,
    *,
    image_ids: Iterable[int] | None = None,
    max_detections: int = COCO_LIMIT,
) -> Matching:
    """What a backend is handed; arguments and errors as of `evaluate_detections`."""
    columns = checked_columns(detections)
    _require_known_ids(columns, truth)
    images = _chosen_images(image_ids, truth)
    return _numbered_from_one(truth, columns, images, limits_of(max_detections))


def limits_of(max_detections: int) -> list[int]:
    """The limits that COCO's recalls are measured at, where so many detections of a picture count at most."""
    return [min(limit, max_detections) for limit in (1, 10)] + [max_detections]


def metrics_of(found: Curves, truth: GroundTruth, matching: Matching, started: float) -> Metrics:
    """The numbers that the curves of a matching come to. started: on the clock of time.perf_counter."""
    names = distinct_names(truth.class_names)
    objects = np.bincount(matching.truth.classes[~matching.crowd], minlength=len(names) + 1)[1:].tolist()
    at_half, scores_at_half = found.precision[0, :, :, 0, -1], found.scores[0, :, :, 0, -1]  # (recalls, classes)
    return Metrics(
        **dict(zip(SUMMARY_NAMES, _summarised(found), strict=True)),
        per_class={name: mean_measured(found.precision[:, :, index, 0, -1]) for index, name in enumerate(names)},
        best_f1={
            name: best_f1(at_half[:, index], scores_at_half[:, index], objects[index])
            for index, name in enumerate(names)
        },
        images=matching.pictures,
        max_detections=matching.limits[-1],
        seconds=time.perf_counter() - started,
    )


def _require_known_ids(columns: DetectionColumns, truth: GroundTruth) -> None:
    """Raise InputError where detections are on pictures, or of classes, that the annotations do not have."""
    classes = np.array(list(truth.class_names), dtype=np.int64)
    for noun, ids, known in (
        ("image", columns.image_ids, truth.image_ids),
        ("category", columns.category_ids, classes),
    ):
        unknown = np.unique(ids[_numbers(ids, known) == 0])
        if len(unknown):
            listed = ", ".join(map(str, unknown[:5].tolist())) + (", ..." if len(unknown) > 5 else "")
            raise InputError(
                f"the detections name {len(unknown)} {noun} id(s) that {truth.path} does not have ({listed}); "
                "evaluate them against the annotations of the pictures they were made on"
            )


def _chosen_images(image_ids: Iterable[int] | None, truth: GroundTruth) -> Ints:
    """The ids of the pictures to evaluate, in order."""
    known = set(truth.image_ids.tolist())
    chosen = known if image_ids is None else {int(image_id) for image_id in image_ids}
    if unknown := sorted(chosen - known):
        raise InputError(f"got image_ids that {truth.path} does not have ({unknown[:5]}); expected ids of its `images`")
    if not chosen:
        raise InputError(
            f"no picture to evaluate: {truth.path} or the chosen image_ids are empty; expected at least one"
        )
    return np.array(sorted(chosen), dtype=np.int64)


def _numbered_from_one(truth: GroundTruth, columns: DetectionColumns, images: Ints, limits: list[int]) -> Matching:
    """What is on the chosen pictures, with the numbers from 1 of pictures and classes instead of their ids.

    True boxes of pictures or classes that the file does not list are left out, as pycocotools does.
    """
    classes = np.array(list(truth.class_names), dtype=np.int64)
    picture_N, class_N = _numbers(truth.image_id, images), _numbers(truth.category_id, classes)
    picture_D, class_D = _numbers(columns.image_ids, images), _numbers(columns.category_ids, classes)
    real, kept = (picture_N > 0) & (class_N > 0), picture_D > 0
    return Matching(
        pictures=len(images),
        classes=len(classes),
        truth=Boxes(picture_N[real], class_N[real], truth.boxes_xywh[real]),
        areas=truth.areas[real],
        crowd=truth.crowd[real],
        found=Boxes(picture_D[kept], class_D[kept], columns.boxes_xywh[kept]),
        scores=columns.scores[kept],
        limits=limits,
    )


def _numbers(ids: Ints, known: Ints) -> Ints:
    """The place from 1 of each id among the known ones, 0 for others."""
    order = np.argsort(known)
    if not len(known):
        return np.zeros_like(ids)
    nearest = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    return np.where(known[nearest] == ids, nearest + 1, 0)


def _summarised(found: Curves) -> list[float]:
    """The twelve numbers, as pycocotools' summarize has them of the usual limits 1, 10 and 100."""
    precision, recall = found.precision, found.recall

    def mean(values: Floats) -> float:
        present = values[values > -1]
        return float(present.mean()) if present.size else -1.0

    areas, largest = range(4), recall.shape[-1] - 1  # all, small, medium, large
    overlaps = [mean(precision[i, :, :, 0, largest]) for i in (0, 5)]  # IoU .50 and .75
    by_area = [mean(precision[..., area, largest]) for area in areas]
    recalls = [mean(recall[..., 0, limit]) for limit in range(largest + 1)]
    return [by_area[0], *overlaps, *by_area[1:], *recalls, *(mean(recall[..., area, largest]) for area in areas[1:])]


def limit_notes(truth: GroundTruth, detections: CocoResults, limit: int) -> list[str]:
    """What is to be said where the limit on detections of a picture leaves objects uncounted."""
    ids, counts = np.unique(truth.image_id[~truth.crowd], return_counts=True)
    crowded = counts > limit
    if not crowded.any():
        return []
    found_ids, found = np.unique(checked_columns(detections).image_ids, return_counts=True)
    full = np.isin(ids[crowded], found_ids[found >= limit]).sum()
    return [
        f"the limit of {limit} detections a picture binds: pictures with more objects ({crowded.sum():,}, at most "
        f"{counts.max():,} objects), of them with as many detections ({full:,}); "
        f"evaluate with --max_detections {_next_limit(int(counts.max()))}"
    ]


def _next_limit(objects: int) -> int:
    """A limit with room for false detections: half as many again, in round numbers."""
    return -(-objects * 3 // 2 // 50) * 50


def mean_measured(values: Floats) -> float | None:
    """The mean of what was measured, e.g. a class's AP from its precision (T,R); None without truth, which -1 marks."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def distinct_names(class_names: Mapping[int, str]) -> list[str]:
    """Class names in the order of the ids, which is that of the K axis; those of one name are told apart by id."""
    uses = Counter(class_names.values())
    return [name if uses[name] == 1 else f"{name} ({category_id})" for category_id, name in class_names.items()]

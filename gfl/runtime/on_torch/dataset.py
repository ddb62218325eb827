"""A predictor over a whole data set: its COCO results, and their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gfl.data.coco import CocoData
from gfl.data.coco_json import CocoDetection, coco_detections
from gfl.data.loader import LoadedBatch
from gfl.engine.memory import memory_errors
from gfl.model.structures import Detections
from gfl.report.coco_eval import COCO_LIMIT, Metrics, evaluate_detections
from gfl.runtime.on_torch.pt_file import Predict


def detect_all(
    predict: Predict, loader: Iterable[LoadedBatch], category_ids: Sequence[int | None]
) -> tuple[list[CocoDetection], tuple[str, ...]]:
    """The detections of every picture of a loader (on each rank its share), in pixels of the original, by image id.

    category_ids: label -> category id of the data set; None: its detections are left out.
    The second value says why pictures could not be read, a sentence each. Raises InputError where the device has too
    little memory for a batch.
    """
    results: list[CocoDetection] = []
    failed: list[str] = []
    for loaded in loader:
        with memory_errors(loaded.canvas, len(loaded.image_ids)):
            results += batch_detections(
                predict(loaded.batch.images, loaded.batch.image_sizes),
                loaded.image_ids,
                loaded.scales.numpy(),
                category_ids,
            )
        failed += loaded.failed
    return sorted_by_image(results), tuple(failed)


def sorted_by_image(results: Iterable[CocoDetection]) -> list[CocoDetection]:
    """The detections by image id, whichever canvas and rank they come from; those of a picture keep their order."""
    return sorted(results, key=lambda result: result["image_id"])


def batch_detections(
    detections: Detections, image_ids: Sequence[int], scales: np.ndarray, category_ids: Sequence[int | None]
) -> list[CocoDetection]:
    """The detections of a batch as COCO results, in pixels of the original.

    scales float32 (B,2): resized / original side, height then width. Blanks (image id -1), detections of the
    background channel and of labels whose category id is None are left out.
    """
    boxes = detections.boxes_xyxy.cpu().numpy() / scales[:, None, [1, 0, 1, 0]]
    scores, labels = detections.scores.cpu().numpy(), detections.labels.cpu().numpy()
    known = {label: category_id for label, category_id in enumerate(category_ids) if category_id is not None}
    results: list[CocoDetection] = []
    for image, image_id in enumerate(image_ids):
        real = np.isin(labels[image], list(known))
        if image_id >= 0:
            categories = [known[label] for label in labels[image][real].tolist()]
            results += coco_detections(image_id, boxes[image][real], scores[image][real], categories)
    return results


def evaluate(
    predict: Predict,
    data: CocoData,
    loader: Iterable[LoadedBatch],
    category_ids: Sequence[int | None],
    *,
    max_detections: int = COCO_LIMIT,
) -> tuple[Metrics, list[CocoDetection], tuple[str, ...]]:
    """Detect on a data set: COCO's metrics, the detections, and why pictures could not be read.

    category_ids: as of `detect_all`; max_detections: as of `evaluate_detections`.
    """
    results, failed = detect_all(predict, loader, category_ids)
    return evaluate_detections(data.truth, results, max_detections=max_detections), results, failed

"""A predictor over a whole data set: its detections, and their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gfl.data.coco import CocoData
from gfl.data.coco_columns import DetectionColumns, join_columns, sorted_by_image
from gfl.data.loader import LoadedBatch
from gfl.engine.memory import memory_errors
from gfl.model.structures import Detections
from gfl.report.coco_eval import COCO_LIMIT, Metrics, evaluate_detections
from gfl.runtime.on_torch.pt_file import Predict


def detect_all(
    predict: Predict, loader: Iterable[LoadedBatch], category_ids: Sequence[int | None]
) -> tuple[DetectionColumns, tuple[str, ...]]:
    """The detections of every picture of a loader (on each rank its share), in pixels of the original, by image id.

    category_ids: label -> category id of the data set; None: its detections are left out.
    The second value says why pictures could not be read, a sentence each. Raises InputError where the device has too
    little memory for a batch.
    """
    results: list[DetectionColumns] = []
    failed: list[str] = []
    for loaded in loader:
        with memory_errors(loaded.canvas, len(loaded.image_ids)):
            results.append(
                batch_detections(
                    predict(loaded.batch.images, loaded.batch.image_sizes),
                    loaded.image_ids,
                    loaded.scales.numpy(),
                    category_ids,
                )
            )
        failed += loaded.failed
    return sorted_by_image(join_columns(results)), tuple(failed)


def batch_detections(
    detections: Detections, image_ids: Sequence[int], scales: np.ndarray, category_ids: Sequence[int | None]
) -> DetectionColumns:
    """The detections of a batch, in pixels of the original.

    scales float32 (B,2): resized / original side, height then width. Blanks (image id -1), detections of the
    background channel and of labels whose category id is None are left out.
    """
    scales_B14 = scales[:, None, [1, 0, 1, 0]]
    corners = (detections.boxes_xyxy.cpu().numpy() / scales_B14).astype(np.float64)
    spreads = (detections.edge_std.cpu().numpy() / scales_B14).astype(np.float64)
    scores, labels = detections.scores.cpu().numpy(), detections.labels.cpu().numpy()
    counted = [label for label, category_id in enumerate(category_ids) if category_id is not None]
    id_of_label = np.array([category_id or 0 for category_id in category_ids], dtype=np.int64)
    ids = np.array(image_ids, dtype=np.int64)
    picture, place = np.nonzero(np.isin(labels, counted) & (ids >= 0)[:, None])
    boxes = corners[picture, place]
    return DetectionColumns(
        image_ids=ids[picture],
        category_ids=id_of_label[labels[picture, place]],
        boxes_xywh=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        scores=scores[picture, place].astype(np.float64),
        edge_std=spreads[picture, place],
    )


def evaluate(
    predict: Predict,
    data: CocoData,
    loader: Iterable[LoadedBatch],
    category_ids: Sequence[int | None],
    *,
    max_detections: int = COCO_LIMIT,
) -> tuple[Metrics, DetectionColumns, tuple[str, ...]]:
    """Detect on a data set: COCO's metrics, the detections, and why pictures could not be read.

    category_ids: as of `detect_all`; max_detections: as of `evaluate_detections`.
    """
    results, failed = detect_all(predict, loader, category_ids)
    return evaluate_detections(data.truth, results, max_detections=max_detections), results, failed

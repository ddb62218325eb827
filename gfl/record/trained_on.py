"""What a checkpoint says of the data that it was trained on, for `gfl.card`: numbers and names, no pictures."""

from __future__ import annotations

from gfl.data.coco import CocoData
from gfl.data.pictures import box_counts, boxes_a_label


def trained_on(train: CocoData, val: CocoData | None) -> dict[str, object]:
    """The two sets of a run as plain values; `boxes` of the training set by label, of the other in all."""
    facts: dict[str, object] = {
        "annotations": str(train.annotations),
        "pictures": len(train.pictures),
        "boxes": boxes_a_label(train.pictures, len(train.names)).tolist(),
        "val": None,
    }
    if val is not None:
        boxes = int(box_counts(val.pictures).sum())
        facts["val"] = {"annotations": str(val.annotations), "pictures": len(val.pictures), "boxes": boxes}
    return facts

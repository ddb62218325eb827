"""What a checkpoint says of the data that it was trained on, for `gfl.card`: numbers and names, no pictures."""

from __future__ import annotations

import numpy as np

from gfl.data.coco import CocoData


def trained_on(train: CocoData, val: CocoData | None) -> dict[str, object]:
    """The two sets of a run as plain values; `boxes` of the training set by label, of the other in all."""
    labels = np.concatenate([picture.labels for picture in train.pictures])
    facts: dict[str, object] = {
        "annotations": str(train.annotations),
        "pictures": len(train.pictures),
        "boxes": np.bincount(labels, minlength=len(train.names)).tolist(),
        "val": None,
    }
    if val is not None:
        boxes = sum(len(picture.boxes_xyxy) for picture in val.pictures)
        facts["val"] = {"annotations": str(val.annotations), "pictures": len(val.pictures), "boxes": boxes}
    return facts

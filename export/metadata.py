"""The description that an exported file carries in its metadata."""

from __future__ import annotations

import onnx

from gfl import __version__
from gfl.data.sampler import eval_short_side
from gfl.engine.checkpoints import TrainedModel
from gfl.engine.description import Description, Thresholds
from gfl.settings import Canvas


def describe(model: TrainedModel, *, size: Canvas, batch: int, outputs: str, precision: str) -> Description:
    """The description of an export of this model."""
    cfg, data = model.run.detector, model.run.data
    return Description(
        version=__version__,
        outputs=outputs,
        precision=precision,
        names=model.names,
        category_ids=model.category_ids,
        batch=batch,
        size=size,
        mean=cfg.mean,
        std=cfg.std,
        short_side=min(eval_short_side(data), data.long_side),
        long_side=data.long_side,
        thresholds=Thresholds(
            score=cfg.predict.score_threshold,
            nms_iou=cfg.predict.nms_iou,
            max_detections=cfg.predict.max_detections,
            candidates=cfg.predict.candidates,
            rounds=cfg.predict.rounds,
        ),
        config=model.config_text,
    )


def attach(model: onnx.ModelProto, description: Description) -> None:
    """Write the description into the model's metadata, in place."""
    model.producer_name, model.producer_version = "gfl", description.version
    onnx.helper.set_model_props(model, description.to_metadata())

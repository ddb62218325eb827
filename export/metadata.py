"""The description that an exported file carries in its metadata."""

from __future__ import annotations

import onnx

from gfl.engine.description import Description


def attach(model: onnx.ModelProto, description: Description) -> None:
    """Write the description into the model's metadata, in place."""
    model.producer_name, model.producer_version = "gfl", description.version
    onnx.helper.set_model_props(model, description.to_metadata())

"""Which version of deformable convolution a file of weights has: its shapes say so, whatever the settings do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from gfl.errors import InputError
from gfl.model.detector import DetectorConfig
from gfl.say import say
from gfl.tensors.deform import OFFSET_CHANNELS, Version

VERSIONS = {channels: version for version, channels in OFFSET_CHANNELS.items()}


def version_in(state: Mapping[str, Tensor], source: str | Path) -> Version | None:
    """The version of the deformable layers in a state dict; None where it has none.

    Raises InputError for layers of both versions, and of neither.
    """
    channels = {tensor.shape[0] for path, tensor in state.items() if path.endswith(".conv_offset.weight")}
    if not channels:
        return None
    if len(channels) > 1 or not channels <= VERSIONS.keys():
        raise InputError(
            f"{source} has deformable convolutions with {' and '.join(map(str, sorted(channels)))} offset channels, "
            "expected 18 (v1) or 27 (v2) in all; export the weights again with one offset group a layer"
        )
    return VERSIONS[channels.pop()]


def with_version_of(cfg: DetectorConfig, state: Mapping[str, Tensor], source: str | Path) -> DetectorConfig:
    """The settings with the version that the weights have, and a note where they said another. Errors as above."""
    said, found = cfg.backbone.deformable, version_in(state, source)
    if not said or not found or said == found:
        return cfg
    say(
        f"note: {source} has deformable convolutions {found} ({OFFSET_CHANNELS[found]} offset channels), where the "
        f"settings say {said}: the model is built as the file has it",
        error=True,
    )
    return replace(cfg, backbone=replace(cfg.backbone, deformable=found))


def require_version(cfg: DetectorConfig, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise InputError where weights to start from have another version than the run, whose settings are written."""
    said, found = cfg.backbone.deformable, version_in(state, source)
    if found and said != found:
        kind = type(cfg.backbone).__name__
        raise InputError(
            f"{source} has deformable convolutions {found} ({OFFSET_CHANNELS[found]} offset channels), expected "
            f"{said or 'none'} as the run has them; set {kind}.deformable = {found!r}, or give its model's run file"
        )

"""The settings of a run that differ from those of others, by the names that people set them by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import NamedTuple

from gfl.settings import DataConfig, OptimConfig, RunConfig

# What is about the files of a machine, or the data set's own.
LEFT_OUT = ("root", "train_json", "train_images", "val_json", "val_images", "checkpoint", "num_classes")


class Change(NamedTuple):
    """A setting that differs."""

    name: str  # a knob, e.g. 'BATCH_SIZE'; of what has none 'HeadConfig.convs'
    value: object
    usual: object


def changed_settings(run: RunConfig, usual: RunConfig) -> Iterator[Change]:
    """The settings of `run` that are others in `usual`, in the order of gfl/settings.py; paths are left out.

    Example:
        >>> from dataclasses import replace
        >>> list(changed_settings(replace(RunConfig(), batch_size=8), RunConfig()))
        [Change(name='BATCH_SIZE', value=8, usual=16)]
    """
    yield from _changes(run, usual)


def _changes(config: object, usual: object) -> Iterator[Change]:
    if not is_dataclass(config):
        return
    knobs = isinstance(config, (RunConfig, DataConfig, OptimConfig))
    for field in fields(config):
        value, other = getattr(config, field.name), getattr(usual, field.name)
        if is_dataclass(value):
            yield from _changes(value, other)
        elif value != other and field.name not in LEFT_OUT:
            name = field.name.upper() if knobs else f"{type(config).__name__}.{field.name}"
            yield Change(name, value, other)

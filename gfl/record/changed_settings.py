"""The settings of a run that differ from those of others, by the names that people set them by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import PurePath, PurePosixPath
from typing import NamedTuple

from gfl.config import read_run, run_files
from gfl.errors import InputError
from gfl.settings import DataConfig, OptimConfig, RunConfig

PAPER = "the paper's R50 recipe (base.gin)"
# What is about the files of a machine, or the data set's own.
LEFT_OUT = ("root", "train_json", "train_images", "val_json", "val_images", "num_classes")
GIVEN = "given in the command"


class Change(NamedTuple):
    """A setting that differs."""

    name: str  # a knob, e.g. 'BATCH_SIZE'; of what has none 'HeadConfig.convs'
    value: object
    usual: object


def changed_settings(run: RunConfig, usual: RunConfig) -> Iterator[Change]:
    """The settings of `run` that are others in `usual`, in the order of gfl/settings.py, folders left out.

    Example:
        >>> from dataclasses import replace
        >>> list(changed_settings(replace(RunConfig(), batch_size=8), RunConfig()))
        [Change(name='BATCH_SIZE', value=8, usual=16)]
    """
    own_backbone = type(run.detector.backbone)()  # stands for what a backbone of another kind has not
    others = dict(named_settings(own_backbone)) | dict(named_settings(usual))
    for name, value in named_settings(run):
        if value != others[name]:
            yield Change(name, value, others[name])


def named_settings(config: object) -> Iterator[tuple[str, object]]:
    """(name, value) of every setting of a run; of CHECKPOINT the file's name, and no other path."""
    knobs = isinstance(config, (RunConfig, DataConfig, OptimConfig))
    for field in fields(config) if is_dataclass(config) else ():
        value = getattr(config, field.name)
        if is_dataclass(value):
            if field.name == "backbone":  # the one part of several kinds
                yield f"{type(config).__name__}.backbone", type(value).__name__
            yield from named_settings(value)
        elif field.name == "checkpoint" and value is not None:
            yield "CHECKPOINT", PurePath(value).name
        elif field.name not in LEFT_OUT:
            yield field.name.upper() if knobs else f"{type(config).__name__}.{field.name}", value


def usual_settings(environment: Mapping[str, object]) -> tuple[RunConfig, str]:
    """The settings to compare a run with, and their name: the run files of its command if they are the project's own.

    environment: what its env.json says.
    """
    names = [PurePosixPath(name.replace("\\", "/")).name for name in run_files_of(environment)]
    if names and set(names) <= set(run_files()):
        return _read_alone(names), " and ".join(names)
    return read_run([]).run, PAPER


def _read_alone(names: Sequence[str]) -> RunConfig:
    """The project's own run files, without what a command adds; where one asks for CHECKPOINT or data, a word."""
    try:
        return read_run(names).run
    except InputError:
        return read_run(names, [f"{name} = {GIVEN!r}" for name in ("CHECKPOINT", "DATA_ROOT")]).run


def run_files_of(environment: Mapping[str, object]) -> list[str]:
    """The names behind --gin_file in the command of a run."""
    command = environment.get("command")
    words = [word for word in command if isinstance(word, str)] if isinstance(command, list) else []
    following = [after for word, after in pairwise(words) if word == "--gin_file"]
    joined = [word.partition("=")[2] for word in words if word.startswith("--gin_file=")]
    return [*following, *joined]

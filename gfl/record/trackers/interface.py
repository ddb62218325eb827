"""What a tracker is told of a run: its start, its steps, its evaluations, its end.

A tracker may take its time and may raise: `gfl.record.trackers.tracking` calls it in a thread of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from gfl.files import to_json, write_atomic

TRACKED = "trackers.json"  # in a run's folder: the ids under which trackers know the run
TRACKERS_FOLDERS = ("tensorboard", "wandb")  # what trackers write in a run's folder
PROJECT = "gfl"  # where a tracker sorts runs into projects, unless its own environment variable names another

Ended = Literal["finished", "stopped", "failed"]  # as asked, by a signal or Ctrl-C, by an error


class Started(NamedTuple):
    """A run before its next step."""

    folder: Path
    settings: Mapping[str, str]  # 'optim.lr' -> '0.01'
    step: int  # 0, or where the run goes on

    @property
    def name(self) -> str:
        """'r50/2026-03-04_12-00-00', or the last two parts of the folder that was named by hand."""
        return "/".join(self.folder.resolve().parts[-2:])


class Line(NamedTuple):
    """The numbers of a step or an evaluation."""

    step: int  # from 1
    numbers: Mapping[str, float]  # 'train/loss', 'val/AP'


class Tracker(Protocol):
    """The four events, in this order; `steps` and `evaluation` come any number of times."""

    def start(self, run: Started) -> str:
        """Begin, or go on after `run.step`; returns where to look, in words or as a command."""

    def steps(self, lines: Sequence[Line]) -> None:
        """The log's new lines, LOG_EVERY at a time."""

    def evaluation(self, line: Line) -> None:
        """An evaluation of the weights after a step."""

    def end(self, how: Ended) -> None:
        """The run is over; what was kept back is written."""


def flat_settings(config: object, prefix: str = "") -> dict[str, str]:
    """The fields of nested dataclasses, {'optim.lr': '0.01'}."""
    found: dict[str, str] = {}
    if is_dataclass(config):
        for field in fields(config):
            value = getattr(config, field.name)
            if is_dataclass(value):
                found |= flat_settings(value, f"{prefix}{field.name}.")
            else:
                found[prefix + field.name] = str(value)
    return found


def stored_id(folder: Path, tracker: str) -> str | None:
    """The id under which a tracker knows the run in a folder; None where it does not know it yet."""
    try:
        found = json.loads((folder / TRACKED).read_text(encoding="utf-8")).get(tracker)
    except (OSError, ValueError, AttributeError):  # missing, or changed by hand: the run becomes a new one there
        return None
    return found if isinstance(found, str) else None


def store_id(folder: Path, tracker: str, run_id: str) -> None:
    """Keep the id under which a tracker knows the run, for --resume. Raises InputError as `write_atomic`."""
    path = folder / TRACKED
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    write_atomic(path, to_json({**known, tracker: run_id}, indent=2) + "\n")

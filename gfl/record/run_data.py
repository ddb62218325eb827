"""A run's or an evaluation's folder, read again: its settings, data, log, detections and what env.json says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gfl.config import ParsedRun, read_text
from gfl.data.coco import CocoData, read_coco
from gfl.data.coco_json import CocoDetection
from gfl.data.paths import SYNTHETIC, split_paths
from gfl.data.shards.pattern import are_there, images_at
from gfl.errors import InputError, first_line
from gfl.report.coco_eval import COCO_LIMIT
from gfl.settings import DataConfig, RunConfig
from gfl.storage import is_uri


class Splits(NamedTuple):
    """The data of a run; None for what is not there or was not evaluated."""

    train: CocoData | None
    val: CocoData | None


def read_config(folder: Path) -> ParsedRun:
    """The settings of a run's folder; InputError where it has none."""
    path = folder / "config.gin"
    if not path.is_file():
        raise InputError(
            f"got {folder}, which has no config.gin, expected the folder of a run or of an evaluation; give that, or "
            "--annotations, --results and --images"
        )
    try:
        return read_text(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text in UTF-8 ({first_line(error)}), expected the settings that a run wrote; copy it again"
        ) from error


def read_splits(cfg: RunConfig, started_in: Path) -> Splits:
    """The data of a run. Its relative paths begin where it was started, if they lead to anything there."""
    data = data_as_started(cfg.data, started_in)
    train = read_coco(*split_paths(data, "train"), keep_empty=data.keep_empty)
    return Splits(train, read_coco(*split_paths(data, "val"), keep_empty=True) if cfg.eval_every else None)


def data_as_started(cfg: DataConfig, started_in: Path) -> DataConfig:
    """The same data settings with those relative paths made absolute that exist from the folder `started_in`."""

    def found(value: str | None) -> str | None:
        path = started_in / (SYNTHETIC if value == "synthetic" else Path(value or ""))
        if not value or is_uri(value):
            return value
        return str(path) if path.exists() or are_there(images_at(path)) else value

    return replace(
        cfg,
        root=found(cfg.root),
        train_json=found(cfg.train_json),
        train_images=found(cfg.train_images),
        val_json=found(cfg.val_json),
        val_images=found(cfg.val_images),
    )


def started_in(folder: Path) -> Path:
    """Where the run of a folder was started, or last resumed, as its env.json says; else here."""
    environment = read_mapping(folder / "env.json")
    return Path(str(latest(environment).get("folder", ".")))


def resumptions(environment: Mapping[str, object]) -> list[dict[str, object]]:
    """Each time that a run was resumed, as its env.json says: the step, and what was different from its beginning."""
    resumed = environment.get("resumed")
    return [each for each in resumed if isinstance(each, dict)] if isinstance(resumed, list) else []


def latest(environment: Mapping[str, object]) -> dict[str, object]:
    """What an env.json says of the last time that the run was started or resumed."""
    return {**environment, **dict(*resumptions(environment)[-1:])}


def read_log(path: Path) -> list[dict[str, object]]:
    """The lines of a log.jsonl; none where it is missing. A last line that was cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows: list[dict[str, object]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("it is no object with a step")
            rows.append(row)
        except ValueError as error:
            if number < len(lines):
                raise InputError(
                    f"line {number} of {path} is broken ({first_line(error)}); mend or remove it"
                ) from error
    return rows


def read_results(path: Path) -> list[CocoDetection]:
    """COCO results; what is wrong with one of them is told where they are counted."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}), expected COCO results, a JSON list") from error
    if not isinstance(rows, list):
        raise InputError(f"got a JSON {type(rows).__name__} in {path}, expected COCO results, a list of detections")
    return rows


def detection_limit(folder: Path) -> int:
    """The best detections of a picture that counted, as the folder's metrics.json says; else COCO's."""
    limit = read_mapping(folder / "metrics.json").get("max_detections")
    return limit if isinstance(limit, int) and limit > 0 else COCO_LIMIT


def read_mapping(path: Path) -> dict[str, object]:
    """A JSON object, or nothing where there is none: a page or a card does without it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

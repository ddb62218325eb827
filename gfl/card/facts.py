"""What a model card tells: read from a checkpoint, and from what its run left in the folder beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.card.results import Result, find_result
from gfl.engine.checkpoints import TrainedModel, load_trained
from gfl.engine.weights import CheckpointFile, read_checkpoint
from gfl.errors import InputError
from gfl.files import sha256_of
from gfl.record.run_data import read_mapping
from gfl.record.run_folder import ENVIRONMENT
from gfl.runtime.on_torch.digest import digest_of


class DataSet(NamedTuple):
    """A set of pictures."""

    annotations: str  # the path of its file, as the run had it; where the checkpoint does not tell, of its folder
    pictures: int | None  # None where the checkpoint does not tell
    boxes: int | None


class Trained(NamedTuple):
    """How far the training had come."""

    steps: int
    epochs: int  # that were done
    batches: int  # of the next one


class Facts(NamedTuple):
    """Everything that a card is made of."""

    path: Path
    size_bytes: int
    sha256: str  # of the file
    digest: str  # of the weights and settings, as the exports of this checkpoint carry it
    format: int
    version: str | None  # of this project, that wrote the file
    model: TrainedModel
    precision: str | None  # that was computed in
    trained: Trained | None
    averaged: tuple[str, ...]  # the files whose weights `gfl.average` took the mean of
    train: DataSet
    boxes: tuple[int, ...] | None  # of each class, to train on
    val: DataSet | None  # None where the run had none
    result: Result | None
    result_note: str  # why there is no result, or what it lacks; empty where nothing is amiss
    environment: Mapping[str, object]  # env.json; empty where there is none


def read_facts(path: Path, metrics: Path | None = None) -> Facts:
    """Read a checkpoint of this project and what is beside it. metrics: the metrics.json of an evaluation of it.

    Raises InputError for a file that is none, and as `load_trained` and `find_result` do.
    """
    file = read_checkpoint(path)
    if not isinstance(file.extra.get("config"), str):
        raise InputError(
            f"{path} does not say how it was trained, expected the best.pt or last.pt of a run; give one of those"
        )
    model = load_trained(path)
    train, boxes, val = _data(file, model)
    trained = _trained(file)
    result, note = find_result(path.parent, file.extra, trained and trained.steps, metrics)
    precision, version, number = (file.extra.get(name) for name in ("precision", "gfl_version", "format"))
    return Facts(
        path=path,
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        digest=digest_of(model, outputs="detections", precision="fp32"),
        format=number if isinstance(number, int) else 1,
        version=version if isinstance(version, str) else None,
        model=model,
        precision=precision if isinstance(precision, str) else None,
        trained=trained,
        averaged=tuple(_averaged(file)),
        train=train,
        boxes=boxes,
        val=val,
        result=result,
        result_note=note,
        environment=read_mapping(path.parent / ENVIRONMENT),
    )


def _trained(file: CheckpointFile) -> Trained | None:
    cursor = file.extra.get("cursor")
    if not isinstance(cursor, Mapping):
        return None
    steps, epochs, batches = (cursor.get(name) for name in ("step", "epoch", "batch"))
    if not (isinstance(steps, int) and isinstance(epochs, int) and isinstance(batches, int)):
        return None
    return Trained(steps, epochs, batches)


def _averaged(file: CheckpointFile) -> Iterator[str]:
    sources = file.extra.get("averaged_from")
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, Mapping) and isinstance(source.get("file"), str):
            yield source["file"]


def _data(file: CheckpointFile, model: TrainedModel) -> tuple[DataSet, tuple[int, ...] | None, DataSet | None]:
    """The training set, its boxes by class, and the validation set; what the file does not say, as the settings do."""
    data, said = model.run.data, file.extra.get("trained_on")
    boxes = _numbers(said.get("boxes"), len(model.names)) if isinstance(said, Mapping) else None
    train = _data_set(said, sum(boxes)) if isinstance(said, Mapping) and boxes is not None else None
    if not isinstance(said, Mapping) or boxes is None or train is None:
        root = data.root or "not told"
        val = DataSet(data.val_json or root, None, None) if model.run.eval_every else None
        return DataSet(data.train_json or root, None, None), None, val
    val_said = said.get("val")
    return train, boxes, _data_set(val_said, val_said.get("boxes")) if isinstance(val_said, Mapping) else None


def _data_set(said: Mapping[object, object], boxes: object) -> DataSet | None:
    annotations, pictures = said.get("annotations"), said.get("pictures")
    if isinstance(annotations, str) and isinstance(pictures, int) and isinstance(boxes, int):
        return DataSet(annotations, pictures, boxes)
    return None


def _numbers(value: object, count: int) -> tuple[int, ...] | None:
    if not isinstance(value, Sequence) or len(value) != count:
        return None
    numbers = tuple(each for each in value if isinstance(each, int))
    return numbers if len(numbers) == count else None

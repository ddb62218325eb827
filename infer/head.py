"""What results are of: model, pictures and flags. The first line of results.jsonl, and a part of the other formats.

Two runs whose heads agree in COMMON write the same results, on whatever machine: one goes on where the other ended, and
shards that agree are parts of one whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from gfl.files import sha256_of
from gfl.runtime.open import bytes_of, kind_of
from infer.rows import Category

VERSION = 1  # of the lines of results.jsonl


class ShardOf(TypedDict):
    """Which part of the input it is."""

    index: int  # from 1
    count: int


class Head(TypedDict):
    """What results are of."""

    results_version: int
    gfl_version: str
    format: str
    model: str
    model_sha256: str  # of its files
    tta: str | None  # the views, as they were given; None: one plain look
    merge: str | None  # None: one model and one view, and in what versions before wrote
    slice: int | None  # px, of a window's side; None: pictures were looked at whole, as in what versions before wrote
    overlap: float | None
    settings_sha256: str  # of its configuration, which --gin_file and --gin_bindings may change
    input_sha256: str  # of the names, sizes and some content of the whole input, all shards together
    pictures: int  # of this part of the input; 0 where a video does not say
    shard: ShardOf | None
    batch: int
    annotations: str | None
    annotations_sha256: str | None
    score: float | None  # None: each class's own threshold
    min_score: float
    top: int | None
    class_agnostic: bool
    depth: str
    most_pixels: int | None
    track: bool | None  # None: not followed, as in what versions before wrote
    draw: bool
    edges: bool | None  # None: not drawn, as in what versions before wrote
    categories_sha256: str
    categories: list[Category]


# What parts of one whole have in common, and what a message calls it where they do not.
COMMON = {
    "results_version": "another version",
    "model_sha256": "another model",
    "tta": "another --tta",
    "merge": "another --merge",
    "slice": "another --slice",
    "overlap": "another --overlap",
    "settings_sha256": "other settings (--gin_file, --gin_bindings)",
    "input_sha256": "other pictures",
    "format": "another --format",
    "score": "another --score",
    "min_score": "another --min_score",
    "top": "another --top",
    "class_agnostic": "another choice of --class_agnostic",
    "depth": "another --depth",
    "most_pixels": "another --most_pixels",
    "track": "another choice of --track",
    "batch": "another --batch",
    "annotations": "other --annotations",
    "annotations_sha256": "other --annotations",
    "categories_sha256": "other classes",
}
RESUMED = {
    **COMMON,
    "shard": "another --shard",
    "draw": "another choice of --draw",
    "edges": "another choice of --edges",
}


def differences(one: Mapping[str, object], other: Mapping[str, object], keys: Mapping[str, str]) -> Iterator[str]:
    """What the one is of that the other is not, in words; a key that both lack is the same."""
    return (what for key, what in keys.items() if one.get(key) != other.get(key))


def unique_categories(
    category_ids: Sequence[int | None], names: Sequence[str], thresholds: Sequence[float]
) -> list[Category]:
    """The categories that results have, in the order of the labels: a class without an id has none.

    Where several classes stand for one category, it has the name of the first and the least of their thresholds.
    """
    found: dict[int, Category] = {}
    for category_id, name, threshold in zip(category_ids, names, thresholds, strict=True):
        if category_id is None:
            continue
        known = found.setdefault(category_id, {"id": category_id, "name": name, "score_threshold": threshold})
        known["score_threshold"] = min(known["score_threshold"], threshold)
    return list(found.values())


def text_digest(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def model_digest(*paths: Path) -> str:
    """sha256 of a model's file, or of its files in a folder by name; of several models, one after the other."""
    return sha256_of(*(file for path in paths for file in bytes_of(path, kind_of(path))))

"""The formats of results: what is made of results.jsonl when a run has come to its end, and read again by a merge.

json: detections.json, a list of COCO results, one a line; images.json, an object of what the results are of, with the
categories and all images, one a line, those without detections and those that failed too. jsonl: results.jsonl itself
(`rows.py`). parquet: `parquet.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import cast

from gfl.data.coco_json import CocoDetection
from gfl.errors import InputError
from gfl.files import atomic_file, to_json
from infer.head import Head
from infer.journal import read_rows
from infer.output_folder import DETECTIONS, IMAGES, JOURNAL
from infer.parquet import check_parquet, read_parquet, read_parquet_head, write_parquet
from infer.rows import Detection, Row, coco_lines

FORMATS = {"json": (DETECTIONS, IMAGES), "jsonl": (JOURNAL,), "parquet": ("results-00001.parquet",)}  # what is there


def check_format(name: str) -> None:
    """InputError where a package is missing that the format needs."""
    if name == "parquet":
        check_parquet()


def write_results(name: str, head: Head, rows: Iterable[Row], folder: Path) -> list[str]:
    """Make the files of a format from those of results.jsonl; their names. Each is whole or not there.

    Raises InputError where one cannot be written.
    """
    if name == "json":
        write_json(head, rows, folder)
        return [DETECTIONS, IMAGES]
    return write_parquet(head, rows, folder) if name == "parquet" else [JOURNAL]


def read_results(name: str, folder: Path) -> Iterator[Row]:
    """The pictures of a folder that holds a whole run; InputError where they are damaged."""
    if name == "json":
        return read_json(folder)
    return read_parquet(folder) if name == "parquet" else read_rows(folder / JOURNAL)


def read_head(name: str, folder: Path) -> Mapping[str, object]:
    """What the results of a folder are of; InputError where they do not say so."""
    try:
        if name == "parquet":
            return read_parquet_head(folder)
        with open(folder / (IMAGES if name == "json" else JOURNAL), "rb") as file:
            line = file.readline().strip()
        head: Mapping[str, object] = json.loads(line.removesuffix(b', "images": [') + b"}" if name == "json" else line)
        if "categories" in head:
            return head
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder} cannot be read ({error}), expected results of infer; run the shard again"
        ) from error
    raise InputError(f"{folder} does not say what its results are of, expected those of infer; run the shard again")


def write_json(head: Head, rows: Iterable[Row], folder: Path) -> None:
    """detections.json and images.json."""
    with atomic_file(folder / DETECTIONS) as detections, atomic_file(folder / IMAGES) as images:
        images.write(_encoded(to_json(head)[:-1] + ', "images": ['))
        images_start, detections_start = b"\n", b"[\n"
        for row in rows:
            lines = coco_lines(row)
            if lines:
                detections.write(detections_start + b",\n".join(lines))
                detections_start = b",\n"
            image = {key: value for key, value in row.items() if key != "detections"}
            images.write(images_start + _encoded(to_json(image)))
            images_start = b",\n"
        images.write(b"\n]}\n")
        detections.write(b"\n]\n" if detections_start != b"[\n" else b"[]\n")


def read_json(folder: Path) -> Iterator[Row]:
    """The pictures of images.json with their detections.

    Raises InputError where the two files do not belong together.
    """
    images, detections = folder / IMAGES, folder / DETECTIONS
    try:
        expected = sum(image["count"] for image in cast(Iterator[Row], objects(images)))
        held = sum(1 for _ in objects(detections))
        if held != expected:
            raise InputError(f"{detections} has {held} detections, {IMAGES} beside it says {expected}; run it again")
        entries = cast(Iterator[CocoDetection], objects(detections))
        for image in cast(Iterator[Row], objects(images)):
            found = list(islice(entries, image["count"]))
            if any(entry["image_id"] != image["id"] for entry in found):
                raise InputError(f"{detections} lacks detections of {image['file']}; run it again")
            keys = ("category_id", "bbox", "score", "track_id")
            kept = [cast(Detection, {key: each for key, each in entry.items() if key in keys}) for entry in found]
            yield {**image, "detections": kept}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{detections} and {IMAGES} cannot be read ({error!r}), expected those of infer/run.py; run it again"
        ) from error


def objects(path: Path) -> Iterator[dict[str, object]]:
    """The entries of a list that `write_json` wrote, one a line, after the line that begins the list."""
    with open(path, "rb") as file:
        next(file, None)
        for line in file:
            text = line.strip().removesuffix(b",")
            if text.startswith(b"{"):
                yield json.loads(text)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # names of files that are not Unicode hold lone surrogates

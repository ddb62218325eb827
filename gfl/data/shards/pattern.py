"""Which shards a text names: `data/train-{000..099}.tar`, `data/*.parquet`, `s3://bucket/train-*.tar`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from gfl.errors import InputError
from gfl.storage import file_system, is_uri, storage_told

TAR, PARQUET = ".tar", ".parquet"
LOOKS_LIKE_SHARDS = re.compile(r"\.(tar|tgz|parquet)(\.\w+)?$")
NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
ASKED_AT_ONCE = 16  # shards about whose size a storage is asked at the same time
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified")  # what tells a file from one written later


@dataclass(frozen=True)
class Shards:
    """Pictures in shards: a path or URI with `{000..099}` or `*` in it, or that of one shard."""

    pattern: str

    def __post_init__(self) -> None:
        if not self.pattern.endswith((TAR, PARQUET)):
            raise InputError(
                f"got {self.pattern} for pictures, expected a folder, or shards whose names end in {TAR} (not "
                f"compressed: pictures are read in any order) or {PARQUET}; unpack it, or name such files"
            )

    def __str__(self) -> str:
        return self.pattern


Images: TypeAlias = Path | Shards  # where the pictures of an annotation file are


def images_at(text: str | Images) -> Images:
    """A folder of pictures, or shards. A leading ~ is the home folder. Raises InputError for other URIs."""
    if isinstance(text, Shards):
        return text
    folder = Path(text).expanduser()
    if is_uri(str(text)) or (LOOKS_LIKE_SHARDS.search(str(text)) and not folder.is_dir()):
        return Shards(str(text))
    return folder


class Shard(NamedTuple):
    """One shard."""

    path: str  # or URI
    size: int  # bytes
    version: str  # another one when it is written anew


def shards_of(shards: Shards) -> list[Shard]:
    """The shards, in order of their names. Raises InputError where there is none, or one of `{000..099}` is missing."""
    storage, _ = file_system(shards.pattern)
    names = list(expanded(shards.pattern))
    with storage_told(shards.pattern):
        if len(names) > 1 or not any(character in names[0] for character in "*?["):
            with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
                found = list(pool.map(_facts, names))
        else:
            paths = storage.glob(file_system(names[0])[1], detail=True)
            name_of = storage.unstrip_protocol if is_uri(shards.pattern) else str
            files = sorted((path, facts) for path, facts in paths.items() if facts["type"] == "file")
            found = [_shard(name_of(path), facts) for path, facts in files]
    if not found:
        raise InputError(f"no file is named {shards.pattern}, expected at least one shard; check the name")
    return found


def shard_in(folder: Path, number: int, name: str | None = None) -> Path:
    """The path of a shard that `gfl.data shards` writes into a folder; name: of the folder, if not the one it has."""
    return folder / f"{name or folder.name}-{number:06d}{TAR}"


def are_there(images: Images) -> bool:
    """Whether a folder, or at least one of the shards, exists."""
    if isinstance(images, Path):
        return images.is_dir()
    try:
        return bool(shards_of(images))
    except InputError:
        return False


def expanded(pattern: str) -> Iterator[str]:
    """The names that `{000..099}` stands for: its numbers, with the zeros of the first."""
    numbers = NUMBERS.search(pattern)
    if numbers is None:
        yield pattern
        return
    first, last = numbers.groups()
    for number in range(int(first), int(last) + 1):
        rest = expanded(pattern[numbers.end() :])
        yield from (f"{pattern[: numbers.start()]}{number:0{len(first)}d}{end}" for end in rest)


def _facts(name: str) -> Shard:
    storage, path = file_system(name)
    with storage_told(name):
        return _shard(name, storage.info(path))


def _shard(name: str, facts: Mapping[str, object]) -> Shard:
    version = next((str(facts[key]) for key in VERSIONS if facts.get(key) is not None), "")
    return Shard(name, int(str(facts["size"])), version)

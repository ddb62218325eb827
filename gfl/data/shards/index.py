"""Where each picture of a data set lies in shards: an index of flat arrays, made once a host from the shards' headers.

It costs 36 bytes a file in the shards and no Python object. It lies in a folder of the cache that is named by the
shards, their sizes and the times of their writing. Letters: M files in shards, P pictures of an annotation file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.host_cache import cached
from gfl.data.lazy import Lazy
from gfl.data.shards.member import NOWHERE, Member
from gfl.data.shards.parquet import parquet_rows
from gfl.data.shards.pattern import PARQUET, Shard, Shards, shards_of
from gfl.data.shards.tar import tar_members
from gfl.errors import InputError
from gfl.say import say
from gfl.storage import is_uri

VERSION = 1  # of the arrays; another one is made anew
READ_AT_ONCE = 16  # shards: on a network their answers are waited for
MANY = 20  # shards whose reading takes long enough to say so
EXAMPLE = "example.json"  # the name of the first file

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]


class ShardIndex(NamedTuple):
    """What the shards hold. A name's key is 64 bits of its hash: among ten million two agree once in 300,000 sets."""

    shards: tuple[str, ...]  # paths or URIs
    example: str
    shard: NDArray[np.int32]  # (M,) its number
    place: Ints  # (M,2) as `begin` and `extent` of a Member
    keys: Keys  # (M,) of the names
    bare: Keys  # (M,) of the names without folders


ARRAYS = ("shard", "place", "keys", "bare")


class Members(Lazy[Member]):
    """The pictures of an annotation file in shards."""

    def __init__(self, shards: Shards, index: ShardIndex, names: Sequence[str], rows: Ints) -> None:
        """rows: (P,) places in the index, NOWHERE for pictures that no shard has."""
        self.shards, self._index, self._names, self._rows = shards, index, names, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def is_near(self) -> bool:
        """Whether a picture costs no more than its own bytes, read from this machine."""
        return not is_uri(self.shards.pattern) and not self.shards.pattern.endswith(PARQUET)

    def make(self, at: int) -> Member:
        row = int(self._rows[at])
        if row == NOWHERE:
            return Member(self._names[at], self.shards.pattern, NOWHERE, 0)
        index = self._index
        return Member(self._names[at], index.shards[index.shard[row]], *index.place[row].tolist())


def find_members(file: Path, shards: Shards, names: Sequence[str]) -> tuple[Members, str]:
    """Each picture of the annotation file in the shards, and a note where folders in their names were passed over.

    Raises InputError where the shards have none of the pictures, or one of them twice, and as `shards_of`.
    """
    index = open_index(shards)
    rows, doubled = _find(index.keys, keys_of(names))
    if len(doubled):
        at = int(doubled[0])
        these = index.shard[index.keys == keys_of([names[at]])[0]][:2].tolist()
        raise InputError(
            f"{names[at]} is in {' and in '.join(index.shards[each] for each in these)} ({len(doubled):,} pictures of "
            f"{file} are in the shards twice), expected each picture once; leave one of them out"
        )
    note = ""
    if (rows == NOWHERE).any():
        wanted = keys_of(names, bare=True)
        of_bare, doubled = _find(index.bare, wanted)
        if not len(doubled) and len(np.unique(wanted)) == len(wanted) and (of_bare >= 0).sum() > (rows >= 0).sum():
            rows, note = of_bare, f"the pictures of {file} were found in {shards} by their names without folders"
    if len(names) and not (rows != NOWHERE).any():
        raise InputError(
            f"{shards}: holds none of the {len(names):,} pictures of {file} (e.g. {names[0]}) but {len(index.keys):,} "
            f"other files (e.g. {index.example}), expected the names of the annotations; pass the shards that have them"
        )
    return Members(shards, index, names, rows), note


def keys_of(names: Sequence[str], *, bare: bool = False) -> Keys:
    """(P,) of the names, with slashes between folders; bare: of the names without their folders."""
    slashed = (name.replace("\\", "/") for name in names)
    texts = (name.rpartition("/")[2] if bare else name.removeprefix("./") for name in slashed)
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.fromiter((int.from_bytes(digest, "little") for digest in digests), np.uint64, len(names))


def _find(keys: Keys, wanted: Keys) -> tuple[Ints, Ints]:
    """(P,) the first place of each wanted key, NOWHERE where it is not there; and which of the wanted come twice."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first, after = (np.searchsorted(ordered, wanted, side) for side in ("left", "right"))
    rows = np.full(len(wanted), NOWHERE)
    rows[after > first] = order[first[after > first]]
    return rows, np.flatnonzero(after - first > 1)


def open_index(shards: Shards) -> ShardIndex:
    """The index of the shards, from the cache or made now. Raises InputError where a shard cannot be read."""
    listed = shards_of(shards)
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:40]
    return cached(f"shards/{digest}-{VERSION}", partial(_fill, listed), partial(_load, listed))


def _fill(shards: Sequence[Shard], folder: Path) -> None:
    if len(shards) > MANY:
        say(f"reading the headers of {len(shards):,} shards, this once")
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        parts = list(pool.map(_read_shard, [shard.path for shard in shards]))
    example = next((part[0] for part in parts if part[0]), None)
    if example is None:
        raise InputError(
            f"{shards[0].path}{' and the other shards' if shards[1:] else ''}: no files in it, expected pictures"
        )
    (folder / EXAMPLE).write_text(json.dumps(example), encoding="utf-8")
    number = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part[1]) for part in parts])
    arrays = (number, *(np.concatenate([part[column] for part in parts]) for column in (1, 2, 3)))
    for name, array in zip(ARRAYS, arrays, strict=True):
        np.save(folder / f"{name}.npy", array)


def _read_shard(path: str) -> tuple[str, Ints, Keys, Keys]:
    """The first name, the places, and the keys with and without folders."""
    rows = list(parquet_rows(path) if path.endswith(PARQUET) else tar_members(path))
    names = [name for name, *_ in rows]
    places = np.array([place for _, *place in rows], np.int64).reshape(-1, 2)
    return next(iter(names), ""), places, keys_of(names), keys_of(names, bare=True)


def _load(shards: Sequence[Shard], folder: Path) -> ShardIndex:
    example = json.loads((folder / EXAMPLE).read_text(encoding="utf-8"))
    arrays = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
    return ShardIndex(tuple(shard.path for shard in shards), example, *arrays)

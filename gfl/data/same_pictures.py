"""Files with the same content in two lists, found without reading all of them: those of a size of their own are not."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gfl.data.picture_files import PictureFile, open_file, stored_bytes
from gfl.errors import InputError
from gfl.machine import usable_cores

CHUNK = 2**20  # bytes read at once


def same_pictures(first: Sequence[PictureFile], second: Sequence[PictureFile]) -> list[tuple[PictureFile, PictureFile]]:
    """Pairs of files, one of each list, whose bytes are equal, in the order of the first list and then the second.

    Only files whose size is in both lists are read. What is missing or cannot be read is in no pair, and so are empty
    files, which are no pictures. A path that a list names twice counts once.
    """
    first, second = list(dict.fromkeys(first)), list(dict.fromkeys(second))
    with ThreadPoolExecutor(usable_cores()) as pool:
        sizes = dict(zip([*first, *second], pool.map(stored_bytes, [*first, *second]), strict=True))
        shared = ({sizes[path] for path in first} & {sizes[path] for path in second}) - {0}
        wanted = list(dict.fromkeys(path for path in (*first, *second) if sizes[path] in shared))
        digests = dict(zip(wanted, pool.map(_digest, wanted), strict=True))
    of_digest: dict[bytes, list[PictureFile]] = defaultdict(list)
    for path in second:
        digest = digests.get(path)
        if digest is not None:
            of_digest[digest].append(path)
    return [(path, other) for path in first for other in of_digest.get(digests.get(path) or b"", [])]


def same_names_and_pictures(
    first: Sequence[PictureFile], second: Sequence[PictureFile]
) -> list[tuple[PictureFile, PictureFile]]:
    """As `same_pictures`, of files that have the same name too: no other file is looked at, so sets of any size do."""
    fewer, more = sorted((first, second), key=len)
    names = {path.name for path in fewer}
    names &= {path.name for path in more if path.name in names}
    return same_pictures(*([path for path in paths if path.name in names] for paths in (first, second)))


def _digest(path: PictureFile) -> bytes | None:
    """The hash of a file's content; None where it cannot be read."""
    digest = hashlib.blake2b(digest_size=20)
    try:
        with open_file(path) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except (OSError, InputError):
        return None
    return digest.digest()

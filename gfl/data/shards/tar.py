"""Pictures in .tar files, as WebDataset writes them: where each lies, and its bytes."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from gfl.errors import InputError, first_line
from gfl.storage import file_system, storage_told

READ_AHEAD = 2**16  # bytes read from a storage at once while headers are looked for: small pictures lie between them


def tar_members(shard: str) -> Iterator[tuple[str, int, int]]:
    """The name of each file in a .tar, where its bytes begin, and how many they are; contents are passed over.

    Raises InputError where the archive is cut off, compressed, or none.
    """
    storage, path = file_system(shard)
    with storage_told(shard), storage.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                while member := archive.next():
                    archive.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
                    if member.isreg() and not member.issparse():
                        yield member.name, member.offset_data, member.size
        except tarfile.TarError as error:
            raise InputError(
                f"got {shard}, which cannot be read as a .tar ({first_line(error)}), expected a whole archive that is "
                "not compressed; write or copy it again"
            ) from error


def read_tar_member(shard: str, begin: int, size: int) -> bytes:
    """The bytes of a file in a .tar. Raises InputError where a storage gives fewer, or more."""
    storage, path = file_system(shard)
    with storage_told(shard):
        content = storage.cat_file(path, start=begin, end=begin + size)
    if len(content) != size:
        raise InputError(
            f"got {len(content):,} bytes from byte {begin:,} of {shard} on, expected {size:,} of a whole shard, on a "
            "storage that gives parts of files; copy it again"
        )
    return content

"""A picture in a shard, which stands where the path of a picture's file does."""

from __future__ import annotations

from dataclasses import dataclass

from gfl.data.shards.parquet import read_parquet_row
from gfl.data.shards.pattern import PARQUET
from gfl.data.shards.tar import read_tar_member
from gfl.errors import InputError
from gfl.storage import is_uri

NOWHERE = -1


@dataclass(frozen=True)
class Member:
    """One picture in one shard."""

    inside: str  # its name, as the annotation file has it
    shard: str  # path or URI; of a picture that is in none, all of them
    begin: int  # .tar: where its bytes begin; .parquet: its row group; NOWHERE where it is in no shard
    extent: int  # .tar: how many bytes; .parquet: its row in the group

    def __str__(self) -> str:
        return f"{self.inside} in {self.shard}"

    @property
    def name(self) -> str:
        """Without folders."""
        return self.inside.replace("\\", "/").rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether a shard has it."""
        return self.begin != NOWHERE

    def is_far(self) -> bool:
        """Whether its bytes are waited for, and those of several at once no longer than those of one."""
        return self.is_file() and is_uri(self.shard) and not self.shard.endswith(PARQUET)

    def size(self) -> int:
        """Bytes; 0 where that is not known before it is read."""
        return self.extent if self.is_file() and not self.shard.endswith(PARQUET) else 0

    def read(self) -> bytes:
        """Its bytes; InputError where it cannot be read."""
        if not self.is_file():
            raise InputError(
                f"got no picture {self.inside} in the shards {self.shard}, expected one of that name; add it, or "
                "remove it from the annotations"
            )
        read = read_parquet_row if self.shard.endswith(PARQUET) else read_tar_member
        return read(self.shard, self.begin, self.extent)

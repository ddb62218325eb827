"""Sequences whose entries are made when they are asked for: those of millions of pictures take gigabytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

Entry = TypeVar("Entry")


class Lazy(Sequence[Entry]):
    """A sequence by its length and by how the entry at a place is made; a slice is made at once."""

    @abstractmethod
    def make(self, at: int) -> Entry:
        """The entry at a place from 0 to below the length."""

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, at: int | slice) -> Entry | tuple[Entry, ...]:
        if isinstance(at, slice):
            return tuple(map(self.make, range(len(self))[at]))
        return self.make(range(len(self))[at])

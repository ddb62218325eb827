"""Sequences whose entries are made when they are asked for: those of millions of pictures take gigabytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Entry = TypeVar("Entry", covariant=True)
Places = Sequence[int] | NDArray[np.int64]


class Lazy(Sequence[Entry]):
    """A sequence by its length and by how the entry at a place is made; a slice makes none either."""

    @abstractmethod
    def make(self, at: int) -> Entry:
        """The entry at a place from 0 to below the length."""

    def pick(self, places: range) -> Sequence[Entry]:
        """The entries at some places."""
        return Picked(self, places)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(at, slice):
            return self.pick(range(len(self))[at])
        return self.make(range(len(self))[at])


class Picked(Lazy[Entry], Generic[Entry]):
    """The entries of a sequence at some places, in their order."""

    def __init__(self, entries: Sequence[Entry], places: Places) -> None:
        self._entries, self._places = entries, places

    def __len__(self) -> int:
        return len(self._places)

    def make(self, at: int) -> Entry:
        return self._entries[int(self._places[at])]

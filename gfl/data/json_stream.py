"""The lists of a large annotation file, some rows at a time: a whole tree of Python objects takes six times the file.

The file is an object whose lists are read in its own order; other values are passed over. The decoder is Python's own.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

READ_BYTES = 2**24  # at a time
END_SEARCHED = 2**16  # characters of a window's end in which an entry ends, most likely
_NEXT_OBJECT = re.compile(r"\}[ \t\n\r]*,[ \t\n\r]*\{").finditer
_NO_SPACE = re.compile(r"[^ \t\n\r]").search


class _Text:
    """A window that moves over the text of a file."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._decode = stream, codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self._one_by_one = False

    def more(self) -> bool:
        """Read on; whether there was anything."""
        if self._ended:
            return False
        chunk = self._stream.read(READ_BYTES)
        self._ended = not chunk
        self._text, self._at = self._text[self._at :] + self._decode(chunk, final=self._ended), 0
        self._one_by_one = False
        return not self._ended

    def next_sign(self) -> str:
        """The next character that is no space, which is not passed over; empty at the end of the file."""
        while True:
            found = _NO_SPACE(self._text, self._at)
            if found is not None:
                self._at = found.start()
                return found[0]
            self._at = len(self._text)
            if not self.more():
                return ""

    def take(self, sign: str) -> None:
        """Pass over this character; ValueError where another one stands there."""
        if self.next_sign() != sign:
            raise ValueError(f"expected {sign!r}")
        self._at += 1

    def goes_on(self, end: str) -> bool:
        """Pass over a comma, where there is one; ValueError where nothing follows it but the end."""
        if self.next_sign() != ",":
            return False
        self.take(",")
        if self.next_sign() == end:
            raise ValueError(f"expected something before {end!r}")
        return True

    def value(self) -> object:
        """The next value; ValueError where there is none."""
        self.next_sign()
        while True:
            try:
                found, end = self._scan(self._text, self._at)
            except json.JSONDecodeError:
                if not self.more():
                    raise
                continue
            if end == len(self._text) and self.more():  # a number may go on
                continue
            self._at = end
            return found

    def entries(self) -> list[object]:
        """The entries of a list that the window holds whole, but for the last of them, passed over at once.

        Their end is taken to be the last "}, {" of the window. Where that is within an entry, in a text, or in the list
        after this one, what stands before it is no JSON, and there is none: entries are then read one at a time.
        """
        if self._one_by_one:
            return []
        self._one_by_one = True  # until there is more
        ends = list(_NEXT_OBJECT(self._text, max(self._at, len(self._text) - END_SEARCHED)))
        if not ends:
            return []
        try:
            found: list[object] = json.loads(f"[{self._text[self._at : ends[-1].start() + 1]}]")
        except json.JSONDecodeError:
            return []
        self._at = ends[-1].end() - 1
        return found


def rows_of_lists(path: Path, keys: tuple[str, ...], most: int) -> Iterator[tuple[str, list[object]]]:
    """(key, no rows) where one of the lists under these keys begins, then (key, at most `most` rows) until it ends.

    Raises ValueError where the file is no JSON object, or one of the keys holds no list; OSError as reading does.
    """
    with open(path, "rb") as stream:
        text = _Text(stream)
        text.take("{")
        while text.next_sign() != "}":
            key = text.value()
            text.take(":")
            if isinstance(key, str) and key in keys:
                yield key, []
                yield from ((key, rows) for rows in _rows(text, most))
            else:
                text.value()
            if not text.goes_on("}"):
                break
        text.take("}")
        if text.next_sign():
            raise ValueError("expected the end of the file")


def _rows(text: _Text, most: int) -> Iterator[list[object]]:
    text.take("[")
    rows: list[object] = []
    while text.next_sign() != "]":
        rows += text.entries()
        rows.append(text.value())
        while len(rows) >= most:
            yield rows[:most]
            rows = rows[most:]
        if not text.goes_on("]"):
            break
    text.take("]")
    if rows:
        yield rows

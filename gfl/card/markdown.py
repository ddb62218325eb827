"""Texts of anybody's making as Markdown: names of classes and files may hold its signs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from gfl.words import printable

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")  # signs of Markdown within a line; $ begins a formula
HOME = re.compile(r"^(?:/home/[^/]+|/Users/[^/]+|/root|[A-Za-z]:/Users/[^/]+)/|^[A-Za-z]:/|^/|^~/")
SHOWN_PARTS = 3  # of a path


def plain(text: str) -> str:
    r"""A text as it is within a line.

    Example:
        >>> print(plain("a_b|c"))
        a\_b\|c
    """
    return SPECIAL.sub(r"\\\1", printable(text))


def code(value: object) -> str:
    """A setting's value; in a table even code must not hold a bar, nor code a backquote.

    Example:
        >>> code("a|b")
        "`'a¦b'`"
    """
    return f"`{printable(repr(value)).replace('|', '¦').replace('`', chr(39))}`"


def table(rows: Sequence[Sequence[str]], *, texts: Sequence[int] = ()) -> Iterator[str]:
    """A table; the first row is its header. Every column but the first and those of `texts` is flush right."""
    header, *others = (f"| {' | '.join(row)} |" for row in rows)
    yield header
    yield "|" + "".join("---:|" if column and column not in texts else "---|" for column in range(len(rows[0])))
    yield from others


def shown_path(path: str) -> str:
    """The end of a path of any system, without whose home it was in.

    Example:
        >>> shown_path("/data/sets/coco/annotations/instances_train2017.json")
        'coco/annotations/instances_train2017.json'
        >>> shown_path("/home/me/val.json")
        'val.json'
    """
    within = HOME.sub("", path.replace("\\", "/"))
    return "/".join(PurePosixPath(within).parts[-SHOWN_PARTS:])


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return PurePosixPath(path.replace("\\", "/")).name

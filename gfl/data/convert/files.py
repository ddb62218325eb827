"""Reads the files of annotation tools; a file that is not what it should be is told in one sentence."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from xml.parsers import expat

from gfl.data.convert.source import Notes, note
from gfl.data.values import number
from gfl.errors import InputError, first_line


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises InputError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a file; check the path") from None


def read_text(path: Path) -> str:
    """A text file: UTF-8, with or without its mark, else Latin-1, as Windows' tools write."""
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_json(path: Path) -> object:
    """The value of a JSON file. Raises InputError where it is none."""
    try:
        value: object = json.loads(read_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({first_line(error)}), expected an export; export it again") from None
    return value


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises InputError where it is none, or declares a document type.

    A document type may define entities, which expand without bounds or name other files; no tool writes one.
    """
    data = read_bytes(path)
    try:
        _refuse_document_type(data, path)
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, expat.ExpatError, LookupError, ValueError) as error:
        raise InputError(f"{path}: not XML ({first_line(error)}), expected annotations; export it again") from None


class _RootReached(Exception):  # noqa: N818  # it is no error: what was looked for can come no more
    pass


def _refuse_document_type(data: bytes, path: Path) -> None:
    def refuse(*_: object) -> None:
        raise InputError(f"{path}: declares a document type, which no annotation tool writes; remove its <!DOCTYPE>")

    def stop(*_: object) -> None:
        raise _RootReached

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = stop  # a document type stands before the root, or nowhere
    try:
        parser.Parse(data, True)
    except _RootReached:
        return


def mapping(value: object) -> dict[str, object]:
    """A JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[object]:
    """A JSON list, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def entries(value: object, notes: Notes, where: str) -> list[dict[str, object]]:
    """The objects of a JSON list; entries that are none are noted."""
    for entry in sequence(value):
        if not isinstance(entry, dict):
            note(notes, "entries that are no JSON object, left out", where)
    return [entry for entry in sequence(value) if isinstance(entry, dict)]


def numbers(values: Iterable[object]) -> list[float]:
    """Finite numbers, or texts that are. Raises ValueError for anything else."""
    return [number(value) for value in values]


def points(value: object) -> list[tuple[float, float]]:
    """[[x, y], ...] -> points. Raises ValueError for anything else."""
    pairs = [numbers(sequence(pair)) for pair in sequence(value)]
    return [(x, y) for x, y in pairs]


def stated_size(height: object, width: object) -> tuple[int, int] | None:
    """A stated height and width in px; None where one of them is no positive number."""
    try:
        size = round(number(height)), round(number(width))
    except (ValueError, TypeError):
        return None
    return size if min(size) > 0 else None


def only_file(source: Path, patterns: Iterable[str], what: str) -> Path:
    """`source` itself where it is a file, else the one file in it that has the first pattern which any has.

    Raises InputError where there is none, or more than one.
    """
    if source.is_file():
        return source
    for pattern in patterns:
        found = sorted(source.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:3])
            raise InputError(f"{source}: got {len(found)} files ({names}), expected {what}; give one of them as SOURCE")
        if found:
            return found[0]
    raise InputError(f"{source}: got no {what} in it, expected one; give the folder of an export, or the file itself")

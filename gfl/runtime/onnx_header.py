"""What an .onnx says of itself, read before ONNX Runtime opens it, and that it holds all of its weights.

A walk over the fields of the protobuf that skips the weights: a file of 300 MB takes milliseconds, and neither onnx nor
protobuf need be installed. ONNX Runtime would read weights from any file of the machine that a model names.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # wire types of protobuf
LAST_TAG = 2**32

# Numbers of the fields that lead from a model to all its tensors (onnx.proto), and what each of them holds.
MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, TRAINING, FUNCTION = range(8)
INSIDE = {
    MODEL: {7: GRAPH, 20: TRAINING, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    TENSOR: {},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TRAINING: {1: GRAPH, 2: GRAPH},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
}
METADATA = 14  # of a model: entries of a key and a value
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # of a tensor


class Field(NamedTuple):
    """A field of a message: its number, and where its bytes are, or its value for a whole number."""

    number: int
    wire_type: int
    start: int
    end: int
    value: int


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of an .onnx; InputError for one that is damaged or takes weights from other files."""
    try:
        with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check_tensors(data, path)
            entries = [field for field in _fields(data, 0, len(data)) if field.number == METADATA]
            return dict(_entry(data, field) for field in entries)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}), expected an .onnx; check the file") from error
    except (ValueError, IndexError) as error:  # of an empty file too
        raise InputError(f"{path} cannot be read as an .onnx ({error}); export or copy it again") from error


def _check_tensors(data: mmap.mmap, path: Path) -> None:
    """Refuse a tensor whose data lie in another file."""
    waiting = [(MODEL, 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        inside = INSIDE[kind]
        for field in _fields(data, start, end):
            if field.number in inside:
                if field.wire_type != BYTES:
                    raise ValueError(f"field {field.number} has wire type {field.wire_type}")
                waiting.append((inside[field.number], field.start, field.end))
            elif kind == TENSOR and (
                field.number == EXTERNAL_DATA or (field.number == DATA_LOCATION and field.value != 0)
            ):
                raise InputError(
                    f"{path} takes weights from another file, expected all inside, as `python -m export.onnx` writes "
                    "them; export it again from its checkpoint"
                )


def _entry(data: mmap.mmap, field: Field) -> tuple[str, str]:
    """The key and the value of an entry of the metadata."""
    texts = {part.number: data[part.start : part.end].decode("utf-8") for part in _fields(data, field.start, field.end)}
    return texts.get(1, ""), texts.get(2, "")


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in data[start:end], in order; ValueError where it is none."""
    while start < end:
        tag, start = (data[start], start + 1) if data[start] < 0x80 else _varint(data, start, end)
        number, wire_type, value = tag >> 3, tag & 7, 0
        if wire_type == BYTES and start < end:
            length, start = (data[start], start + 1) if data[start] < 0x80 else _varint(data, start, end)
            stop = start + length
        elif wire_type == VARINT:
            value, stop = _varint(data, start, end)
        elif wire_type in (FIXED_32, FIXED_64):
            stop = start + (4 if wire_type == FIXED_32 else 8)
        else:
            raise ValueError(f"wire type {wire_type} at byte {start}")
        if stop > end or number == 0 or tag >= LAST_TAG:
            raise ValueError(f"a field that ends beyond its message at byte {start}")
        yield Field(number, wire_type, start, stop, value)
        start = stop


def _varint(data: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, the lowest first, and where the next field begins."""
    value = shift = 0
    while start < end and shift < 70:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start += 1
        if byte < 0x80:
            return value, start
        shift += 7
    raise ValueError(f"a number that does not end at byte {start}")

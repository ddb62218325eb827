"""Reads what torch.save wrote without running anything in it: tensors and plain values, or a sentence about the rest.

PyTorch's own weights-only reader runs no code. What it leaves open is looked at here: files that unpack to far more
than they hold, and why a file was refused, which PyTorch says in a page or not at all.
"""

from __future__ import annotations

import encodings
import encodings.aliases
import pickletools
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from gfl.errors import InputError

# What a file holds may be so many times its size, and so much more. PyTorch does not compress, and a checkpoint that
# somebody compressed, whose momentum is still zero, shrinks to a third; deflate alone reaches a thousand.
MOST_TIMES = 10
MOST_MORE = 64 * 2**20

PLAIN = ("torch", "collections", "_codecs", "builtins", "__builtin__", "protocol")  # what plain checkpoints name
PROTOCOL = 2  # of pickle, as torch.save writes it
ZIP = b"PK\x03\x04"  # how PyTorch tells an archive
BOMBS = ("builtins bytearray", "__builtin__ bytearray")  # of any size from a few bytes; no weights are saved as one
ENCODE = "_codecs encode"  # how pickle spells bytes, by way of latin1
# Of bytes to bytes: each call doubles what the one before it gave. PyTorch's reader lets a file name any of them.
GROWING = ("hex_codec", "base64_codec", "uu_codec", "quopri_codec", "bz2_codec", "zlib_codec")
LEGACY_PICKLES = 5  # in a file from before PyTorch 1.6: magic number, version, system, the contents, names of storages


def read_torch_file(path: Path, expected: str) -> object:
    """The contents of a .pt or .pth, its tensors on the CPU. Nothing in the file is executed.

    expected: what the caller wants, for the message. Raises InputError for a file that cannot be opened, is damaged,
    holds objects other than tensors and plain values, or unpacks to far more than its size.
    """
    try:
        with open(path, "rb") as stream:
            return load_plain(stream, f"checkpoint {path}", expected)
    except OSError as error:
        raise InputError(
            f"checkpoint {path} cannot be opened ({error.strerror}): expected a file you may read"
        ) from error


def load_plain(stream: IO[bytes], source: str, expected: str) -> object:
    """The same of an open file; source: what to call it."""
    size = stream.seek(0, 2)
    limit = MOST_TIMES * size + MOST_MORE
    stream.seek(0)
    zipped = stream.read(len(ZIP)) == ZIP
    try:
        globals_named = set(_globals_in_archive(stream, source, limit) if zipped else _globals_in_legacy(stream))
    except InputError:
        raise
    except Exception as error:  # zipfile's and pickletools' own are many; what they cannot read is not looked at
        raise InputError(_damaged(source, size, expected)) from error
    if globals_named & {*BOMBS}:
        raise InputError(
            f"{source} holds a bytearray, expected tensors and plain values only; save it again without it"
        )
    if ENCODE in globals_named and globals_named & {*GROWING}:
        raise InputError(
            f"{source} holds bytes in another encoding than latin1, expected tensors and plain values only; save it "
            "again without them"
        )
    stream.seek(0)
    try:
        contents: object = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of unknown origin fail in the unpickler in any way they like
        raise InputError(_reason(error, stream, source, size, globals_named, expected)) from error
    _check_tensors(contents, source, limit)
    return contents


def _check_tensors(contents: object, source: str, limit: int) -> None:
    """Refuse tensors that are no plain arrays in memory, and those that are together far larger than the file."""
    total = 0
    for tensor in _tensors(contents):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
            raise InputError(
                f"{source} holds a tensor that is {kind}, expected plain ones on the CPU; save it again with them"
            )
        total += tensor.numel() * tensor.element_size()  # of an expanded tensor more than its memory
    if total > limit:
        raise InputError(
            f"{source} holds tensors of {total} bytes together, expected at most {limit} for a file of its size; save "
            "it again with `.clone()` of each tensor"
        )


def _tensors(contents: object) -> Iterator[Tensor]:
    """Every tensor in nested tables and lists, each object once: references make a tree of any size of a short file."""
    seen: set[int] = set()
    waiting = [contents]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value


def _globals_in_archive(stream: IO[bytes], source: str, limit: int) -> Iterator[str]:
    """'module name' of everything that the pickles of a zip archive name, and codecs; nothing is executed.

    Raises InputError where the members are far larger than the file, and zipfile's errors for a damaged one.
    """
    with zipfile.ZipFile(stream) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > limit:
            raise InputError(
                f"{source} unpacks to {unpacked} bytes, expected at most {limit} for a file of its size; unpack it "
                "with other means if you trust it, and save it again with torch.save"
            )
        for member in archive.infolist():
            # PyTorch finds it in any case of letters, by the name that the archive has before any other.
            if member.orig_filename.lower().endswith("data.pkl"):
                with archive.open(member) as pickled:
                    yield from _globals_in(pickled)


def _globals_in_legacy(stream: IO[bytes]) -> Iterator[str]:
    """The same of a file from before PyTorch 1.6, as far as it can be read."""
    stream.seek(0)
    for _ in range(LEGACY_PICKLES):
        try:
            yield from _globals_in(stream)
        except Exception:  # no pickle, or a damaged one, which PyTorch does not read either
            return


def _globals_in(pickled: IO[bytes]) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument)
        elif opcode.name == "PROTO" and isinstance(argument, int) and argument > PROTOCOL:
            yield f"protocol {argument}"
        elif isinstance(argument, str) and (codec := _codec(argument)) in GROWING:
            yield codec


def _codec(name: str) -> str:
    """The codec that Python finds by a name."""
    normal = encodings.normalize_encoding(name[:100]).lower()
    return encodings.aliases.aliases.get(normal, normal)


def _reason(error: Exception, stream: IO[bytes], source: str, size: int, globals_named: set[str], expected: str) -> str:
    """Why PyTorch's reader refused a file, in one sentence; its own fills a page."""
    foreign = sorted(
        name.replace(" ", ".") for name in globals_named if re.split(r"[. ]", name)[0] not in (*PLAIN, *GROWING)
    )
    if not foreign and (named := re.search(r"Unsupported (?:global|class).*?([\w.]+\.\w+)", str(error))):
        foreign = [named.group(1)]
    if _holds(stream, "constants.pkl"):
        return (
            f"{source} is a TorchScript program, expected {expected}; save the state_dict of the model that it was "
            "made from"
        )
    if newer := next((name for name in globals_named if name.startswith("protocol ")), None):
        return (
            f"{source} was saved with pickle {newer}, expected {PROTOCOL}; save it again with torch.save as it is by "
            "default"
        )
    if foreign:
        kinds = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more kinds" if len(foreign) > 3 else "")
        return (
            f"{source} holds objects of {kinds}, expected tensors and plain values only; where it comes "
            "from, save its 'state_dict' and the class names in 'meta' alone and give that file"
        )
    stream.seek(0)
    if tarfile.is_tarfile(stream):
        return f"{source} is a tar archive of PyTorch before 0.1.10, expected {expected}; save it again with torch.save"
    return _damaged(source, size, expected)


def _damaged(source: str, size: int, expected: str) -> str:
    return (
        f"{source} ({size} bytes) cannot be read: it is damaged, cut short or no file of weights; expected {expected}; "
        "download or copy it again"
    )


def _holds(stream: IO[bytes], name: str) -> bool:
    """Whether the file is a zip archive with a member of this name in its folder."""
    stream.seek(0)
    try:
        with zipfile.ZipFile(stream) as archive:
            return any(member.endswith(f"/{name}") for member in archive.namelist())
    except Exception:  # no archive
        return False

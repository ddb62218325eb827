"""A .pt2 made safe to open: torch.export.load runs what pickles and texts in it say, so it sees a checked copy alone.

Read in torch 2.13 (torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py): pickled weights, constants
and example inputs are unpickled in full, sizes and guards are evaluated as Python, names are pasted into the source of
the module, tree specs import modules, and compiled parts are loaded as native code. So a copy is made of those members
alone that `save_program` writes, with every text in them held against what such a program says.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import torch

from gfl.engine.torch_file import load_plain
from gfl.errors import InputError

DESCRIPTION = "gfl_description.json"  # the archive's member with the metadata

# The members of a .pt2, by name below the archive's folder; those of torch before 2.8 have other names.
PROGRAMS = ("models/model.json", "serialized_exported_program.json")
PAYLOADS = {
    "data/weights/model_weights_config.json": "data/weights/",
    "data/constants/model_constants_config.json": "data/constants/",
}
PLAIN_PICKLES = (
    "data/sample_inputs/model.pt",
    "data/weights/model.pt",
    "data/constants/model.pt",
    "serialized_state_dict.pt",
    "serialized_constants.pt",
    "serialized_example_inputs.pt",
)
EXTRAS = (f"extra/{DESCRIPTION}", f"extra_files/{DESCRIPTION}")
ARRAY = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
FORMAT = re.compile(r"archive_format|archive_version|version|byteorder|\.format_version|\.storage_alignment|\.data/.+")
MOST_FORMAT_BYTES = 100  # of a member that says which format it is

WORD = re.compile(r"[A-Za-z0-9_.+-]*", re.ASCII)  # names and versions; no text that could be code
OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)
# Kinds of values that a program of fixed shapes holds. Left out: sizes that are formulas, objects, graphs, operators.
VALUES = {
    *("as_none", "as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors", "as_string", "as_bool"),
    *("as_bools", "as_int", "as_ints", "as_float", "as_floats", "as_scalar_type", "as_memory_format", "as_layout"),
    "as_device",
}
EMPTY = {
    *("guards_code", "range_constraints", "custom_obj_values", "treespec_namedtuple_fields"),
    *("sym_int_values", "sym_float_values", "sym_bool_values"),
}
TREES = ("in_spec", "out_spec")
TREE_NODES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
TREE_CONTEXTS = (None, "null", "[]")


def copy_checked(path: Path) -> tuple[IO[bytes], dict[str, str]]:
    """A copy of a .pt2 in memory that torch.export.load may read, and the file's metadata, empty where it has none.

    Raises InputError, naming the member, for everything that `save_program` does not write; and zipfile.BadZipFile,
    KeyError or ValueError for a file that is damaged.
    """
    with open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
        members = _members(archive)
        metadata = _metadata_of(archive, members, stream.seek(0, 2))
        if not metadata:
            return io.BytesIO(), {}
        _check_sizes(archive, path, stream.seek(0, 2))
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as checked:
            for name, full_name in members.items():
                content = _checked(name, archive, members, path)
                if content is not None:
                    checked.writestr(full_name, content)
        copy.seek(0)
    return copy, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """A .pt2's metadata, empty where it has none; errors as of `copy_checked`, which looks at the rest too."""
    with open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
        return _metadata_of(archive, _members(archive), stream.seek(0, 2))


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """The archive's members by their names below its folder."""
    return {name.partition("/")[2] if _has_folder(archive) else name: name for name in archive.namelist()}


def _has_folder(archive: zipfile.ZipFile) -> bool:
    """Whether the archive's members lie in one folder, as torch has written them since 2.8."""
    return "version" not in archive.namelist()


def _metadata_of(archive: zipfile.ZipFile, members: Mapping[str, str], size: int) -> dict[str, str]:
    """The metadata in the archive, read before it is known whether it is ours; size: of the file."""
    name = next((members[name] for name in EXTRAS if name in members), None)
    if name is None:
        return {}
    if archive.getinfo(name).file_size > size:
        raise ValueError("its description is larger than the file")
    metadata: object = json.loads(archive.read(name))
    if not isinstance(metadata, dict):
        raise ValueError(f"its description is a {type(metadata).__name__}")
    return {str(key): str(value) for key, value in metadata.items()}


def _check_sizes(archive: zipfile.ZipFile, path: Path, size: int) -> None:
    """Refuse compressed members and sizes beyond the file's: neither is written by torch."""
    names = archive.namelist()
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED:
            raise _foreign(path, member.filename, "is compressed")
    if len(set(names)) != len(names) or sum(member.file_size for member in archive.infolist()) > size:
        raise _foreign(path, "the archive", "holds a member twice")


def _checked(name: str, archive: zipfile.ZipFile, members: Mapping[str, str], path: Path) -> bytes | None:
    """The content of a member as the copy gets it; None for one that is left out."""
    if name in EXTRAS or name.endswith("/"):
        return None
    if FORMAT.fullmatch(name):
        content = archive.read(members[name])
        if len(content) > MOST_FORMAT_BYTES or not WORD.fullmatch(content.decode("ascii", "replace").strip()):
            raise _foreign(path, name, "is no version")
        return content
    if ARRAY.fullmatch(name):
        return archive.read(members[name])
    if name in PLAIN_PICKLES:
        # Written again from what the reader without code made of it: no byte of the pickle reaches torch.export.
        content = archive.read(members[name])
        if content:
            plain = load_plain(io.BytesIO(content), f"{path}: {name}", "tensors, as this project's exports have them")
            again = io.BytesIO()
            torch.save(plain, again)
            content = again.getvalue()
        return content
    if name in PROGRAMS:
        return _program(json.loads(archive.read(members[name])), name, path)
    if name in PAYLOADS:
        sizes = {member: archive.getinfo(full_name).file_size for member, full_name in members.items()}
        return _payload(json.loads(archive.read(members[name])), name, sizes, path)
    raise _foreign(path, name, "is no part of this project's exports")


def _program(program: object, name: str, path: Path) -> bytes:
    """A program whose texts are names, without what its nodes say of the machine that traced them."""
    _check_texts(program, name, path)
    if isinstance(program, dict):
        for node in program["graph_module"]["graph"]["nodes"]:
            _check_operator(node["target"], name, path)
    return json.dumps(program).encode()


def _check_texts(value: object, name: str, path: Path) -> None:
    """Refuse texts that are no plain names and values that are evaluated; empty the nodes' metadata, in place."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("metadata"), dict):
                value["metadata"] = {}
            for key, entry in value.items():
                if (key.startswith("as_") and key not in VALUES) or (key in EMPTY and entry):
                    raise _foreign(path, name, f"has {key}, which can hold code")
                if key in TREES:
                    _check_tree(json.loads(entry), name, path)
                else:
                    waiting += [key, entry]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and not WORD.fullmatch(value):
            raise _foreign(path, name, f"has the text {value[:40]!r}, which can hold code")


def _check_tree(value: object, name: str, path: Path) -> None:
    """Refuse a tree spec of anything but tuples, lists and empty tables: others import their classes."""
    nodes = value[1:] if isinstance(value, list) else [value]
    while nodes:
        node = nodes.pop()
        if (
            not isinstance(node, dict)
            or node.keys() != {"type", "context", "children_spec"}
            or node["type"] not in TREE_NODES
            or node["context"] not in TREE_CONTEXTS
        ):
            raise _foreign(path, name, "takes or gives other things than arrays")
        nodes += node["children_spec"]


def _check_operator(target: object, name: str, path: Path) -> None:
    """Refuse what is no operator on tensors, and those that open files."""
    parts = OPERATOR.fullmatch(target) if isinstance(target, str) else None
    packet: object = getattr(torch.ops.aten, parts.group(1), None) if parts else None
    operator: object = getattr(packet, parts.group(2), None) if parts else None
    if not isinstance(operator, torch._ops.OpOverload) or any(
        argument.name == "filename" for argument in operator._schema.arguments
    ):
        raise _foreign(path, name, f"calls {str(target)[:60]}, which is no operator on tensors")


def _payload(config: object, name: str, sizes: Mapping[str, int], path: Path) -> bytes:
    """The table of a program's arrays; each lies in a member that is as large as it says."""
    _check_texts(config, name, path)
    entries: Mapping[str, Mapping[str, object]] = config["config"] if isinstance(config, dict) else {}
    for array, entry in entries.items():
        member = f"{PAYLOADS[name]}{entry['path_name']}"
        if entry["use_pickle"] or not ARRAY.fullmatch(member):
            raise _foreign(path, name, f"says that {array[:60]} is a pickle")
        meta = entry["tensor_meta"]
        lengths: Sequence[Mapping[str, int]] = meta["sizes"] if isinstance(meta, dict) else []
        if math.prod(length["as_int"] for length in lengths) > sizes[member]:
            raise _foreign(path, name, f"says that {array[:60]} is larger than its member")
    return json.dumps(config).encode()


def _foreign(path: Path, member: str, what: str) -> InputError:
    return InputError(
        f"{path} may run code or fill the memory when it is opened: {member} {what}; expected a .pt2 as "
        "`python -m export.torch` writes it; export it again from its checkpoint"
    )

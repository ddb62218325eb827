"""The description beside a model file whose format has no room for it, or whose runtime must not be started to read it.

It is the metadata of the .onnx that the file was made of, and the names of its outputs: best.om -> best.om.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError
from gfl.files import to_json
from gfl.runtime.description import Description

OUTPUT_NAMES = "output_names"  # beside the description's own keys: some formats keep the outputs' order, not the names


class Described(NamedTuple):
    """What the description beside a file says."""

    description: Description
    output_names: tuple[str, ...]  # in the file's order


def description_path(path: Path) -> Path:
    """The file with the description of a model file, beside it."""
    return path.with_name(path.name + ".json")


def description_text(description: Description, output_names: Sequence[str]) -> str:
    """The content of that file."""
    return to_json({**description.to_metadata(), OUTPUT_NAMES: json.dumps(output_names)}, indent=2) + "\n"


def read_description(path: Path, program: str) -> Described:
    """What is written beside a model file, which `program` made, such as 'export.om'.

    Raises InputError where either file is missing, or where the description cannot be read.
    """
    again = f"`python -m {program}`"
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected an {path.suffix}; make one with {again}")
    beside = description_path(path)
    try:
        metadata = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} has no {beside.name} beside it, which says how to prepare pictures for it; copy it along, or "
            f"make the file again with {again}"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{beside} cannot be read ({error}); copy it again") from error
    if not isinstance(metadata, dict) or OUTPUT_NAMES not in metadata:
        raise InputError(f"{beside} does not describe an {path.suffix} of this project; make it again with {again}")
    return Described(Description.from_metadata(metadata, beside), tuple(json.loads(metadata[OUTPUT_NAMES])))

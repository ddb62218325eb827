"""The description beside a model file whose format has no room for it, or whose runtime must not be started to read it.

It is the metadata of the .onnx that the file was made of, and the names of its outputs: best.om -> best.om.json. The
sha256 of the file goes in, where it is given: runtimes read a file that was cut short, or the weights of another model,
as if nothing were wrong, or end the process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError
from gfl.files import sha256_of, to_json
from gfl.runtime.description import Description

OUTPUT_NAMES = "output_names"  # beside the description's own keys: some formats keep the outputs' order, not the names
DIGESTS = "sha256"  # of the file and what belongs to it, by suffix


class Described(NamedTuple):
    """What the description beside a file says."""

    description: Description
    output_names: tuple[str, ...]  # in the file's order


def description_path(path: Path) -> Path:
    """The file with the description of a model file, beside it."""
    return path.with_name(path.name + ".json")


def description_text(description: Description, output_names: Sequence[str], files: Iterable[Path] = ()) -> str:
    """The content of that file; files: the model file, and its weights where they lie beside it."""
    digests = json.dumps({file.suffix: sha256_of(file) for file in files})
    about = {**description.to_metadata(), OUTPUT_NAMES: json.dumps(output_names), DIGESTS: digests}
    return to_json(about, indent=2) + "\n"


def read_description(path: Path, program: str) -> Described:
    """What is written beside a model file, which `program` made, such as 'export.om'.

    Raises InputError where either file is missing, where the description cannot be read, and where it is of other
    files.
    """
    again = f"`python -m {program}`"
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected an {path.suffix}; make one with {again}")
    beside = description_path(path)
    try:
        metadata = json.loads(beside.read_text(encoding="utf-8"))
        names, digests = (json.loads(metadata.get(key, "{}")) for key in (OUTPUT_NAMES, DIGESTS))
    except FileNotFoundError:
        raise InputError(
            f"{path} has no {beside.name} beside it, which says how to prepare pictures for it; copy it along, or "
            f"make the file again with {again}"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{beside} cannot be read ({error}); copy it again") from error
    except (AttributeError, TypeError):  # it is no mapping, or its values are no texts
        names, digests = None, {}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{beside} does not describe an {path.suffix} of this project; make it again with {again}")
    for suffix, digest in digests.items():
        file = path.with_suffix(suffix)
        if not file.is_file() or sha256_of(file) != digest:
            raise InputError(
                f"{file} is missing, damaged or of another model than {beside.name}, expected those that were written "
                "together; copy them all again"
            )
    return Described(Description.from_metadata(metadata, beside), tuple(names))

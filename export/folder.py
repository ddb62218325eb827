"""The folder that several files go into, which is opened as one model: what else lies in it must be of the same."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gfl.errors import InputError
from gfl.runtime import onnx_header
from gfl.runtime.description import Description
from gfl.runtime.on_torch import pt2_archive


def refuse_others(folder: Path, files: Collection[Path], own: Description) -> None:
    """Raise InputError where a folder holds files, besides those that will be written, of another model or export.

    own: the description of any of those that will be written.
    """
    suffix = next(iter(files)).suffix
    others = [path for path in sorted(folder.glob(f"*{suffix}")) if path not in files and not same(path, own)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise InputError(
            f"{folder} holds {others[0].name}{more} of another export, and a folder is opened as one model, expected "
            "none or files of the same weights, settings, precision and batch; remove them, or give another --output"
        )


def same(path: Path, own: Description) -> bool:
    """Whether a file was exported of the same model in the same form; False where it does not say."""
    try:
        found = Description.from_metadata(metadata_of(path), path)
    except (InputError, OSError):
        return False
    return found.digest == own.digest and found.without_size() == own.without_size()


def metadata_of(path: Path) -> dict[str, str]:
    """What a file says of itself, without opening what it computes; InputError where it cannot be read."""
    try:
        return pt2_archive.read_metadata(path) if path.suffix == ".pt2" else onnx_header.read_metadata(path)
    except InputError:
        raise
    except Exception as error:  # of zipfile and json: it is no export of ours, whatever it is
        raise InputError(f"{path} cannot be read ({type(error).__name__}); export it again") from error

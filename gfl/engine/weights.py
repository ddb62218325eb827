"""Reads weights from a file of any format that `--checkpoint` takes, under this project's names.

| file | recognised by | names of weights |
|---|---|---|
| this project's .pt | a key `variables` | as they are; a leaf's average in `ema` replaces that in `variables` |
| the authors' and mmdetection's .pth | a key `state_dict` | as they are; class names from `meta` |
| a bare state dict (.pth, .safetensors) | nothing but tensors | as they are |
| an ImageNet classifier's, in any of these | a weight `layer1.0.conv1.weight` | with `backbone.` before them, no `fc` |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor

from gfl.engine.torch_file import read_torch_file
from gfl.errors import InputError
from gfl.version import VERSION

# Of this project's .pt, a number that rises when a reader of the one before would misread a file or fail on it.
# docs/checkpoint.md says what each holds; files from before there was a number are of format 1.
FORMAT = 2
FORMATS = "this project's .pt, mmdetection's .pth, torchvision's ResNet .pth or .safetensors"

WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
CONSTANTS = ("bbox_head.integral.project",)  # arange(reg_max + 1), which is no variable here
CLASSIFIERS = ("fc.", "head.fc.")  # torchvision's, timm's and Res2Net's; mmpretrain's
# The stem of Res2Net v1b as its authors and timm name it -> as mmdetection does.
RES2NET_STEM = {
    **{"conv1.0": "stem.0", "conv1.1": "stem.1", "conv1.3": "stem.3", "conv1.4": "stem.4", "conv1.6": "stem.6"},
    "bn1": "stem.7",
}


@dataclass(frozen=True)
class CheckpointFile:
    """The contents of a file of weights."""

    path: Path
    state: dict[str, Tensor]  # dotted path, as in this project -> tensor on the CPU, in the file's own dtype
    names: tuple[str, ...] | None = None  # of the classes, where the file has them
    extra: Mapping[str, object] = field(default_factory=dict)  # the file's other top-level fields


def read_checkpoint(path: str | Path) -> CheckpointFile:
    """Read a file of weights of any known format onto the CPU. Nothing in the file is executed.

    Raises InputError when the file is missing or damaged, holds no weights, holds objects other than tensors and plain
    values, or unpacks to far more than its size.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"checkpoint {path}: {what}; expected {FORMATS}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _from_contents(path, read_torch_file(path, FORMATS))


def _read_safetensors(path: Path) -> CheckpointFile:
    """A .safetensors file; its metadata, which are strings, become `extra`."""
    try:
        state = load_file(path, device="cpu")
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return CheckpointFile(path, rename(state), extra=metadata)


def _from_contents(path: Path, contents: object) -> CheckpointFile:
    """What torch.load returned, in the format that its keys tell."""
    if not isinstance(contents, Mapping):
        raise InputError(f"checkpoint {path} holds a {type(contents).__name__}, expected {FORMATS}")
    if "variables" in contents:
        require_known_format(path, contents)
        averaged = contents.get("ema") or {}
        state = tensors_of(path, contents["variables"]) | tensors_of(path, averaged)
        names = contents.get("names")
    elif "state_dict" in contents:
        state = tensors_of(path, contents["state_dict"])
        names = _mmdetection_names(contents.get("meta"))
    else:
        return CheckpointFile(path, rename(tensors_of(path, contents)))
    extra = {str(key): value for key, value in contents.items() if key not in ("variables", "ema", "state_dict")}
    return CheckpointFile(path, rename(state), _names(path, names), extra)


def require_known_format(path: Path, contents: Mapping[object, object]) -> None:
    """Raise InputError where this project's .pt is of a format that this version does not know."""
    found, writer = contents.get("format", 1), contents.get("gfl_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(
            f"checkpoint {path} says wrongly which format it is of (got {type(found).__name__}, expected a number from "
            f"1 to {FORMAT}); get it again from where it comes"
        )
    if found > FORMAT:
        by = f", written by gfl {writer[:40]}" if isinstance(writer, str) else ""
        raise InputError(
            f"checkpoint {path} is of format {found}{by}, expected at most {FORMAT}, the newest that gfl {VERSION} "
            "knows; install a newer version of this project to read it"
        )


def tensors_of(path: Path, table: object) -> dict[str, Tensor]:
    """A state dict; InputError for anything but tensors by name."""
    if not isinstance(table, Mapping):
        raise InputError(f"checkpoint {path} holds a {type(table).__name__} for weights, expected names and tensors")
    state: dict[str, Tensor] = {}
    for name, value in table.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(
                f"checkpoint {path} holds a {type(value).__name__} under {name!r}, expected a tensor, as in {FORMATS}"
            )
        state[name] = value
    return state


def _mmdetection_names(meta: object) -> object:
    """The class names in an mmdetection checkpoint's meta: `CLASSES` in 2.x, `dataset_meta` in 3.x."""
    if not isinstance(meta, Mapping):
        return None
    dataset = meta.get("dataset_meta")
    nested = dataset if isinstance(dataset, Mapping) else {}
    return meta.get("CLASSES") or nested.get("classes") or nested.get("CLASSES")


def _names(path: Path, names: object) -> tuple[str, ...] | None:
    """Class names as a tuple, None where there are none; a single string names one class, as in mmdetection.

    Raises InputError for names that are no text: a list that holds itself over and over is spelled without end.
    """
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, (list, tuple)) or not names:
        return None
    for name in names:
        if not isinstance(name, (str, int)):
            raise InputError(
                f"checkpoint {path} has a {type(name).__name__} among its class names, expected text; get it again "
                "from where it comes"
            )
    return tuple(str(name) for name in names)


def _unreadable(path: Path, error: Exception) -> InputError:
    """The error for a .safetensors that cannot be read, in one sentence."""
    if isinstance(error, PermissionError):
        return InputError(f"checkpoint {path} cannot be opened ({error.strerror}): expected a file you may read")
    return InputError(
        f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read: it is damaged, cut short or no file of "
        f"weights; expected {FORMATS}; download or copy it again"
    )


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of another program's state dict to the paths of this project's variables.

    Strips the prefixes of DataParallel and torch.compile, puts `backbone.` before the names of an ImageNet classifier,
    and drops the classifier itself and the integral's constant.
    """
    renamed = dict(state)
    for wrapper in WRAPPERS:
        if renamed and all(name.startswith(wrapper) for name in renamed):
            renamed = {name.removeprefix(wrapper): tensor for name, tensor in renamed.items()}
    renamed = {name: tensor for name, tensor in renamed.items() if not name.startswith(CLASSIFIERS)}
    if "layer1.0.conv1.weight" in renamed:
        stem = RES2NET_STEM if "conv1.0.weight" in renamed else {}
        renamed = {f"backbone.{_in_stem(name, stem)}": tensor for name, tensor in renamed.items()}
    return {name: tensor for name, tensor in renamed.items() if name not in CONSTANTS}


def _in_stem(name: str, stem: Mapping[str, str]) -> str:
    """A weight's name with its layer named as `stem` says, where it does."""
    layer, _, kind = name.rpartition(".")
    return f"{stem.get(layer, layer)}.{kind}"

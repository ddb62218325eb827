"""Opening a trained model in any form that this project writes; only a checkpoint and a .pt2 import PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import SupportsIndex

from gfl.errors import InputError
from gfl.runtime.description_file import description_path
from gfl.runtime.finish import FinishedFile
from gfl.runtime.litert_file import open_litert
from gfl.runtime.mnn_file import open_mnn
from gfl.runtime.model import Model, StaticFile, static_model
from gfl.runtime.ncnn_file import SUFFIX as NCNN
from gfl.runtime.ncnn_file import WEIGHTS, open_ncnn
from gfl.runtime.om_file import open_om
from gfl.runtime.onnx_file import open_onnx
from gfl.runtime.openvino_file import IR, open_openvino
from gfl.runtime.providers import OPENVINO, ProviderChoice
from gfl.shapes import MOST_PICTURES

CHECKPOINTS = (".pt", ".pth", ".safetensors")
MOST_THREADS = 1024


def _open_pte(path: Path, *, threads: int = 0) -> StaticFile:
    from gfl.runtime.on_torch.pte_file import open_pte  # late: it imports PyTorch

    return open_pte(path, threads=threads)


# Files of `python -m export.to` by suffix: what opens them as (path, threads=...).
CONVERTED: dict[str, Callable[..., StaticFile]] = {
    ".mnn": open_mnn,
    NCNN: open_ncnn,
    ".tflite": open_litert,
    ".pte": _open_pte,
}
# Files of `python -m export.to` that nothing here opens, and what does.
ELSEWHERE = {
    ".mlpackage": "Core ML on a Mac (coremltools.models.MLModel)",
    ".rknn": "Rockchip's NPU (rknn-toolkit-lite2, or librknnrt)",
}
# Static files, one a canvas; in a folder the first kind that is there is taken.
EXPORTS = (".onnx", ".pt2", ".om", IR, *CONVERTED)


def open_model(
    path: str | Path,
    *,
    batch: int | None = None,
    threads: int = 0,
    choice: ProviderChoice = ProviderChoice(),  # noqa: B008  # frozen
    gin_files: Sequence[str | Path] = (),
    gin_bindings: Sequence[str] = (),
    names: str | Path | Sequence[str] | None = None,
    candidates: bool = False,
) -> Model:
    """Open a .pt, .pth, .safetensors, an exported or converted file, or a folder of these at several sizes.

    Args:
        path: the file or the folder.
        batch: pictures a run, 1 by default; an exported file has its own.
        threads: of the CPU; 0: the runtime's choice.
        choice: what is to run the model.
        gin_files: the settings of a file of weights that does not hold them, as run files.
        gin_bindings: settings that change those of the file or of gin_files.
        names: the classes of a file of weights that does not name them: a list, or a file as of `read_class_names`.
        candidates: of a file of weights, give the best boxes before NMS in place of its detections, for the caller to
            merge; an exported file gives its detections all the same.

    Raises:
        InputError: the file is missing, of another kind, damaged or not of this project, or takes another batch; the
            provider is not there; an argument is of another type, or for a file that carries all settings itself.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"got the model {path!r}, expected the name of a file or folder; give it as text or a path")
    path = Path(os.fsdecode(path))
    if batch is not None:
        _check_whole("a batch of", batch, 1, MOST_PICTURES, "omit it for the default (1, or the exported file's own)")
    _check_whole("threads", threads, 0, MOST_THREADS, "omit it for the default (0: the runtime's choice)")
    kind = kind_of(path)
    if kind in (*CHECKPOINTS, ".pt2") and find_spec("torch") is None:
        raise InputError(
            f"{path} needs PyTorch, which is not installed; install it, or give the .onnx that "
            "`python -m export.onnx` writes where PyTorch is"
        )
    if kind in CHECKPOINTS:
        from gfl.runtime.on_torch.pt_file import open_checkpoint  # late: it imports PyTorch

        return open_checkpoint(
            path,
            batch=batch or 1,
            threads=threads,
            choice=choice,
            gin_files=gin_files,
            gin_bindings=gin_bindings,
            names=names,
            candidates=candidates,
        )
    for name, value in (("gin_file", gin_files), ("gin_bindings", gin_bindings), ("names", names)):
        if value:
            raise InputError(f"got {name} for {path}, which carries all settings; omit {name}, or give a checkpoint")
    files = files_of(path, kind)
    if kind in CONVERTED or kind == IR:
        model = static_model(path, _open_converted(files, kind, threads, choice))
    elif kind == ".onnx":
        opener = open_openvino if choice.name == OPENVINO else open_onnx
        model = static_model(path, finished([opener(file, threads=threads, choice=choice) for file in files]))
    elif kind == ".om":
        if choice.name not in ("auto", "cann"):
            raise InputError(
                f"got the provider {choice.name} for {path}, expected cann, since an .om runs on an Ascend NPU only; "
                "omit the provider"
            )
        if choice.options.keys() - {"device_id"}:
            raise InputError(
                f"got the provider options {', '.join(choice.options)} for {path}, expected device_id alone; omit the "
                "others, they were settled when it was compiled"
            )
        device = int(choice.options.get("device_id", 0))
        model = static_model(path, [open_om(file, device_id=device) for file in files])
    else:
        from gfl.runtime.on_torch.pt2_file import open_program  # late: it imports PyTorch

        model = static_model(path, finished([open_program(file, threads=threads, choice=choice) for file in files]))
    if batch is not None and batch != model.batch:
        raise InputError(
            f"got a batch of {batch} for {path}, which takes exactly {model.batch} at a time; omit it, or export again "
            f"with --batch {batch}"
        )
    return model


def _open_converted(files: Sequence[Path], kind: str, threads: int, choice: ProviderChoice) -> list[StaticFile]:
    """Open files of `python -m export.to`; InputError for a provider that is another runtime's."""
    own = OPENVINO if kind == IR else "cpu"
    if choice.name not in ("auto", own) or (choice.options and choice.name != OPENVINO):
        raise InputError(
            f"got the provider {choice.name} or options of it for {files[0].name}, which its own runtime runs on the "
            "CPU; omit them"
        )
    if kind == IR:
        return finished([open_openvino(file, threads=threads, choice=choice) for file in files])
    return finished([CONVERTED[kind](file, threads=threads) for file in files])


def finished(files: Sequence[StaticFile]) -> list[StaticFile]:
    """The files, those of decoded or raw outputs with the choice of detections behind them."""
    return [file if file.description.outputs == "detections" else FinishedFile(file) for file in files]


def _check_whole(what: str, value: object, least: int, most: int, mend: str) -> None:
    """Raise InputError for anything but a whole number from least to most."""
    # True is an int of Python's, and NumPy's whole numbers are none.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise InputError(f"got {what} {value!r}, expected a whole number from {least} to {most}; {mend}")
    if int(value) < least:
        raise InputError(f"got {what} {value}, expected at least {least}; {mend}")
    if int(value) > most:
        raise InputError(f"got {what} {value}, expected at most {most}; {mend}")


def kind_of(path: Path) -> str:
    """The suffix of a model file, or that of the exports in a folder; InputError for anything else."""
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a name too long, a folder without permission
        raise InputError(f"{path} cannot be looked at ({error.strerror}), expected a model; check the name") from None
    if is_folder:
        kind = next((kind for kind in EXPORTS if any(path.glob(f"*{kind}"))), None)
        if kind is None:
            _refuse_elsewhere(path)
            hint = (
                f"give {path / 'best.pt'}"
                if (path / "best.pt").is_file()
                else "write some with `python -m export.onnx`"
            )
            raise InputError(f"{path} holds no exports ({', '.join(EXPORTS)}); {hint}")
        return kind
    if path.suffix not in (*CHECKPOINTS, *EXPORTS):
        _refuse_elsewhere(path)
        known = ", ".join((*CHECKPOINTS, *EXPORTS))
        raise InputError(f"got the model {path}, expected one of {known} or a folder of exports; check the name")
    if not is_file:
        raise InputError(f"{path}: no such file, expected a model; check the name")
    return path.suffix


def bytes_of(path: Path, kind: str) -> list[Path]:
    """`files_of`, and what lies beside a converted one: weights of some formats, and thresholds in its description."""
    files = files_of(path, kind)
    beside = [description_path(file) for file in files if kind in (IR, *CONVERTED)]
    return files + [file.with_suffix(WEIGHTS) for file in files if kind in (IR, NCNN)] + beside


def _refuse_elsewhere(path: Path) -> None:
    """Raise InputError for a file or folder of ELSEWHERE, or a folder that holds some."""
    for suffix, runtime in ELSEWHERE.items():
        if path.suffix == suffix or any(path.glob(f"*{suffix}")):
            raise InputError(f"{path} is for {runtime}, and does not run here; give what it was made of")


def files_of(path: Path, kind: str) -> list[Path]:
    """The file itself, or those of its kind in the folder, by name."""
    return sorted(path.glob(f"*{kind}")) if path.is_dir() else [path]

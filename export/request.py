"""What the command line asks for: which model, at which sizes, into which files."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from export.precision import COUNTED_SAMPLES, SAMPLES
from export.samples import Truth, annotated_pictures, picture_files
from gfl.config import read_run
from gfl.data.canvas import check_canvases, own_canvas
from gfl.data.sizes import eval_short_side
from gfl.engine.checkpoints import TrainedModel, load_trained
from gfl.errors import InputError
from gfl.shapes import Canvas

RUNS = "runs/*/*/best.pt"


@dataclass(frozen=True)
class Request:
    """A checked command line."""

    checkpoint: Path
    model: TrainedModel
    files: dict[Canvas, Path]  # what to write for each size
    batch: int
    outputs: str
    precision: str
    pictures: tuple[Path, ...]  # to compare with PyTorch on, and to take int8's ranges from; none: generated ones
    truth: Truth | None  # their true boxes
    samples: int  # how many of these
    parity: bool
    max_ap_drop: float | None  # instead of the precision's own
    notes: tuple[str, ...]  # what was chosen where the command line says nothing


def read_request(arguments: argparse.Namespace) -> Request:
    """Check the flags and load the model. Raises InputError for what cannot be."""
    check_numbers(arguments)
    samples = arguments.samples or (COUNTED_SAMPLES if arguments.images and arguments.precision != "fp32" else SAMPLES)
    notes: list[str] = []
    pictures, truth = read_pictures(arguments, samples)
    if arguments.precision == "int8":
        notes.append(f"taking the ranges of the activations from {len(pictures)} pictures of {arguments.images}")
    sizes = parse_sizes(arguments.size)
    checkpoint = arguments.checkpoint
    if checkpoint is None:
        checkpoint = newest_checkpoint(Path())
        notes.append(f"no --checkpoint given: taking the newest, {checkpoint}")
    model = read_model(arguments, checkpoint)
    if not sizes:
        sizes = own_sizes(model, checkpoint)
        notes.append(f"no --size given: taking the run's canvases, {', '.join(spell(size) for size in sizes)}")
    names = (arguments.outputs, arguments.precision)
    files = name_files(checkpoint, arguments.output, sizes, names, arguments.suffix)
    if arguments.output is None:
        notes.append(
            f"no --output given: writing to {next(iter(files.values())) if len(files) == 1 else folder(files)}"
        )
    return Request(
        checkpoint,
        model,
        files,
        arguments.batch,
        arguments.outputs,
        arguments.precision,
        pictures,
        truth,
        samples,
        not arguments.skip_parity,
        arguments.max_ap_drop,
        tuple(notes),
    )


def check_numbers(arguments: argparse.Namespace) -> None:
    """InputError for a number out of its range."""
    for name in ("batch", "samples"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise InputError(f"got --{name} {number}, expected 1 or more; leave it out for the usual")
    drop = arguments.max_ap_drop
    if drop is not None and not 0.0 <= drop <= 1.0:
        raise InputError(f"got --max_ap_drop {drop:g}, expected a share from 0 to 1; leave it out for the usual")
    if drop is not None and arguments.precision == "fp32":
        raise InputError(
            f"got --max_ap_drop {drop:g} with --precision fp32, which is compared number by number; "
            "leave it out, or give --precision fp16 or int8"
        )


def read_pictures(arguments: argparse.Namespace, count: int) -> tuple[tuple[Path, ...], Truth | None]:
    """The pictures of --images and, for a precision whose AP is counted, their boxes in --annotations.

    Raises InputError where there are none, and for int8 without --images.
    """
    folder, annotations = arguments.images, arguments.annotations
    if folder is None:
        if arguments.precision == "int8":
            raise InputError(
                "got --precision int8 without --images, expected pictures to take the ranges of the activations from; "
                "give --images DIR with pictures like those that the model is for"
            )
        return (), None
    if arguments.precision == "fp32" or annotations is None or not lists_pictures(annotations):
        return picture_files(folder, count), None
    return annotated_pictures(annotations, folder, count)


def lists_pictures(annotations: Path) -> bool:
    """False for a file of class names alone; one that cannot be read is left to its reader, which says so."""
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return not isinstance(content, dict) or bool(content.get("images"))


def newest_checkpoint(root: Path) -> Path:
    """The newest runs/*/*/best.pt below a folder; InputError where there is none."""
    found = sorted(root.glob(RUNS), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(
            f"got no --checkpoint, and {root.resolve()} has no {RUNS}; give --checkpoint FILE.pt, "
            "or train a model first: python -m gfl.train --gin_file demo.gin"
        )
    return found[-1]


def read_model(arguments: argparse.Namespace, checkpoint: Path) -> TrainedModel:
    """The model, with the settings of --gin_file and the classes of --annotations where these are given."""
    names, category_ids = read_classes(arguments.annotations) if arguments.annotations else (None, ())
    if arguments.gin_file:
        parsed = read_run(arguments.gin_file, arguments.gin_bindings)
        model = load_trained(checkpoint, parsed.run, names)
        model = replace(model, config_text=parsed.config_text, canvases=None)
    else:
        model = load_trained(checkpoint, None, names, bindings=arguments.gin_bindings)
    if names is None:
        return model
    if len(names) != len(model.names):
        raise InputError(
            f"{arguments.annotations} has {len(names)} classes, the model was trained on {len(model.names)}; "
            "give annotations of the same classes"
        )
    return replace(model, names=names, category_ids=category_ids)


def read_classes(annotations: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and category ids of a COCO file, by id; InputError for a file without them."""
    try:
        rows = json.loads(annotations.read_text(encoding="utf-8"))["categories"]
        pairs = sorted((int(row["id"]), str(row["name"])) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{annotations} gave no categories ({error!r}), expected COCO annotations; check --annotations"
        ) from error
    return tuple(name for _, name in pairs), tuple(key for key, _ in pairs)


def parse_sizes(texts: Sequence[str]) -> tuple[Canvas, ...]:
    """'800x1216' -> (800, 1216); InputError for anything else and for sides that are no multiple of 32."""
    sizes = []
    for text in texts:
        found = re.fullmatch(r"(\d+)[xX](\d+)", text)
        if found is None:
            raise InputError(f"got --size {text!r}, expected HEIGHTxWIDTH in pixels, e.g. --size 800x1216")
        sizes.append((int(found[1]), int(found[2])))
    return check_canvases(sizes) if sizes else ()


def own_sizes(model: TrainedModel, checkpoint: Path) -> tuple[Canvas, ...]:
    """The canvases that the model's run used; InputError, proposing some, where it had no list of them."""
    if not isinstance(model.run.data.canvases, str):  # a list in the settings, or in --gin_bindings
        return check_canvases(model.run.data.canvases)
    if model.canvases:
        return model.canvases
    short, long = eval_short_side(model.run.data), model.run.data.long_side
    height, width = own_canvas(short, min(long, round(short * 1.52)))  # 1.52: COCO's usual 4:3 and 3:2 both fit
    raise InputError(
        f"{checkpoint} names no canvases, expected static sizes; give --size HEIGHTxWIDTH, once or several times, "
        f"e.g. --size {height}x{width} --size {width}x{height} for SHORT_SIDE {short}"
    )


def name_files(
    checkpoint: Path,
    output: Path | None,
    sizes: Sequence[Canvas],
    kinds: Sequence[str] = (),
    suffix: str = ".onnx",
) -> dict[Canvas, Path]:
    """The file of each size: --output itself, or files in the folder that it names.

    Without --output one file goes beside the checkpoint, several into a folder there. kinds: outputs and precision,
    which the name says where they are not the usual ones.
    """
    unusual = [kind for kind in kinds if kind not in ("detections", "fp32")]
    stem = "_".join([checkpoint.stem, *unusual])
    if len(sizes) == 1 and (output is None or output.suffix == suffix):
        return {sizes[0]: output or checkpoint.with_name(f"{stem}{suffix}")}
    if output is None:
        output = checkpoint.with_name(f"{stem}_{suffix[1:]}")
    elif output.suffix == suffix:
        raise InputError(f"got --output {output} for {len(sizes)} sizes, expected a folder for several files")
    return {size: output / f"{stem}_{spell(size)}{suffix}" for size in sizes}


def folder(files: dict[Canvas, Path]) -> Path:
    """The folder that all files are in."""
    return next(iter(files.values())).parent


def spell(size: Canvas) -> str:
    """(800, 1216) -> '800x1216'."""
    return f"{size[0]}x{size[1]}"

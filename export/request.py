"""What the command line asks for: which model, at which sizes, into which files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from export.command import check_precision
from export.folder import refuse_others
from export.precision import COUNTED_SAMPLES, SAMPLES
from export.samples import Truth, annotated_pictures, can_be_read, picture_files
from export.validation import canvas_notes, validation_split
from gfl.class_names import list_names, match_names, trust_note
from gfl.config import read_run
from gfl.data.canvas import check_canvases, own_canvas, parse_canvases
from gfl.data.coco_json import CocoFile, class_names, read_coco_file
from gfl.data.picture_files import PictureFile
from gfl.data.sizes import eval_short_side
from gfl.engine.checkpoints import TrainedModel, load_trained, with_text
from gfl.errors import InputError
from gfl.memory import memory_told
from gfl.report.best_f1 import read_thresholds
from gfl.runtime.description import Description
from gfl.runtime.on_torch.digest import digest_of
from gfl.runtime.on_torch.pt_file import describe
from gfl.shapes import MOST_PICTURES, Canvas

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
    pictures: tuple[PictureFile, ...]  # to compare on; empty: generated ones
    calibration: tuple[PictureFile, ...]  # to take int8's ranges from
    truth: Truth | None  # the true boxes of `pictures`
    samples: int  # how many pictures
    parity: bool  # whether to compare with PyTorch
    allow_unchecked: bool  # whether a file may be written though nothing was detected to compare
    max_ap_drop: float | None  # the most AP that fp16 or int8 may lose; None: the precision's own limit
    digest: str  # of the model in these outputs and this precision
    notes: tuple[str, ...]  # what was chosen where the command line says nothing


def read_request(arguments: argparse.Namespace) -> Request:
    """Check the flags and load the model; InputError for what cannot be exported."""
    check_flags(arguments)
    counted = arguments.precision != "fp32" and (arguments.images or arguments.calibration)
    samples = arguments.samples or (COUNTED_SAMPLES if counted else SAMPLES)
    notes: list[str] = []
    annotated = read_coco_file(arguments.annotations, needed=("categories",)) if arguments.annotations else None
    pictures, truth = read_pictures(arguments, annotated, samples)
    calibration: tuple[PictureFile, ...] = ()
    if arguments.precision == "int8":
        folder = arguments.calibration or arguments.images
        calibration = picture_files(folder, samples) if arguments.calibration else pictures
        notes.append(f"taking the ranges of the activations from {len(calibration)} pictures of {folder}")
    sizes = parse_canvases(arguments.size)
    checkpoint = arguments.checkpoint or newest_checkpoint()
    if arguments.checkpoint is None:
        notes.append(f"no --checkpoint given: taking the newest, {checkpoint}")
    model = read_model(arguments, checkpoint, annotated)
    if not model.names_its_classes:
        notes.append(trust_note(checkpoint, arguments.annotations))
    if arguments.metrics:
        model = replace(model, score_thresholds=read_thresholds(arguments.metrics, model.names))
    if not sizes:
        sizes = own_sizes(model, checkpoint)
        notes.append(f"no --size given: taking the run's canvases, {', '.join(spell(size) for size in sizes)}")
    files = name_files(checkpoint, arguments.output, sizes, (arguments.outputs, arguments.precision), arguments.suffix)
    first = next(iter(files.values()))
    if replaced := [str(path) for path in files.values() if path.exists()]:
        notes.append(f"replacing {', '.join(replaced)}")
    if arguments.output is None:
        notes.append(f"no --output given: writing to {first if len(files) == 1 else first.parent}")
    if not pictures and not arguments.skip_parity:
        pictures, said = validation_pictures(model, samples)
        notes += said
    notes += canvas_notes(model, sizes)
    digest = digest_of(model, outputs=arguments.outputs, precision=arguments.precision)
    request = Request(
        checkpoint=checkpoint,
        model=model,
        files=files,
        batch=arguments.batch,
        outputs=arguments.outputs,
        precision=arguments.precision,
        pictures=pictures,
        calibration=calibration,
        truth=truth,
        samples=samples,
        parity=not arguments.skip_parity,
        allow_unchecked=arguments.allow_unchecked,
        max_ap_drop=arguments.max_ap_drop,
        digest=digest,
        notes=tuple(notes),
    )
    if len(files) > 1 or (arguments.output is not None and arguments.output.suffix != arguments.suffix):
        refuse_others(first.parent, files.values(), describe_export(request, sizes[0]))
    return request


def describe_export(request: Request, size: Canvas) -> Description:
    """What the file of a size says of itself."""
    description = describe(
        request.model, size=size, batch=request.batch, outputs=request.outputs, precision=request.precision
    )
    return replace(description, digest=request.digest)


def export_memory(size: Canvas, batch: int) -> AbstractContextManager[None]:
    """Around the export of one size: raise InputError where the memory does not suffice."""
    return memory_told(
        f"this machine has too little memory to export {batch} pictures of {size[0]}x{size[1]} at a time",
        "lower --batch or --size, or export on a larger machine",
    )


def check_flags(arguments: argparse.Namespace) -> None:
    """InputError for a number out of its range, and for a flag whose precision needs another one or takes none."""
    for name in ("batch", "samples"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise InputError(f"got --{name} {number}, expected 1 or more; omit it for the default")
    if arguments.batch > MOST_PICTURES:
        raise InputError(f"got --batch {arguments.batch}, expected at most {MOST_PICTURES} pictures; lower it")
    check_precision(arguments)


def read_pictures(
    arguments: argparse.Namespace, annotated: CocoFile | None, count: int
) -> tuple[tuple[PictureFile, ...], Truth | None]:
    """The pictures of --images and, for a precision whose AP is counted, their boxes in --annotations.

    annotated: the file of --annotations, which may name the classes alone. Raises InputError for no pictures.
    """
    if arguments.images is None:
        return (), None
    if arguments.precision == "fp32" or annotated is None or not annotated.images.rows:
        return picture_files(arguments.images, count), None
    return annotated_pictures(annotated.path, arguments.images, count)


def validation_pictures(model: TrainedModel, count: int) -> tuple[tuple[PictureFile, ...], list[str]]:
    """Pictures that the model was validated on, and a note that says so; none where they are not here."""
    split = validation_split(model.run.data)
    if split is None:
        return (), []
    try:
        if isinstance(split.images, Path):
            chosen: Sequence[PictureFile] = picture_files(split.images, count)
        else:
            chosen, _ = annotated_pictures(split.annotations, split.images, count)
    except InputError:  # a folder without pictures, or with folders of them
        return (), []
    pictures = tuple(filter(can_be_read, chosen))
    broken = f", {len(chosen) - len(pictures)} more cannot be read" if len(pictures) < len(chosen) else ""
    return pictures, [f"no --images given: comparing on {len(pictures)} pictures of {split.images}{broken}"]


def newest_checkpoint() -> Path:
    """The newest runs/*/*/best.pt below the working directory; InputError where there is none."""
    checkpoints = sorted(Path().glob(RUNS), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise InputError(
            f"got no --checkpoint, and {Path.cwd()} has no {RUNS}; give --checkpoint FILE.pt, "
            "or train a model first: python -m gfl.train --gin_file demo.gin"
        )
    return checkpoints[-1]


def read_model(arguments: argparse.Namespace, checkpoint: Path, annotated: CocoFile | None) -> TrainedModel:
    """The model, with the settings of --gin_file and the classes of --annotations where these are given."""
    classes = {} if annotated is None else class_names(annotated)
    names = tuple(classes.values()) or None
    if arguments.gin_file:
        parsed = read_run(arguments.gin_file, arguments.gin_bindings)
        model = load_trained(checkpoint, parsed.run, names)
        model = replace(with_text(model, parsed), canvases=None)
    else:
        model = load_trained(checkpoint, None, names, bindings=arguments.gin_bindings)
    if names is None:
        return model
    if not model.names_its_classes:
        return replace(model, names=names, category_ids=tuple(classes))
    places = [place for place in match_names(model.names, names) if place is not None]
    if not len(places) == len(names) == len(model.names):
        raise InputError(
            f"{arguments.annotations} has {len(names)} classes ({list_names(names)}), the model was trained on "
            f"{len(model.names)} ({list_names(model.names)}); give annotations of the same classes, in any order"
        )
    category_ids = tuple(classes)
    return replace(
        model,
        names=tuple(names[place] for place in places),
        category_ids=tuple(category_ids[place] for place in places),
    )


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
    checkpoint: Path, output: Path | None, sizes: Sequence[Canvas], kinds: Sequence[str], suffix: str
) -> dict[Canvas, Path]:
    """The file of each size: --output itself, or files in the folder that it names.

    Without --output one file goes beside the checkpoint, several into a folder there. kinds: outputs and precision,
    which become part of a file's name where they are not the defaults.
    """
    stem = "_".join([checkpoint.stem, *(kind for kind in kinds if kind not in ("detections", "fp32"))])
    if len(sizes) == 1 and (output is None or output.suffix == suffix):
        return {sizes[0]: output or checkpoint.with_name(f"{stem}{suffix}")}
    if output is None:
        output = checkpoint.with_name(f"{stem}_{suffix[1:]}")
    elif output.suffix == suffix:
        raise InputError(f"got --output {output} for {len(sizes)} sizes, expected a folder for several files")
    return {size: output / f"{stem}_{spell(size)}{suffix}" for size in sizes}


def spell(size: Canvas) -> str:
    """(800, 1216) -> '800x1216'."""
    return f"{size[0]}x{size[1]}"

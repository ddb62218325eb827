"""What `python -m export.to` converts: exported files, or a checkpoint that is exported first, and their reference.

The reference is PyTorch where a checkpoint is given, else the exported file in its own runtime, which export.onnx and
export.torch compared with PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from export import command
from export.compare import run_pytorch
from export.formats.interface import Format
from export.graph import graph_of
from export.precision import COUNTED_SAMPLES, SAMPLES
from export.request import Request, read_request
from export.samples import SampleBatch, Truth, annotated_pictures, picture_files
from export.validation import validation_split
from export.write_onnx import write_onnx
from export.write_pt2 import write_program
from gfl.data.picture_files import PictureFile
from gfl.engine.checkpoints import TrainedModel
from gfl.errors import InputError
from gfl.model import detector
from gfl.runtime.description import Arrays
from gfl.runtime.model import StaticFile
from gfl.runtime.on_torch.pt2_file import open_program
from gfl.runtime.onnx_file import open_onnx
from gfl.runtime.open import CHECKPOINTS, files_of, kind_of
from gfl.runtime.providers import ProviderChoice
from gfl.say import say

CPU = ProviderChoice("cpu")


class Source(NamedTuple):
    """An exported file to convert."""

    path: Path
    rival: StaticFile  # the .onnx, open; of a .pt2 alone that: its time is measured beside the new file's
    rival_name: str  # of its runtime
    output_names: tuple[str, ...]
    reference: str  # what the new file is compared with
    run_reference: Callable[[SampleBatch], Arrays]  # its outputs, without those of blanks


class Pictures(NamedTuple):
    """What both sides are run on."""

    files: tuple[PictureFile, ...]  # empty: generated ones
    truth: Truth | None  # their true boxes
    samples: int  # how many
    calibration: tuple[PictureFile, ...] = ()  # what int8 takes its ranges from


def read_sources(arguments: argparse.Namespace, wanted: Format, folder: Path) -> tuple[list[Source], Pictures]:
    """The files to convert and the pictures to compare on; a checkpoint is exported into `folder` first.

    Raises InputError for a model that the format cannot be made of.
    """
    kind = kind_of(arguments.model)
    if kind in CHECKPOINTS:
        request = read_request(export_flags(arguments, wanted, folder))
        for note in request.notes:
            say(note)
        return list(export_all(request, wanted)), read_pictures(arguments, request.model)
    for name in ("size", "gin_file", "gin_bindings"):
        if getattr(arguments, name):
            raise InputError(f"got --{name} for {arguments.model}, which has its own; omit it, or give a checkpoint")
    if kind != wanted.source:
        raise InputError(
            f"got the model {arguments.model} ({kind}) for --format {wanted.name}, which is made of a "
            f"{wanted.source}; give that, or the checkpoint"
        )
    if arguments.annotations is not None and arguments.images is None:
        raise InputError(f"got --annotations {arguments.annotations} without its pictures; give --images DIR")
    sources = [open_source(path) for path in files_of(arguments.model, kind)]
    for source in sources:
        about = source.rival.description
        if about.outputs not in wanted.forms or about.precision != "fp32":
            raise InputError(
                f"{source.path} gives {about.outputs} in {about.precision}, and --format {wanted.name} takes "
                f"{' or '.join(wanted.forms)} in fp32; export it again with --outputs {wanted.forms[0]}, or give the "
                "checkpoint"
            )
    return sources, read_pictures(arguments, None)


def open_source(path: Path) -> Source:
    """An exported file, which is its own reference."""
    file: StaticFile
    if path.suffix == ".pt2":
        program = open_program(path, choice=CPU)
        file, names, name = program, program.output_names, "the .pt2 in PyTorch"
    else:
        model = open_onnx(path, threads=torch.get_num_threads())
        file, names, name = model, model.output_names, "ONNX Runtime"
    return Source(path, file, name, names, name, partial(run_file, file))


def run_file(file: StaticFile, batch: SampleBatch) -> Arrays:
    """What an open file makes of a batch, without blanks."""
    outputs = file.run(batch.images, batch.image_sizes)
    return {name: array[: len(batch.names)] for name, array in outputs.items()}


def export_all(request: Request, wanted: Format) -> Iterator[Source]:
    """Export each size as .onnx, compared with PyTorch, and as what the format is made of."""
    variables, cfg = request.model.variables, request.model.run.detector
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    for size in request.files:
        written = write_onnx(request, size).path
        source = open_source(written)
        if wanted.source == ".pt2":
            files = {size: written.with_suffix(".pt2")}
            source = source._replace(path=write_program(replace(request, files=files), size).path)
        run = partial(run_pytorch, graph_of(request.outputs, size, cfg), prepared)
        yield source._replace(reference="PyTorch", run_reference=run)


def export_flags(arguments: argparse.Namespace, wanted: Format, folder: Path) -> argparse.Namespace:
    """The flags of export.onnx for a checkpoint, in the first form that the format takes."""
    words: list[str] = ["--checkpoint", str(arguments.model), "--output", str(folder), "--outputs", wanted.forms[0]]
    for name in ("annotations", "images"):
        if getattr(arguments, name) is not None:
            words += [f"--{name}", str(getattr(arguments, name))]
    for name in ("size", "gin_bindings"):
        if getattr(arguments, name):
            words += [f"--{name}", *getattr(arguments, name)]
    words += [word for file in arguments.gin_file for word in ("--gin_file", file)]
    return command.parser("python -m export.to", None, ".onnx", ("fp32",)).parse_args(words)


def read_pictures(arguments: argparse.Namespace, model: TrainedModel | None) -> Pictures:
    """The pictures to compare on, and for int8 those of --calibration, else the same."""
    pictures = compared_pictures(arguments, model)
    if arguments.precision != "int8":
        return pictures
    if arguments.calibration is None:
        return pictures._replace(calibration=pictures.files)
    return pictures._replace(calibration=picture_files(arguments.calibration, pictures.samples))


def compared_pictures(arguments: argparse.Namespace, model: TrainedModel | None) -> Pictures:
    """Pictures of --images, with boxes of --annotations; else those that a checkpoint was validated on; else generated.

    Raises InputError for no pictures.
    """
    count = arguments.samples
    if arguments.images is not None:
        count = count or COUNTED_SAMPLES
        if arguments.annotations is None:
            return Pictures(picture_files(arguments.images, count), None, count)
        return Pictures(*annotated_pictures(arguments.annotations, arguments.images, count), count)
    split = None if model is None else validation_split(model.run.data)
    if split is not None:
        count = count or COUNTED_SAMPLES
        return Pictures(*annotated_pictures(split.annotations, split.images, count), count)
    return Pictures((), None, count or SAMPLES)

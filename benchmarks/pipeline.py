"""infer's pipeline beside the bare session, its own speed, and how soon the program answers.

The small model of scratch_small.gin on pictures of 480x640. Where GFL_TEST_DATA names the folder of test pictures, it
is the one trained on their blood cells; elsewhere it has random weights and is shown generated pictures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple, cast

import torch

from benchmarks.command_line import rounds_of
from benchmarks.graphs import generated_pictures, make_case, our_graph
from benchmarks.inputs import write_pictures
from benchmarks.measure import Form, Sample, Timing, figures_of, interleave, paired_ratio, rates, spread
from benchmarks.tables import Findings, Table
from export.write_onnx import attach
from gfl.config import read_run
from gfl.data.synthetic import CATEGORY_IDS, SHAPES
from gfl.engine.checkpoints import TrainedModel, load_trained
from gfl.errors import InputError
from gfl.files import write_atomic
from gfl.model import detector
from gfl.runtime.model import Model
from gfl.runtime.on_torch.pt_file import describe
from gfl.runtime.open import open_model
from gfl.shapes import Canvas
from infer.formats import write_results
from infer.head import Head, unique_categories
from infer.journal import new_journal
from infer.output_folder import DETECTIONS, JOURNAL
from infer.pipeline import run_pictures
from infer.recorder import Recorder, SourceTimes
from infer.rows import Selection, Tally
from infer.sources import File, Files, find_inputs

PROGRAM = Path(__file__).resolve().parents[1] / "infer" / "run.py"
GIN_FILE = "scratch_small.gin"
TEST_DATA = "GFL_TEST_DATA"  # names a folder that may hold bccd_r18 and bccd
TRAINED_BINDINGS = (  # what the model trained on blood cells has otherwise
    "SHORT_SIDE = 240",
    "LONG_SIDE = 320",
    "EVAL_SHORT_SIDE = None",
    "resnet.ResNetConfig.gn_groups = 16",
    "head.HeadConfig.background_channel = True",
)
SIZE_HW: Canvas = (480, 640)  # of the pictures
CANVAS: Canvas = (256, 320)  # holds them at short side 240
PICTURES, QUICK_PICTURES, DISTINCT = 500, 8, 100  # after so many different ones they come again
RATE_ROUNDS = 3  # at most: one takes half a minute

PIPELINE, ALONE, FREE = "infer's pipeline", "session alone", "pipeline, a model that costs nothing"
HELP, ONE_PICTURE = "--help", "one picture, start to end"


class Subject(NamedTuple):
    """The model and the pictures that are measured."""

    model: TrainedModel
    pictures: Path
    note: str  # for the reader of the table


def make_subject(scratch: Path, pictures: int) -> Subject:
    """The trained model and its pictures where the test data are, else random weights and generated pictures."""
    run = read_run([GIN_FILE], TRAINED_BINDINGS).run
    data = Path(os.environ.get(TEST_DATA, ""))
    checkpoint = data / "bccd_r18" / "model.pth"
    if checkpoint.is_file():
        model = load_trained(checkpoint, run)
        return Subject(model, data / "bccd" / "val", "Trained on blood cells, run on pictures of them.")
    case = make_case(replace(run.detector, num_classes=len(SHAPES)), CANVAS, batch=1)
    model = TrainedModel(case.variables, replace(run, detector=case.cfg), SHAPES, CATEGORY_IDS, (CANVAS,))
    _, folder = write_pictures(scratch, min(pictures, DISTINCT), SIZE_HW)
    return Subject(model, folder, "Random weights with a score threshold that some pass, on generated pictures.")


def export(model: TrainedModel, batch: int, path: Path) -> None:
    """Write the model as an .onnx for CANVAS."""
    cfg = model.run.detector
    prepared = detector.prepare(model.variables, detector.freeze(model.variables, cfg))
    graph = our_graph(prepared, batch, CANVAS, cfg)
    attach(graph, describe(model, size=CANVAS, batch=batch))
    write_atomic(path, graph.SerializeToString())


# ---- the forms ----


def pipeline(label: str, model: Model, files: Sequence[File], folder: Path) -> Form:
    """From picture files to detections.json, as infer/run.py does it; seconds a picture."""

    about = model.description
    categories = unique_categories(about.category_ids, about.names, about.score_thresholds)
    head = cast(Head, {"categories": categories})  # no one reads the rest

    def sample() -> Sample:
        started = time.perf_counter()
        (folder / JOURNAL).unlink(missing_ok=True)
        with new_journal(folder / JOURNAL, head) as journal:
            tally, times = Tally(head["categories"]), SourceTimes()
            recorder = Recorder(journal, tally, Selection(about.category_ids), range(len(files)), times=times)
            run_pictures(model, times.watch(files), recorder.take)
            journal.end()
            write_results("json", head, journal.rows(), folder)
        if tally.failed:
            raise InputError(f"{tally.failed[0].reason}; a picture that is not read would count as read")
        return {label: (time.perf_counter() - started) / len(files)}

    return sample


def alone(model: Model, pictures: int) -> Form:
    """The session on one batch, again and again; seconds a picture."""
    images, image_sizes = (tensor.numpy() for tensor in generated_pictures(CANVAS, model.batch))
    runs = -(-pictures // model.batch)

    def sample() -> Sample:
        started = time.perf_counter()
        for _ in range(runs):
            model.run(images, image_sizes)
        return {ALONE: (time.perf_counter() - started) / (runs * model.batch)}

    return sample


def free(model: Model) -> Model:
    """The same model, but each run gives the outputs of a first one at no cost: what is left is the pipeline's time."""
    outputs = model.run(*(tensor.numpy() for tensor in generated_pictures(CANVAS, model.batch)))
    return replace(model, run=lambda images, image_sizes: outputs)


def program(label: str, *flags: str | Path) -> Form:
    """infer/run.py as a process of its own, from its start to its end."""

    def sample() -> Sample:
        with tempfile.TemporaryDirectory() as output:
            command = [sys.executable, str(PROGRAM), *map(str, flags), "--output", output]
            started = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            return {label: time.perf_counter() - started}

    return sample


# ---- the whole ----


def rate_table(subject: Subject, files: Sequence[File], batch: int, timings: Mapping[str, Timing]) -> Table:
    """Pictures a second, and the pipeline's rate as a share of the bare session's."""
    rows = []
    for label in (PIPELINE, ALONE, FREE):
        timing = timings[label]
        ratio = str(paired_ratio(timing, timings[ALONE])) if label == PIPELINE else ""
        rows.append((label, *rates(timing), ratio))
    kilobytes = sum(file.path.stat().st_size for file in files) / len(files) / 1e3
    height, width = CANVAS
    return Table(
        f"infer: {len(files)} JPEGs of {SIZE_HW[0]}x{SIZE_HW[1]}, batches of {batch} on {height}x{width}",
        ("", "pictures/s", "min", "max", "rate / session's"),
        tuple(rows),
        f"The small model of {GIN_FILE}. {subject.note} A picture has {kilobytes:.0f} kB; from the file to its lines "
        f"in {DETECTIONS}. Threads of the session: {torch.get_num_threads()}. The ratio of rates is taken round by "
        "round: median (min - max).",
    )


def start_table(timings: Mapping[str, Timing]) -> Table:
    """How long a person waits for infer/run.py."""
    return Table(
        "infer/run.py from its start",
        ("", "ms", "min - max"),
        tuple((label, *spread(timings[label])) for label in (HELP, ONE_PICTURE)),
        "A process of its own each time; its files were read before.",
    )


def measure(arguments: argparse.Namespace) -> Findings:
    """Two tables: rates of the pipeline, and the time from the program's start."""
    pictures = arguments.pictures or (QUICK_PICTURES if arguments.quick else PICTURES)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        subject = make_subject(scratch, pictures)
        path = scratch / "small.onnx"
        export(subject.model, arguments.batch, path)
        model = open_model(path, threads=torch.get_num_threads())
        inputs = find_inputs(str(subject.pictures))
        found = inputs.files if isinstance(inputs, Files) else ()
        files = list(islice(cycle(found[:DISTINCT]), pictures))
        passes = [
            pipeline(PIPELINE, model, files, scratch),
            alone(model, -(-pictures // 4)),  # its rate is steady
            pipeline(FREE, free(model), files, scratch),
        ]
        starts = [program(HELP, HELP), program(ONE_PICTURE, "--model", path, "--input", files[0].path)]
        rounds = rounds_of(arguments)
        a_picture, from_start = interleave(passes, min(rounds, RATE_ROUNDS)), interleave(starts, rounds)
        tables = rate_table(subject, files, arguments.batch, a_picture), start_table(from_start)
    figures = {
        "seconds_a_picture": figures_of(a_picture),
        "rate_ratio": paired_ratio(a_picture[PIPELINE], a_picture[ALONE])._asdict(),
        "seconds_from_start": figures_of(from_start),
    }
    return Findings(tables, figures)

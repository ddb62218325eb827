"""What the command line asks for, done: pictures in, a folder of results out. No PyTorch is imported for an .onnx."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.data.coco_json import image_ids_by_name, read_coco_file
from gfl.errors import InputError
from gfl.files import make_folder, to_json, write_atomic
from gfl.machine import usable_cores
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice, ProviderReport, parse_options
from gfl.runtime.result import Result
from gfl.say import say
from infer.drawn_pictures import DrawnPictures
from infer.output_folder import DETECTIONS, DRAWN, SUMMARY, check_free, detections_file, new_results
from infer.pipeline import Failed, Timings, run_pictures
from infer.progress import Progress
from infer.recorder import Recorder
from infer.sources import Files, Inputs, find_inputs, parse_shard
from infer.summary import failure_lines, head_lines, result_lines, summarise

KEPT_PIXELS = 4_000_000  # of a picture that is kept in memory until it is drawn on (12 MB); larger ones are read again
MOST_THREADS = 1024
MOST_WRITERS = 4  # threads that draw


class Task(NamedTuple):
    """A checked command line."""

    inputs: Inputs
    shard: tuple[int, int] | None
    folder: Path  # of the results
    image_ids: Sequence[int]  # COCO's, of the inputs in order
    choice: ProviderChoice


def read_task(arguments: argparse.Namespace) -> Task:
    """Check the flags and find the pictures. Raises InputError for flags that contradict one another or the input."""
    if arguments.score is not None and not 0 <= arguments.score <= 1:
        raise InputError(f"got --score {arguments.score:g}, expected 0 to 1; omit it for each class's own threshold")
    if not 0 <= arguments.threads <= MOST_THREADS:
        raise InputError(
            f"got --threads {arguments.threads}, expected 0 to {MOST_THREADS}; omit it for the default (0: the "
            "runtime's choice)"
        )
    choice = ProviderChoice(arguments.provider, arguments.allow_fallback, parse_options(arguments.provider_options))
    shard = parse_shard(arguments.shard) if arguments.shard else None
    folder: Path = arguments.output
    inputs = find_inputs(
        arguments.input, recursive=arguments.recursive, depth=arguments.depth, most_pixels=arguments.most_pixels
    )
    if shard is not None:
        if not isinstance(inputs, Files):
            raise InputError(
                f"got --shard {arguments.shard} for a video, expected pictures; cut the video or omit --shard"
            )
        inputs = inputs.part(*shard)
        folder = folder / shard_name(*shard)
    check_free(folder)
    image_ids: Sequence[int]
    if arguments.annotations:
        image_ids = read_image_ids(arguments.annotations, inputs)
    else:
        image_ids = range(1 + (inputs.start if isinstance(inputs, Files) else 0), sys.maxsize)
    return Task(inputs, shard, folder, image_ids, choice)


def shard_name(index: int, count: int) -> str:
    """The folder of a shard's results."""
    return f"shard-{index}-of-{count}"


def read_image_ids(annotations: Path, inputs: Inputs) -> list[int]:
    """The ids of picture files in a COCO file, by their names; a name without its folders will do where it is unique.

    Raises InputError for a file that is no COCO, for pictures that it does not name, and for a video.
    """
    if not isinstance(inputs, Files):
        raise InputError(f"got --annotations {annotations} for a video, expected picture files; omit --annotations")
    ids = image_ids_by_name(read_coco_file(annotations, needed=("images",)))
    ids_without_folder: dict[str, list[int]] = {}
    for name, image_id in ids.items():
        ids_without_folder.setdefault(name.rpartition("/")[2], []).append(image_id)
    image_ids, missing = [], []
    for file in inputs.files:
        candidates = [ids[file.name]] if file.name in ids else ids_without_folder.get(file.path.name, [])
        if len(candidates) == 1:
            image_ids += candidates
        else:
            missing.append(file.name)
    if missing:
        raise InputError(
            f"{annotations} does not name {len(missing)} of {inputs.total} pictures ({', '.join(missing[:3])}), "
            "expected all of them, each once; give the annotations of these pictures, or omit --annotations"
        )
    return image_ids


def run(arguments: argparse.Namespace) -> None:
    """Detect, and write the results. Raises InputError for a user's mistake, and then leaves nothing behind."""
    task = read_task(arguments)
    with new_results(task.folder) as unfinished:
        model = open_model(
            arguments.model,
            batch=arguments.batch,
            threads=arguments.threads,
            choice=task.choice,
            gin_files=arguments.gin_file,
            gin_bindings=arguments.gin_bindings,
            names=arguments.names,
        )
        say("\n".join(head_lines(model, task.inputs, task.shard)))
        drawn = None
        if arguments.draw:
            make_folder(unfinished / DRAWN)
            drawn = DrawnPictures(unfinished / DRAWN, task.inputs, arguments.score)
        with detections_file(unfinished / DETECTIONS) as detections:
            recorder = Recorder(detections, arguments.score, task.image_ids, drawn)
            timings = detect(model, task.inputs, recorder, draw=arguments.draw)
        check_any(recorder, task)
        for line in (*failure_lines(recorder), *task.inputs.notes):
            say(line, error=True)
        report = model.provider_report() if timings.run_s else ProviderReport("none", {}, ())
        content = summarise(
            model,
            recorder,
            timings,
            report,
            inputs=task.inputs,
            shard=task.shard,
            score=arguments.score,
            annotations=arguments.annotations,
        )
        write_atomic(unfinished / SUMMARY, to_json(content, indent=2))
    say("\n".join(result_lines(recorder, timings, report, arguments.score)))
    for note in (*report.notes, *timings.notes):
        say(f"note: {note}")
    written = (task.folder / name for name in (DETECTIONS, SUMMARY, *([DRAWN] if arguments.draw else [])))
    say(f"\nwrote {', '.join(map(str, written))}")
    if task.shard is not None:
        say(f"when all {task.shard[1]} are there: python -m infer.merge --input {arguments.output} --output DIR")


def detect(model: Model, inputs: Inputs, recorder: Recorder, *, draw: bool) -> Timings:
    """Run the model over the inputs."""
    writers = min(usable_cores(), MOST_WRITERS) if draw else 1
    kept = KEPT_PIXELS if isinstance(inputs, Files) else sys.maxsize  # a frame cannot be read again
    with Progress(inputs.total) as progress:

        def record(position: int, outcome: Result | Failed) -> None:
            recorder.take(position, outcome)
            progress.advance()

        return run_pictures(model, inputs, record, writers=writers, keep_pixels=kept if draw else 0)


def check_any(recorder: Recorder, task: Task) -> None:
    """Raise InputError where no picture could be read. A shard may have no good one: `infer.merge` checks the whole."""
    if recorder.failed and not recorder.images and task.shard is None:
        raise InputError(
            f"none of {len(recorder.failed)} could be read, nothing was written; the first: {recorder.failed[0].reason}"
        )

"""What the command line asks for, done: pictures in, a folder of results out. No PyTorch is imported for an .onnx."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from gfl.errors import InputError
from gfl.files import make_folder, to_json, write_atomic
from gfl.machine import usable_cores
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice, ProviderReport
from infer.drawing import Drawing
from infer.pipeline import Timings, run_pictures
from infer.recorder import Recorder
from infer.results import DETECTIONS, DRAWN, SUMMARY, check_free, detections_file, new_results
from infer.sources import Files, Inputs, find_inputs, parse_shard
from infer.summary import failure_lines, head_lines, result_lines, summarise

KEPT_PIXELS = 4_000_000  # of a picture that waits to be drawn on (12 MB); larger files are read again
MOST_WRITERS = 4  # threads that draw
QUIET_S = 30.0  # between two lines of the bar where nobody watches


class Task(NamedTuple):
    """A checked command line."""

    inputs: Inputs
    shard: tuple[int, int] | None
    folder: Path  # of the results
    image_ids: Sequence[int] | None  # of the inputs, in order; None: their places from 1
    choice: ProviderChoice

    def image_id(self, index: int) -> int:
        """COCO's id of the input at a place."""
        if self.image_ids is not None:
            return self.image_ids[index]
        return (self.inputs.start if isinstance(self.inputs, Files) else 0) + index + 1


def read_task(arguments: argparse.Namespace) -> Task:
    """Check the flags and find the pictures. Raises InputError for what cannot be."""
    if not 0 <= arguments.score <= 1:
        raise InputError(f"got --score {arguments.score:g}, expected 0 to 1; leave it out for 0.3")
    if arguments.threads < 0:
        raise InputError(f"got --threads {arguments.threads}, expected 0 or more; leave it out for the usual")
    choice = ProviderChoice(arguments.provider, arguments.allow_fallback, parse_options(arguments.provider_options))
    shard = parse_shard(arguments.shard) if arguments.shard else None
    folder: Path = arguments.output
    inputs = find_inputs(arguments.input)
    if shard is not None:
        if not isinstance(inputs, Files):
            raise InputError(
                f"got --shard {arguments.shard} for a video, expected pictures; cut the video or leave it out"
            )
        inputs = inputs.part(*shard)
        folder = folder / shard_name(*shard)
    check_free(folder)
    ids = read_image_ids(arguments.annotations, inputs) if arguments.annotations else None
    return Task(inputs, shard, folder, ids, choice)


def shard_name(index: int, count: int) -> str:
    """The folder of a shard's results."""
    return f"shard-{index}-of-{count}"


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """'device_id=1' -> {'device_id': '1'}; InputError for anything else."""
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise InputError(f"got --provider_options {text}, expected KEY=VALUE, e.g. device_id=0")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


def read_image_ids(annotations: Path, inputs: Inputs) -> list[int]:
    """The ids of picture files in a COCO file, by their names; a name without its folders will do where it is unique.

    Raises InputError for a file that has none, for pictures that it does not name, and for a video.
    """
    if not isinstance(inputs, Files):
        raise InputError(f"got --annotations {annotations} for a video, expected picture files; leave it out")
    try:
        rows = json.loads(annotations.read_text(encoding="utf-8"))["images"]
        ids = {str(row["file_name"]): int(row["id"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{annotations} gave no image ids ({error!r}), expected COCO annotations; check --annotations"
        ) from error
    last: dict[str, list[int]] = {}
    for name, key in ids.items():
        last.setdefault(name.rpartition("/")[2], []).append(key)
    found = [ids.get(file.name, unique(last.get(file.path.name, []))) for file in inputs.files]
    missing = [file.name for file, key in zip(inputs.files, found, strict=True) if key is None]
    if missing:
        raise InputError(
            f"{annotations} does not name {len(missing)} of {len(found)} pictures ({', '.join(missing[:3])}), expected "
            "all of them; give the annotations of these pictures, or leave them out"
        )
    return [key for key in found if key is not None]


def unique(keys: Sequence[int]) -> int | None:
    """The only one, or None."""
    return keys[0] if len(keys) == 1 else None


def run(arguments: argparse.Namespace) -> None:
    """Detect, and write the results. Raises InputError where nothing can be done, and then leaves nothing behind."""
    task = read_task(arguments)
    with new_results(task.folder) as unfinished:
        model = open_model(arguments.model, batch=arguments.batch, threads=arguments.threads, choice=task.choice)
        print(*head_lines(model, task.inputs, task.shard), sep="\n", flush=True)
        draw = None
        if arguments.draw:
            make_folder(unfinished / DRAWN)
            draw = Drawing(unfinished / DRAWN, task.inputs, arguments.score)
        with detections_file(unfinished / DETECTIONS) as detections, progress(task.inputs.total) as bar:
            recorder = Recorder(detections, arguments.score, task.image_id, draw, bar.update)
            timings = detect(model, task.inputs, recorder, drawn=arguments.draw)
        check_any(recorder, task)
        for line in (*failure_lines(recorder), *task.inputs.notes):
            print(line, file=sys.stderr)
        placed = model.provider_report() if timings.run_s else ProviderReport("none", {}, ())
        content = summarise(
            model,
            task.inputs,
            task.shard,
            arguments.score,
            detections.count,
            recorder,
            timings,
            placed,
            arguments.annotations.name if arguments.annotations else None,
        )
        write_atomic(unfinished / SUMMARY, to_json(content, indent=2))
    print(*result_lines(recorder, timings, placed, arguments.score), sep="\n")
    for note in placed.notes:
        print(f"note: {note}")
    written = (task.folder / name for name in (DETECTIONS, SUMMARY, *([DRAWN] if arguments.draw else [])))
    print(f"\nwrote {', '.join(map(str, written))}")
    if task.shard is not None:
        print(f"when all {task.shard[1]} are there: python -m infer.merge --input {arguments.output} --output DIR")


def detect(model: Model, inputs: Inputs, recorder: Recorder, *, drawn: bool) -> Timings:
    """Run the model over the inputs."""
    if not drawn:
        return run_pictures(model, inputs, recorder.take)
    # A frame cannot be read again.
    keep = KEPT_PIXELS if isinstance(inputs, Files) else sys.maxsize
    return run_pictures(model, inputs, recorder.take, writers=min(usable_cores(), MOST_WRITERS), keep_pixels=keep)


def progress(total: int) -> tqdm[None]:
    """A bar on stderr: alive on a terminal, a line every half minute in a log file, none for a short run."""
    quiet = not sys.stderr.isatty()
    return tqdm(total=total or None, unit="img", delay=1.0, mininterval=QUIET_S if quiet else 0.1)


def check_any(recorder: Recorder, task: Task) -> None:
    """InputError where no picture could be read; a shard may be that unlucky, the whole is looked at when merged."""
    if recorder.failed and not recorder.images and task.shard is None:
        raise InputError(
            f"none of {len(recorder.failed)} could be read, nothing was written; the first: {recorder.failed[0].reason}"
        )

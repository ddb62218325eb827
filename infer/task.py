"""What the command line asks for, done: pictures in, a folder of results out. No PyTorch is imported for an .onnx."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gfl.data.transforms import resized_size
from gfl.errors import InputError
from gfl.files import make_folder, to_json, write_atomic
from gfl.machine import usable_cores
from gfl.memory import memory_told
from gfl.runtime.ensemble import Looks, open_merged, read_looks
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice, ProviderReport, parse_options
from gfl.runtime.result import Result
from gfl.runtime.slices import Slicing, read_slicing
from gfl.say import say
from gfl.shapes import Canvas
from gfl.version import VERSION as GFL_VERSION
from infer.annotated_ids import Annotated, CategoryIds, annotated_category_ids, read_annotated
from infer.drawn_pictures import DrawnPictures, drawn_names
from infer.drawn_videos import DrawnVideos, video_paths
from infer.formats import check_format, write_results
from infer.head import VERSION, Head, model_digest, text_digest, unique_categories
from infer.input_digest import input_digest
from infer.journal import Journal, is_leftover, last_video
from infer.model_flags import check_model_flags
from infer.output_folder import DRAWN, JOURNAL, SUMMARY, check_free, output_folder, remove_leftovers
from infer.pipeline import Failed, OnResult, run_pictures
from infer.progress import Progress
from infer.recorder import Drawing, Recorder, SourceTimes
from infer.resume import begin, is_whole, remains
from infer.rows import Row, Selection, Tally
from infer.sliced import SlicedPictures
from infer.sources import Files, Inputs, find_inputs, parse_shard
from infer.summary import failure_lines, head_lines, result_lines, summarise
from infer.timings import Timings
from infer.tracking import TrackedFrames, Tracks, import_trackers
from infer.videos import Video, Videos, video_of

KEPT_PIXELS = 4_000_000  # of a picture that is kept in memory until it is drawn on (12 MB); larger ones are read again
TOO_LARGE = "the memory does not suffice to run the model"
SMALLER = "lower --batch, take a model exported with a smaller batch or canvas, or end what else uses the memory"
MOST_WRITERS = 4  # threads that draw


class Task(NamedTuple):
    """A checked command line."""

    inputs: Inputs
    input_sha256: str
    shard: tuple[int, int] | None
    folder: Path  # of the results
    resume: bool  # go on with what is in the folder
    annotated: Annotated | None
    image_ids: Sequence[int]  # COCO's, of the inputs in order
    choice: ProviderChoice
    looks: Looks
    slicing: Slicing | None


def read_task(arguments: argparse.Namespace) -> Task:
    """Check the flags and find the pictures. Raises InputError for flags that contradict one another or the input."""
    check_flags(arguments)
    looks = read_looks(arguments.tta, arguments.merge, len(arguments.model))
    slicing = read_slicing(arguments.slice, arguments.overlap)
    choice = ProviderChoice(arguments.provider, arguments.allow_fallback, parse_options(arguments.provider_options))
    shard = parse_shard(arguments.shard) if arguments.shard else None
    folder = folder_of(arguments)
    inputs = find_inputs(
        *arguments.input, recursive=arguments.recursive, depth=arguments.depth, most_pixels=arguments.most_pixels
    )
    if arguments.track and isinstance(inputs, Files):
        raise InputError("got --track for pictures, expected a video; omit it, or give the video that they are of")
    if arguments.track:
        import_trackers()  # before the model is opened
    sha256 = digest_of(inputs)
    if shard is not None:
        if not isinstance(inputs, Files):
            raise InputError(
                f"got --shard {arguments.shard} for a video, expected pictures; cut the video or omit --shard"
            )
        inputs = inputs.part(*shard)
    resume = arguments.resume or (arguments.format == "json" and is_leftover(folder / JOURNAL))
    check_free(folder, resume=resume)
    annotated = read_annotated(arguments.annotations, inputs) if arguments.annotations else None
    image_ids: Sequence[int] = range(1 + (inputs.start if isinstance(inputs, Files) else 0), sys.maxsize)
    if annotated is not None:
        image_ids = annotated.image_ids
    return Task(inputs, sha256, shard, folder, resume, annotated, image_ids, choice, looks, slicing)


def check_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError for values that no run takes."""
    check_model_flags(arguments)
    if arguments.class_map and not arguments.annotations:
        raise InputError("got --class_map without --annotations, expected both; add the file whose classes it names")
    if arguments.edges and not arguments.draw:
        raise InputError("got --edges without --draw, expected both, for it says what is drawn; add --draw")
    check_format(arguments.format)


def folder_of(arguments: argparse.Namespace) -> Path:
    """The folder of the results; InputError for a --shard that is none."""
    output: Path = arguments.output
    return output / shard_name(*parse_shard(arguments.shard)) if arguments.shard else output


def shard_name(index: int, count: int) -> str:
    """The folder of a shard's results."""
    return f"shard-{index}-of-{count}"


def digest_of(inputs: Inputs) -> str:
    """`input_digest` of the whole input."""
    if isinstance(inputs, Files):
        return input_digest([(file.name, file.path) for file in inputs.files])
    if isinstance(inputs, Video):
        return input_digest([(inputs.name, inputs.path)])
    named = ((video.name, video.path if isinstance(video, Video) else None) for video in inputs.videos)
    return input_digest(list(named))


def videos_of(inputs: Video | Videos) -> list[Video]:
    """The videos of an input that can be read."""
    return [inputs] if isinstance(inputs, Video) else [video for video in inputs.videos if isinstance(video, Video)]


def run(arguments: argparse.Namespace) -> None:
    """Detect, and write the results.

    Raises InputError for a user's mistake. What is left of a run that fails: `remains`.
    """
    task = read_task(arguments)
    with output_folder(task.folder) as folder, ThreadPoolExecutor(1) as beside:
        digest = beside.submit(model_digest, *arguments.model)  # of a large file it takes as long as its opening
        open_one = partial(
            open_model,
            batch=arguments.batch,
            threads=arguments.threads,
            choice=task.choice,
            gin_files=arguments.gin_file,
            gin_bindings=arguments.gin_bindings,
            names=arguments.names,
        )
        model = open_merged(arguments.model, open_one, task.looks)
        classes = category_ids_of(model, task.annotated, arguments.class_map)
        head = head_of(arguments, task, model, classes, digest.result())
        if arguments.resume and is_whole(folder, head):
            say(f"{task.folder} holds the whole run already: nothing is left to do")
            return
        say("\n".join(head_lines(model, task.inputs, task.shard)))
        names = [file.name for file in task.inputs.files] if isinstance(task.inputs, Files) else None
        keep = keepable(task, arguments)
        streamed = arguments.resume or arguments.format != "json"
        with (
            begin(folder, head, resume=task.resume, names=names, keep=keep) as journal,
            # What an earlier run left is not this one's to remove.
            remains(journal, task.folder, streamed=streamed or journal.resumed > 0, total=task.inputs.total),
        ):
            fill(arguments, task, model, classes, head, journal)
    if task.shard is not None:
        say(f"when all {task.shard[1]} are there: python -m infer.merge --input {arguments.output} --output DIR")


def fill(
    arguments: argparse.Namespace, task: Task, model: Model, classes: CategoryIds, head: Head, journal: Journal
) -> None:
    """Write results into the folder of the journal until it is whole."""
    folder = journal.path.parent
    tally = Tally(head["categories"])
    sizes: Counter[Canvas] = Counter()  # of the pictures that were done before, as the model's rule resizes them
    rule = model.description
    for row in journal.rows():
        tally.add(row)
        if task.slicing is None and row["height"] is not None and row["width"] is not None:
            sizes[resized_size(row["height"], row["width"], rule.short_side, rule.long_side)] += 1
    iou = rule.thresholds.nms_iou if arguments.class_agnostic else None
    selection = Selection(classes.ids, arguments.min_score, arguments.top, iou)
    times = SourceTimes(journal.resumed)
    with open_drawing(folder / DRAWN, task.inputs, arguments) as drawing:
        recorder = Recorder(journal, tally, selection, task.image_ids, times=times, drawing=drawing)
        with memory_told(TOO_LARGE, SMALLER):
            take = recorder.take
            if arguments.track and not isinstance(task.inputs, Files):
                rates = {video.name: video.fps for video in videos_of(task.inputs)}
                take = TrackedFrames(Tracks(rates, shown_from(arguments, model)), take).take
            timings = detect(model, task, take, times, journal.resumed, draw=arguments.draw)
    check_any(tally, task)
    timings.count(sizes, model.canvases)
    notes = (*classes.notes, *task.inputs.notes, *(drawing.notes if drawing else ()))
    for line in (*failure_lines(tally), *notes):
        say(line, error=True)
    report = model.provider_report() if timings.run_s else ProviderReport("none", {}, ())
    journal.end()
    names = write_results(arguments.format, head, journal.rows(), folder)
    content = summarise(model, head, recorder, timings, report, resumed=journal.resumed, notes=notes)
    write_atomic(folder / SUMMARY, to_json(content, indent=2))
    if JOURNAL not in names:
        journal.path.unlink(missing_ok=True)
    remove_leftovers(folder)
    say("\n".join(result_lines(model, recorder, timings, report, arguments.score, journal.resumed)))
    for note in (*report.notes, *timings.notes):
        say(f"note: {note}")
    written = (task.folder / name for name in (*names, SUMMARY, *([DRAWN] if arguments.draw else [])))
    say(f"\nwrote {', '.join(map(str, written))}")


def category_ids_of(model: Model, annotated: Annotated | None, class_map: Sequence[str]) -> CategoryIds:
    """The category ids of the annotations where they are given, else those of the model."""
    about = model.description
    if annotated is None:
        return CategoryIds(about.category_ids, about.names, ())
    return annotated_category_ids(annotated, about.names, about.category_ids, class_map)


def shown_from(arguments: argparse.Namespace, model: Model) -> tuple[float, ...]:
    """The score of each class from which on detections are shown and counted, and begin tracks."""
    own = model.description.score_thresholds
    return own if arguments.score is None else (arguments.score,) * len(own)


def head_of(arguments: argparse.Namespace, task: Task, model: Model, classes: CategoryIds, digest: str) -> Head:
    """What the results are of."""
    categories = unique_categories(classes.ids, classes.names, shown_from(arguments, model))
    return {
        "results_version": VERSION,
        "gfl_version": GFL_VERSION,
        "format": arguments.format,
        "model": ", ".join(path.name for path in arguments.model),
        "model_sha256": digest,
        "tta": " ".join(arguments.tta) if arguments.tta else None,
        "merge": task.looks.method if len(arguments.model) * len(task.looks.views) > 1 else None,
        "slice": arguments.slice,
        "overlap": task.slicing.overlap if task.slicing else None,
        "settings_sha256": text_digest(model.description.config),
        "input_sha256": task.input_sha256,
        "pictures": task.inputs.total,
        "shard": {"index": task.shard[0], "count": task.shard[1]} if task.shard else None,
        "batch": model.batch,
        "annotations": arguments.annotations.name if arguments.annotations else None,
        "annotations_sha256": task.annotated.sha256 if task.annotated else None,
        "score": arguments.score,
        "min_score": arguments.min_score,
        "top": arguments.top,
        "class_agnostic": arguments.class_agnostic,
        "depth": arguments.depth,
        "most_pixels": arguments.most_pixels,
        "track": arguments.track or None,
        "draw": arguments.draw,
        "edges": arguments.edges or None,
        "categories_sha256": text_digest(to_json(categories)),
        "categories": categories,
    }


def keepable(task: Task, arguments: argparse.Namespace) -> Callable[[Row], bool]:
    """Which answered sources --resume keeps: all but those whose drawn picture is gone, and the frames of a drawn or
    followed video that is not whole, which cannot be gone on with and is begun again."""
    if not arguments.draw:
        # Tracks begin anew with a video: the last one may not be whole.
        last = last_video(task.folder / JOURNAL) if arguments.track else None
        return lambda row: video_of(row["file"]) != last
    drawn = task.folder.absolute() / DRAWN
    if isinstance(task.inputs, Files):
        names = [file.name for file in task.inputs.files]
        pictures = dict(zip(names, drawn_names(names), strict=True))
        return lambda row: row["failure"] is not None or (drawn / pictures[row["file"]]).exists()
    videos = video_paths(drawn, [video.name for video in videos_of(task.inputs)])
    whole = {name for name, path in videos.items() if path.exists()}
    return lambda row: row["failure"] is not None or video_of(row["file"]) in whole


@contextlib.contextmanager
def open_drawing(folder: Path, inputs: Inputs, arguments: argparse.Namespace) -> Iterator[Drawing | None]:
    """What draws into the folder; None without --draw."""
    if not arguments.draw:
        yield None
        return
    make_folder(folder)
    if isinstance(inputs, Files):
        yield DrawnPictures(folder, inputs, arguments.score, edges=arguments.edges)
        return
    rates = {video.name: video.fps for video in videos_of(inputs)}
    with DrawnVideos(folder, rates, arguments.score, edges=arguments.edges) as videos:
        yield videos


def detect(model: Model, task: Task, take: OnResult, times: SourceTimes, done: int, *, draw: bool) -> Timings:
    """Run the model over the inputs after the first `done`."""
    inputs = task.inputs
    writers = min(usable_cores(), MOST_WRITERS) if draw else 1
    kept = KEPT_PIXELS if isinstance(inputs, Files) else sys.maxsize  # a frame cannot be read again
    kept = kept if draw else 0
    with Progress(max(inputs.total - done, 0)) as progress:

        def record(position: int, outcome: Result | Failed) -> None:
            take(position, outcome)
            progress.advance()

        sources = times.watch(islice(inputs, done, None))
        if task.slicing is None:
            return run_pictures(model, sources, record, writers=writers, keep_pixels=kept)
        sliced = SlicedPictures(task.slicing, model.description, record, kept)
        return run_pictures(model, sliced.views(sources), sliced.take, writers=writers)


def check_any(tally: Tally, task: Task) -> None:
    """Raise InputError where no picture could be read. A shard may have no good one: `infer.merge` checks the whole."""
    if tally.failed and not tally.images and task.shard is None:
        raise InputError(
            f"none of {len(tally.failed)} could be read, nothing was written; the first: {tally.failed[0].reason}"
        )

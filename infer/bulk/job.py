"""A job from its flags to its exit status: a list of pictures, Ray over it, the count at its end."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from typing import cast

from gfl.errors import InputError
from gfl.files import to_json
from gfl.runtime.open import open_model
from gfl.say import say
from gfl.version import VERSION as GFL_VERSION
from gfl.words import class_shares, counted, headline
from infer.bulk.counts import Counts, count_parts, difference
from infer.bulk.engine import JobError, run_pipeline
from infer.bulk.filesystems import Located, locate, shown
from infer.bulk.flags import check_flags
from infer.bulk.folder import CHECKPOINT, JOB, PARTS, SUMMARY, parts_of, read_json, write_json, write_list
from infer.bulk.share import Share
from infer.bulk.sources import list_pictures
from infer.head import RESUMED, VERSION, Head, differences, model_digest, text_digest, unique_categories
from infer.summary import PRINTED_FAILURES

Job = Mapping[str, object]  # a Head, and --pictures
FROM = "pictures_from"


def run(arguments: argparse.Namespace) -> int:
    """Do a job; its exit status. Raises InputError for a user's mistake."""
    check_flags(arguments)
    arguments.model = arguments.model.absolute()
    folder = locate(arguments.out)
    head = begin(arguments, folder)
    if read_json(folder, SUMMARY) is not None:
        say(f"{arguments.out} holds the whole job already: nothing is left to do")
        return 0
    before = count_parts(folder, head["categories"])
    started = time.monotonic()
    try:
        share = run_pipeline(arguments, folder, head, len(before.ids), before.failed)
        seconds = time.monotonic() - started
        counts = count_parts(folder, head["categories"])
        wrong = difference(counts.ids, head["pictures"])
        if wrong is not None:
            raise JobError(
                f"of {counted(head['pictures'], 'picture')} {wrong} in {arguments.out}, expected each once; remove it "
                "and run the job again"
            )
    except JobError as error:
        say(f"error: {error}", error=True)
        return 1
    finish(folder, head, counts, share, len(before.ids), seconds)
    return 0


def begin(arguments: argparse.Namespace, folder: Located) -> Head:
    """What a new job's results are of, with the list of its pictures made; or that of the job which is there.

    Raises InputError where that one is of another model, other pictures or other flags.
    """
    known = read_json(folder, JOB)
    if known is None and next(parts_of(folder), None) is not None:
        raise InputError(
            f"{shown(folder)} holds {PARTS} without {JOB}, expected what a job left; give another --out, or remove them"
        )
    head = head_of(arguments)
    if known is not None:
        # What only the list says is that of the list.
        given = {**head, **{key: known.get(key) for key in ("input_sha256", "pictures")}, FROM: arguments.pictures}
        for what in differences(known, given, {**RESUMED, FROM: "other --pictures"}):
            raise InputError(
                f"{shown(folder)} is of {what} than this job, expected the same to go on with it; give its flags and "
                "its model, or another --out"
            )
        return cast(Head, given)
    left_out: Counter[str] = Counter()
    written = write_list(folder, list_pictures(arguments.pictures, left_out))
    rest = ", ".join(f"{number:,} {suffix}" for suffix, number in left_out.most_common(PRINTED_FAILURES))
    if not written.pictures:
        raise InputError(f"{' '.join(arguments.pictures)} holds no picture, expected at least one; got {rest}")
    if rest:
        say(f"left out: {rest}", error=True)
    head["input_sha256"], head["pictures"] = written.sha256, written.pictures
    write_json(folder, JOB, {**head, FROM: arguments.pictures})
    return head


def head_of(arguments: argparse.Namespace) -> Head:
    """What results are of; the pictures are not known yet."""
    model = open_model(arguments.model, batch=arguments.batch, threads=arguments.threads)
    about = model.description
    given = None if arguments.score is None else (arguments.score,) * len(about.names)
    categories = unique_categories(about.category_ids, about.names, given or about.score_thresholds)
    return {
        "results_version": VERSION,
        "gfl_version": GFL_VERSION,
        "format": "parquet",
        "model": arguments.model.name,
        "model_sha256": model_digest(arguments.model),
        "tta": None,
        "merge": None,
        "slice": arguments.slice,
        "overlap": arguments.overlap,
        "settings_sha256": text_digest(about.config),
        "input_sha256": "",
        "pictures": 0,
        "shard": None,
        "batch": model.batch,
        "annotations": None,
        "annotations_sha256": None,
        "score": arguments.score,
        "min_score": arguments.min_score,
        "top": arguments.top,
        "class_agnostic": arguments.class_agnostic,
        "depth": arguments.depth,
        "most_pixels": arguments.most_pixels,
        "track": None,
        "draw": False,
        "edges": None,
        "categories_sha256": text_digest(to_json(categories)),
        "categories": categories,
    }


def finish(folder: Located, head: Head, counts: Counts, share: Share, resumed: int, seconds: float) -> None:
    """Write summary.json, remove the checkpoint, and say what came out.

    seconds: since the job was last begun, the start of Ray included; img_per_s is of the pictures since.
    """
    images = head["pictures"] - counts.failed
    rate = (head["pictures"] - resumed) / seconds
    content = {
        "images": images,
        "failures": counts.failed,
        "failed": [{"file": failure.source, "reason": failure.reason} for failure in counts.failures],
        "detections": counts.detections,
        "detections_of_score": dict(counts.shown.most_common()),
        "incomplete": counts.incomplete,
        "resumed": resumed,
        "seconds": seconds,
        "img_per_s": rate,
        "workers": share.workers,
        **{key: value for key, value in head.items() if key != "categories"},
    }
    write_json(folder, SUMMARY, content)
    folder.filesystem.delete_dir(folder.below(CHECKPOINT).path)
    for failure in counts.failures[:PRINTED_FAILURES]:
        say(f"passed over: {failure.reason}", error=True)
    if counts.failed > PRINTED_FAILURES:
        say(f"passed over: {counts.failed - PRINTED_FAILURES:,} more, see {PARTS}", error=True)
    shown_ones = f"{counted(sum(counts.shown.values()), 'detection')} of its class's threshold or more"
    failed = f"{counts.failed:,} failed" if counts.failed else ""
    before = f"{counted(resumed, 'picture')} of a run before" if resumed else ""
    say(headline("found", counted(images, "image"), shown_ones, class_shares(counts.shown), failed, before))
    say(headline("speed", f"{rate:.1f} img/s", counted(share.workers, "worker"), f"{seconds:.0f} s with Ray's start"))
    say(f"\nwrote {shown(folder.below(PARTS))}, {shown(folder.below(SUMMARY))}")

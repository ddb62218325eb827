"""Your own pictures: `python -m gfl.data check --data_root data/mine`, and convert and split for what is not ready yet.

check looks at a data set as a training run would; convert reads other tools' formats; split makes a validation set;
shards writes pictures into .tar files.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from gfl.config import read_run
from gfl.data import split
from gfl.data.check.findings import Finding, lines
from gfl.data.check.inspection import Inspection, check_run, inspect
from gfl.data.convert import command as convert
from gfl.data.paths import split_paths
from gfl.data.shards import write as shards
from gfl.data.shards.pattern import images_at
from gfl.data.source.layouts import SplitPaths
from gfl.errors import InputError
from gfl.files import to_json, write_atomic
from gfl.report.data_page import data_page
from gfl.say import say
from gfl.settings import DataConfig, RunConfig
from gfl.signals import exit_code, interrupt_on_sigterm
from gfl.words import class_shares, counted


def check(arguments: argparse.Namespace) -> int:
    """Print what is found in a data set; 0 where nothing is wrong, 1 with findings, 2 where it cannot be trained on."""
    started = time.perf_counter()
    run = read_run(arguments.gin_file, arguments.gin_bindings).run
    splits = [
        inspect(split, paths, run.data, seed=run.seed, read_pictures=arguments.read_pictures)
        for split, paths in chosen_splits(arguments, run)
    ]
    val = splits[1] if len(splits) > 1 else None
    both = check_run(splits[0], val, run.data)
    for each in splits:
        say(f"{each.split:<6}{each.annotations}: {summary(each)}")
        for line in lines(each.findings):
            say(f"  {line}")
    for line in lines(both):
        say(line)
    everything = [each for split in splits for each in split.findings] + both
    status = exit_status(everything)
    seconds = time.perf_counter() - started
    verdict = {0: "nothing is wrong", 1: "trains, with the findings above", 2: "cannot be trained on as it is"}[status]
    looked = "every picture read" if arguments.read_pictures else "pictures not decoded (--read_pictures does)"
    say(f"{verdict} | {looked} | {sizes_text(run.data)} | {seconds:.1f} s")
    if arguments.json is not None:
        write_atomic(arguments.json, to_json(report(splits, both, status), indent=2) + "\n")
    if arguments.html is not None:
        write_atomic(arguments.html, data_page(name_of_data(arguments, run), splits, both))
        say(f"wrote {arguments.html}")
    return status


def chosen_splits(arguments: argparse.Namespace, run: RunConfig) -> list[tuple[str, SplitPaths]]:
    """The splits to look at: one file, or training and validation as the settings name them."""
    if arguments.annotations is not None:
        images = arguments.images or images_at(arguments.annotations.parent)
        return [("train", SplitPaths(arguments.annotations, images))]
    if arguments.images is not None:
        raise InputError("got --images without --annotations, expected both, or --data_root; give --annotations")
    data = run.data
    if arguments.data_root is not None:
        data = replace(
            data, root=arguments.data_root, train_json=None, train_images=None, val_json=None, val_images=None
        )
    splits = ["train", "val"] if run.eval_every else ["train"]
    return [(split, split_paths(data, split, without_val=not run.eval_every)) for split in splits]


def name_of_data(arguments: argparse.Namespace, run: RunConfig) -> str:
    """What the page calls the data set: its folder, or the one file that is looked at."""
    file = arguments.annotations or (None if arguments.data_root else run.data.train_json)
    if file is not None:
        return Path(file).name
    return Path(arguments.data_root or run.data.root or ".").expanduser().resolve().name


def summary(inspection: Inspection) -> str:
    """'205 pictures 2,804 boxes 3 classes (RBC 85%, ...)'."""
    data = inspection.data
    if data is None:
        return "cannot be used"
    counts = {name: int((data.truth.category_id == key).sum()) for key, name in data.truth.class_names.items()}
    boxes = counted(len(data.truth.boxes_xywh), "box", "boxes")
    most = max(len(picture.boxes_xyxy) for picture in data.pictures)
    return f"{counted(len(data.pictures), 'picture')} {boxes} {class_shares(counts)} | at most {most:,} a picture"


def sizes_text(cfg: DataConfig) -> str:
    """The sizes for which anchors were counted."""
    return f"anchors at SHORT_SIDE = {cfg.short_side}, LONG_SIDE = {cfg.long_side}"


def exit_status(findings: Sequence[Finding]) -> int:
    """2 with a fatal finding, 1 with any that is no note, else 0."""
    if any(each.is_fatal for each in findings):
        return 2
    return int(any(not each.is_note for each in findings))


def report(splits: Sequence[Inspection], both: Sequence[Finding], status: int) -> dict[str, object]:
    """What --json writes."""
    return {
        "status": status,
        "splits": {
            each.split: {
                "annotations": str(each.annotations),
                "pictures": None if each.data is None else len(each.data.pictures),
                "boxes": None if each.data is None else len(each.data.truth.boxes_xywh),
                "classes": None if each.data is None else list(each.data.names),
                "anchors": [group._asdict() for group in each.reach],
                "findings": [asdict(found) for found in each.findings],
            }
            for each in splits
        },
        "findings": [asdict(found) for found in both],
    }


def add_check_flags(flags: argparse.ArgumentParser) -> None:
    flags.add_argument("--data_root", help="a folder that DATA_ROOT takes (default: that of the run file)")
    flags.add_argument("--annotations", type=Path, help="one COCO JSON, instead of a folder")
    flags.add_argument("--images", type=images_at, help="the folder or shards of its pictures (default: the file's)")
    flags.add_argument(
        "--gin_file", action="append", default=[], help="the run whose sizes count (default: the paper's)"
    )
    flags.add_argument("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    flags.add_argument("--json", type=Path, help="write the findings to this file")
    flags.add_argument("--html", type=Path, help="write a page: class counts, box sizes, positions, sample pictures")
    flags.add_argument("--read_pictures", action="store_true", help="decode every picture and compare its size")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m gfl.data", description=__doc__)
    verbs = flags.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("check", help="look at a data set as a run would", description=check.__doc__)
    add_check_flags(one)
    one.set_defaults(run=check)
    two = verbs.add_parser("split", help="one file into training and validation")
    split.add_flags(two)
    two.set_defaults(run=split.run)
    three = verbs.add_parser("convert", help="other tools' formats into COCO's layout")
    convert.add_flags(three)
    three.set_defaults(run=convert.run)
    four = verbs.add_parser("shards", help="the pictures of a file into .tar shards")
    shards.add_flags(four)
    four.set_defaults(run=shards.run)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """One verb; its exit status, 2 on a user's mistake, 128 and its number when a signal stops it."""
    try:
        arguments = parser().parse_args(argv)
        return int(arguments.run(arguments))
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt as stopped:
        say("\nstopped", error=True)
        return exit_code(stopped)


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())

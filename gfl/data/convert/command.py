"""`python -m gfl.data convert`: another tool's annotations into the layout that this project trains from.

Every picture and every shape of the source is converted, or counted and named with the reason.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from gfl.data.convert.cvat import read_cvat
from gfl.data.convert.labelme import read_labelme
from gfl.data.convert.labelstudio import read_labelstudio
from gfl.data.convert.roboflow import read_roboflow
from gfl.data.convert.settle import Settled, settle
from gfl.data.convert.source import SPLITS, UNSPLIT, Notes, Picture, Request, Source, note
from gfl.data.convert.via import read_via
from gfl.data.convert.voc import read_voc
from gfl.data.convert.write import write_converted
from gfl.data.convert.yolo import read_yolo
from gfl.errors import InputError
from gfl.files import require_new
from gfl.say import say
from gfl.words import counted

FORMATS: dict[str, Callable[[Request], Source]] = {
    "voc": read_voc,
    "yolo": read_yolo,
    "roboflow": read_roboflow,
    "cvat": read_cvat,
    "labelstudio": read_labelstudio,
    "labelme": read_labelme,
    "via": read_via,
}
MOST_NAMED = 10  # things named in a line of the summary


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command to its parser."""
    parser.description = "Convert another tool's annotations into COCO's layout, which DATA_ROOT takes."
    parser.add_argument("--from", dest="format", required=True, choices=FORMATS, help="what SOURCE is an export of")
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the folder of the export, or its file")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the pictures are (default: with SOURCE)")
    parser.add_argument("--copy", action="store_true", help="copy the pictures instead of linking them")
    parser.add_argument("--attribute", metavar="NAME", help="VIA's attribute that holds the class")


def run(arguments: argparse.Namespace) -> int:
    """Convert as the flags say and print what was done; 0. Raises InputError before anything is written."""
    source, output = Path(arguments.source).expanduser(), Path(arguments.output).expanduser()
    images = None if arguments.images is None else Path(arguments.images).expanduser()
    for path in (source, images):
        if path is not None and not path.exists():
            raise InputError(f"{path}: no such file or folder, expected one; check the path")
    if source.suffix.lower() in (".zip", ".tar", ".gz", ".7z"):
        raise InputError(f"{source}: is an archive, expected a folder; unpack it and give the folder")
    if arguments.attribute is not None and arguments.format != "via":
        raise InputError("got --attribute, which only VIA's format has; leave it out")
    require_new(output)
    read = FORMATS[arguments.format](Request(source, images, arguments.attribute))
    splits = {
        split: settle(read, _each_once(pictures, split, read.notes), source)
        for split, pictures in sorted(read.splits.items(), key=lambda entry: (*SPLITS, UNSPLIT).index(entry[0]))
    }
    _note_unused(read)
    if not any(splits.values()):
        reasons = "; ".join(_lines(read.notes)) or "it names none"
        raise InputError(f"{source}: no picture could be converted ({reasons}); check SOURCE and --images")
    if not read.names:
        raise InputError(f"{source}: no box could be converted ({'; '.join(_lines(read.notes))}); check SOURCE")
    is_split = UNSPLIT not in splits
    written = splits if is_split else {"train": splits[UNSPLIT]}
    written = {split: pictures for split, pictures in written.items() if pictures}
    write_converted(output, written, read.names, read.notes, copy=bool(arguments.copy))
    for line in summary(written, read):
        say(line)
    for line in next_steps(output, written):
        say(line)
    return 0


def _each_once(pictures: Sequence[Picture], split: str, notes: Notes) -> list[Picture]:
    """Each file once; two annotations of one picture would be two pictures with half of the boxes."""
    seen: dict[Path, Picture] = {}
    where = "the source" if split == UNSPLIT else split
    for picture in pictures:
        real = picture.path.resolve()
        if real in seen:
            what = f"pictures that are more than once in {where}, the later ones left out"
            note(notes, what, picture.path.name)
        seen.setdefault(real, picture)
    return list(seen.values())


def _note_unused(read: Source) -> None:
    """Pictures beside the annotations which these do not name, and pictures that are in two splits."""
    used: dict[Path, str] = {}
    for split, pictures in read.splits.items():
        for path in dict.fromkeys(picture.path.resolve() for picture in pictures):
            if used.setdefault(path, split) != split:
                note(read.notes, f"pictures that are both in {used[path]} and in {split}", path.name)
    told = {Path(name).name for what, names in read.notes.items() if "left out" in what for name in names}
    for path in dict.fromkeys(path for index in read.indexes for paths in index.by_name.values() for path in paths):
        if path.name not in told and path.resolve() not in used:
            note(read.notes, "pictures without an annotation, left out", path.name)


def summary(splits: dict[str, list[Settled]], read: Source) -> list[str]:
    """What was converted, changed and left out, a line each."""
    lines = []
    for split, pictures in splits.items():
        counts = dict.fromkeys(read.names, 0)
        for box in (box for settled in pictures for box in settled.boxes):
            counts[box.name] += 1
        empty = sum(not settled.boxes for settled in pictures)
        shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:MOST_NAMED])
        more = f" and {len(counts) - MOST_NAMED} more" if len(counts) > MOST_NAMED else ""
        lines.append(
            f"{split:<6}{counted(len(pictures), 'picture')}, {counted(sum(counts.values()), 'box', 'boxes')}: "
            f"{shown}{more}" + (f" | {counted(empty, 'picture')} without boxes" if empty else "")
        )
    return lines + [f"  {line}" for line in _lines(read.notes)]


def _lines(notes: Notes) -> list[str]:
    """'polygons that became their bounding boxes: 12 (a.jpg (cat), b.jpg (dog) and 10 more)'."""
    lines = []
    for what, names in notes.items():
        distinct = [name for name in dict.fromkeys(names) if name]
        rest = f" and {len(distinct) - MOST_NAMED:,} more" if len(distinct) > MOST_NAMED else ""
        named = f" ({', '.join(distinct[:MOST_NAMED])}{rest})" if distinct else ""
        lines.append(f"{what}: {len(names):,}{named}" if distinct else what)
    return lines


def next_steps(output: Path, splits: dict[str, list[Settled]]) -> list[str]:
    """What to do next: split what is not split, and train. Each command works as it stands."""
    train = f'python -m gfl.train --gin_file scratch_small.gin --gin_bindings "DATA_ROOT = {str(output)!r}"'
    lines = [f"written to {output}"]
    split = f"python -m gfl.data split {shlex.quote(str(output / 'annotations' / 'instances_train.json'))} --val 0.2"
    if "train" not in splits:
        return [*lines, f"there is no training part in it, only {' and '.join(splits)}: convert one too, then: {train}"]
    if "val" not in splits:
        lines.append(f"there is no validation part; next: {split}")
        return [*lines, f'or train on all of it, without a validation: {train} "EVAL_EVERY = 0"']
    train_files, val_files = ({each.picture.path.resolve() for each in splits[name]} for name in ("train", "val"))
    if train_files & val_files:
        lines.append(f"validation holds pictures of training, so its AP says nothing of new ones; next: {split}")
        return lines
    return [*lines, f"next: {train}"]

"""`python -m gfl.data split`: one COCO file into training and validation, by picture.

The shares of the classes are kept (stratify.py), and pictures that look alike stay on one side (near_duplicates.py):
a model that has trained on a frame of a video knows the next one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfl.data.coco_json import Mask, collector_paused, read_coco_file
from gfl.data.source.layouts import default_split
from gfl.data.split.choice import Labelled, choose_side, find_together, label
from gfl.data.split.folder import Side, find_pictures, placed_names, write_split
from gfl.data.split.words import describe, next_command
from gfl.errors import InputError
from gfl.files import require_new
from gfl.say import say

MANY = 5000  # pictures that take long enough to say so


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command to its parser."""
    parser.description = (
        "Split a COCO file into training and validation, by picture and with the shares of its classes."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a COCO annotation file")
    parser.add_argument("--val", type=float, default=0.2, help="share of the pictures that validate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split (%(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the pictures (default: found around FILE)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder (default: FILE's name and _split)")
    parser.add_argument("--copy", action="store_true", help="copy the pictures instead of linking them")
    parser.add_argument(
        "--ignore_near_duplicates",
        action="store_true",
        help="compare no pictures: frames of one video may then be on both sides",
    )
    parser.add_argument(
        "--without_pictures", action="store_true", help="split by class alone and write only the two JSON files"
    )


@collector_paused()
def run(arguments: argparse.Namespace) -> int:
    """Split as the flags say and print what was done; 0. Raises InputError before anything is written."""
    share, seed = float(arguments.val), int(arguments.seed)
    if not 0 < share < 1:  # also NaN
        raise InputError(f"got --val {share:g}, expected a share between 0 and 1; give e.g. 0.2 for a fifth")
    if seed < 0:
        raise InputError(f"got --seed {seed}, expected 0 or more; choose another")
    path = Path(arguments.file).expanduser()
    output = Path(arguments.output).expanduser() if arguments.output else default_split(path)
    require_new(output)
    data = label(read_coco_file(path))
    count = len(data.ids)
    if count < 2:
        raise InputError(f"{path}: got {count} pictures in it, expected at least 2; add pictures")
    paths, note = None, ""
    if not arguments.without_pictures:
        images = Path(arguments.images).expanduser() if arguments.images else None
        paths, note = find_pictures(path, images, data.file_names)
        if count >= MANY and not arguments.ignore_near_duplicates:
            say(f"reading {count:,} pictures to find near-duplicates (--ignore_near_duplicates saves it)")
    val = min(max(round(share * count), 1), count - 1)
    together = find_together(data, paths, max(val, count - val), compare=not arguments.ignore_near_duplicates)
    in_val = choose_side(data, together, val, seed)
    placed, renamed = placed_names(data.file_names, data.ids.tolist())
    sides = [_side(data, in_val == which, paths, placed, renamed) for which in (False, True)]
    write_split(output, data.file, *sides, pictures=paths is not None, copy=bool(arguments.copy))
    missing = [at for at, file in enumerate(paths or []) if not file.is_file()]
    moved = [(data.file_names[at], placed[at]) for at in renamed]
    for line in describe(data, together, in_val, asked=val, missing=missing, renamed=moved, note=note):
        say(line)
    say(next_command(output, pictures=paths is not None))
    return 0


def _side(data: Labelled, chosen: Mask, paths: Sequence[Path] | None, placed: list[str], renamed: list[int]) -> Side:
    """The rows and links of the chosen pictures. Rows stay as they are written, but for a name that is not safe."""
    positions, moved = np.flatnonzero(chosen).tolist(), {*renamed}
    of_side = (data.picture >= 0) & chosen[data.picture]
    links = {placed[at]: paths[at] for at in positions if paths[at].is_file()} if paths is not None else {}
    return Side(
        images=[
            {**data.file.images.rows[at], "file_name": placed[at]} if at in moved else data.file.images.rows[at]
            for at in positions
        ],
        annotations=[data.file.annotations.rows[at] for at in np.flatnonzero(of_side).tolist()],
        links=[(source, name) for name, source in links.items()],
    )

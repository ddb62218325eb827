"""`python -m gfl.data shards`: the pictures of a COCO file in .tar shards, in the order of the file."""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from gfl.data.coco_json import read_coco_file
from gfl.data.picture_files import PictureFile, read_bytes
from gfl.data.shards.pattern import images_at, shard_in
from gfl.data.source.picture_folder import find_pictures
from gfl.errors import InputError
from gfl.files import new_folder
from gfl.say import say
from gfl.words import counted, memory


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command to its parser."""
    parser.description = "Write the pictures of a COCO file into .tar shards, as they are."
    parser.add_argument("file", type=Path, metavar="FILE", help="a COCO annotation file")
    parser.add_argument("--images", type=images_at, required=True, help="the folder (or shards) of its pictures")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="a new folder")
    parser.add_argument("--megabytes", type=float, default=1000, help="about so large is a shard (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Write the shards; 0, or 1 where pictures were left out, which are named. Raises InputError."""
    if not arguments.megabytes > 0:  # also NaN
        raise InputError(f"got --megabytes {arguments.megabytes:g}, expected more than 0; omit it for the default")
    file, output = read_coco_file(arguments.file, needed=("images",)), arguments.output.expanduser()
    names = file.images.texts("file_name")
    paths, _ = find_pictures(file.path, arguments.images, names)
    full, number, lost = arguments.megabytes * 1e6, 0, list[str]()
    pictures = readable(names, paths, lost)
    with new_folder(output) as folder:
        waiting = next(pictures, None)
        while waiting:
            with tarfile.open(shard_in(folder, number, output.name), "x") as archive:
                while waiting and (not archive.offset or archive.offset + len(waiting[1]) <= full):
                    about = tarfile.TarInfo(waiting[0])  # of no time and no owner: the same pictures, the same shards
                    about.size = len(waiting[1])
                    archive.addfile(about, BytesIO(waiting[1]))
                    waiting = next(pictures, None)
            number += 1
        written = sum(path.stat().st_size for path in folder.iterdir())
    said = f"{counted(number, 'shard')}, {counted(len(names) - len(lost), 'picture')}, {memory(written)}"
    say(f"wrote {said}: TRAIN_IMAGES = '{output / output.name}-*.tar'")
    return int(bool(lost))


def readable(names: Sequence[str], files: Sequence[PictureFile], lost: list[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each picture; those that cannot be read are said, and their names go to `lost`."""
    for name, file in zip(names, files, strict=True):
        try:
            yield name, read_bytes(file)
        except InputError as error:
            say(f"left out: {error}", error=True)
            lost.append(name)

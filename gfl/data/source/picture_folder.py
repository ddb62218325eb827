"""Where the pictures of an annotation file are: its file names start from a folder, and tools choose different ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gfl.data.lazy import Lazy
from gfl.data.picture_files import PictureFile
from gfl.data.shards.index import find_members
from gfl.data.shards.pattern import Images, Shards
from gfl.errors import InputError

PROBED_PICTURES = 20  # file names, spread over the file, by which a folder is judged


class Paths(Lazy[Path]):
    """Paths of pictures."""

    def __init__(self, start: Path, place: Callable[[Path, str], Path], names: Sequence[str]) -> None:
        """place: (start, name) -> the path."""
        self._start, self._place, self._names = start, place, names

    def __len__(self) -> int:
        return len(self._names)

    def make(self, at: int) -> Path:
        return self._place(self._start, self._names[at])


def find_pictures(file: Path, images: Images, names: Sequence[str]) -> tuple[Sequence[PictureFile], str]:
    """Each picture of the annotation file, in a folder or in shards, and a note where it is not as the names say.

    Raises InputError as `picture_paths` and `find_members`.
    """
    return find_members(file, images, names) if isinstance(images, Shards) else picture_paths(file, images, names)


def picture_paths(file: Path, folder: Path, names: Sequence[str]) -> tuple[Sequence[Path], str]:
    """The path of each picture of the annotation file, and a note where they are not in the folder given.

    folder: the folder that was named for the pictures. The names may start from it, or from the folder of the file;
    Windows' backslashes separate folders. Raises InputError where neither holds any of the pictures probed.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such images folder, expected the pictures of {file}; check DATA_ROOT, or the path given"
        )
    if not names:
        return [], ""
    probed = names[:: max(1, len(names) // PROBED_PICTURES)]
    starts = list(dict.fromkeys([folder, *_other_starts(file, folder)]))
    forms = [(start, in_folders) for start in starts]
    if not all(in_folders(folder, name).is_file() for name in probed):
        bare = len({_bare(name) for name in names}) == len(names)  # else two pictures would share one file
        forms += [(start, _in_one_folder) for start in starts if bare]
    hits = [sum(place(start, name).is_file() for name in probed) for start, place in forms]
    if not max(hits):
        raise InputError(
            f"{folder}: holds none of {len(probed)} pictures of {file} that were looked for (e.g. {probed[0]}), "
            "expected the folder that its file names start from; pass that folder"
        )
    start, place = forms[hits.index(max(hits))]
    note = "" if (start, place) == forms[0] else f"the pictures of {file} were found from {start}, not from {folder}"
    return Paths(start, place, names), note


def in_folders(start: Path, name: str) -> Path:
    """The file of a name; backslashes separate folders unless a file has them in its very name."""
    if "\\" in name and not (start / name).is_file():
        return start / name.replace("\\", "/")
    return start / name


def _in_one_folder(start: Path, name: str) -> Path:
    """The file of a name without its folders, which may be those of a server or of another machine."""
    return start / _bare(name)


def _bare(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _other_starts(file: Path, folder: Path) -> Iterator[Path]:
    """The folders that tools let file names start from: that of the file, the one above, and images/ in each."""
    for parent in (file.parent, file.parent.parent, folder.parent):
        yield parent
        if (parent / "images").is_dir():
            yield parent / "images"

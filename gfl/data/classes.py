"""The classes of an annotation file beside those of another, of a run and of a model: by name, never by place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.class_names import ClassMap, list_names, map_classes, match_names
from gfl.data.coco import CocoData
from gfl.data.coco_json import class_names, read_coco_file
from gfl.errors import InputError


def map_labels(model_names: Sequence[str], data: CocoData, given: Sequence[str] = ()) -> ClassMap:
    """Map a model's labels to the category ids of the annotations; `given` and InputError as of `map_classes`."""
    file_names = dict(zip(data.category_ids, data.names, strict=True))
    return map_classes(model_names, file_names, str(data.annotations), given)


def category_ids_in(val: CocoData, train: CocoData) -> tuple[int, ...]:
    """The validation file's category ids in the order of the training file's classes; InputError for other classes."""
    places = [place for place in match_names(train.names, val.names) if place is not None]
    if not len(places) == len(train.names) == len(val.names):
        raise InputError(
            f"{val.annotations} names the classes {val.names[:5]}, {train.annotations} {train.names[:5]}; give "
            "training and validation the same categories"
        )
    return tuple(val.category_ids[place] for place in places)


def require_same_classes(train: CocoData, names: object) -> None:
    """InputError unless the annotations name the classes of the run that is resumed, in its order.

    names: as the run's checkpoint has them; anything but a list, of a run that did not keep them, is not compared.
    """
    before = [str(name) for name in names] if isinstance(names, (list, tuple)) else list(train.names)
    if before == list(train.names):
        return
    place = next((i for i, pair in enumerate(zip(before, train.names, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(before), len(train.names)) if place is None else place
    first, now = (repr(names[place]) if place < len(names) else "none" for names in (before, train.names))
    raise InputError(
        f"{train.annotations} names the classes {list_names(train.names)}, expected those of the run that is resumed, "
        f"in its order: {list_names(before)} (first difference: class {place + 1} is {now}, was {first}); take the "
        "change back, or start a run of its own with --checkpoint, which keeps classes by name"
    )


class NamedClasses(NamedTuple):
    """Classes, label 0 first, as a person names them for weights that do not."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]


def read_class_names(given: str | Path | Sequence[str]) -> NamedClasses:
    """The names as they are, or those in a file: of COCO annotations (.json) the categories, else a name a line.

    Category ids are those of the annotations, else they count from 1. Raises InputError for a file that cannot be read,
    for no name at all, and for a name that is no text or empty.
    """
    if isinstance(given, (str, Path)):
        path = Path(given).expanduser()
        if path.suffix.lower() == ".json":
            by_id = class_names(read_coco_file(path, needed=("categories",)))
            return NamedClasses(tuple(by_id.values()), tuple(by_id))
        source, names = str(path), _lines(path)
    else:
        source, names = "the list of class names", list(given)
    wrong = next((place for place, name in enumerate(names) if not (isinstance(name, str) and name.strip())), None)
    if wrong is not None or not names:
        got = f"{names[wrong]!r} as name {wrong + 1}" if wrong is not None else "no name"
        raise InputError(f"{source} has {got}, expected a name for each class in the order of the labels; add it")
    return NamedClasses(tuple(names), tuple(range(1, len(names) + 1)))


def _lines(path: Path) -> list[str]:
    """The lines of a text file, without those that are empty at its end."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text of UTF-8"
        raise InputError(
            f"{path} cannot be read ({reason}), expected class names, one a line, or COCO annotations; check the name"
        ) from None

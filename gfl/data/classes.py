"""The classes of an annotation file beside those of another, of a run and of a model: by name, never by place."""

from __future__ import annotations

from collections.abc import Sequence

from gfl.class_names import ClassMap, list_names, map_classes, match_names
from gfl.data.coco import CocoData
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

"""Classes of two sources matched by their names, never by their places.

>>> match_names(("cat", "dog", "bus"), ("Dog ", "cat"))
(1, 0, None)
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError

MOST_NAMED = 10  # class names that a line of text lists


class ClassMap(NamedTuple):
    """Which category of a file each label of a model stands for."""

    category_ids: tuple[int | None, ...]  # label -> the file's category id; None: the file has no such class
    notes: tuple[str, ...]  # what a user should know of it, a line each


def trust_note(checkpoint: Path, annotations: Path) -> str:
    """What is said of a checkpoint without class names, whose labels are taken in the order of the annotations."""
    return f"{checkpoint} does not name its classes; that they are in the order of {annotations} is taken on trust"


def match_names(wanted: Sequence[str], offered: Sequence[str]) -> tuple[int | None, ...]:
    """For each wanted class the place of the offered one of its name; None where there is none.

    Equal names are matched first. What is then left is matched with case and surrounding blanks ignored, where that
    leaves exactly one on either side. Classes of one name are matched in their order.
    """
    found: list[int | None] = [None] * len(wanted)
    exact, rest = _by_key(offered, range(len(offered)), str), []
    for place, name in enumerate(wanted):
        if exact[name]:
            found[place] = exact[name].pop(0)
        else:
            rest.append(place)
    loose = _by_key(offered, (place for places in exact.values() for place in places), _loosely)
    for key, places in _by_key(wanted, rest, _loosely).items():
        if len(places) == len(loose[key]) == 1:
            found[places[0]] = loose[key][0]
    return tuple(found)


def loose_matches(
    wanted: Sequence[str], offered: Sequence[str], places: Sequence[int | None]
) -> tuple[tuple[str, str], ...]:
    """The (wanted, offered) names of `match_names` that differ in case or in surrounding blanks."""
    pairs = ((name, offered[place]) for name, place in zip(wanted, places, strict=True) if place is not None)
    return tuple((name, other) for name, other in pairs if name != other)


def list_names(names: Iterable[str]) -> str:
    """'cat, dog', or the first ten and how many more there are."""
    names = list(names)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def map_classes(
    model_names: Sequence[str], file_names: Mapping[int, str], source: str, given: Sequence[str] = ()
) -> ClassMap:
    """Map a model's labels to the category ids of a file by class name.

    Args:
        model_names: label -> class name.
        file_names: category id -> class name.
        source: the file, for messages.
        given: 'model name=file name' for classes that have two names, 'model name=' for those to leave out. They win
            over equal names; several classes of the model may stand for one of the file.

    Raises InputError for a given name that is not there, a class given twice, and a class of the file that no class of
    the model stands for.
    """
    ids, names = list(file_names), list(file_names.values())
    chosen = _given_places(model_names, names, source, given)
    rest = [label for label in range(len(model_names)) if label not in chosen]
    free = [place for place in range(len(ids)) if place not in chosen.values()]
    rest_names, free_names = [model_names[label] for label in rest], [names[place] for place in free]
    places = match_names(rest_names, free_names)
    for label, place in zip(rest, places, strict=True):
        chosen[label] = None if place is None else free[place]
    missing = [name for place, name in enumerate(names) if place not in chosen.values()]
    if missing:
        unused = [model_names[label] for label, place in sorted(chosen.items()) if place is None]
        raise InputError(_missing(source, missing, unused, model_names))
    notes = [
        f"class {name!r} of the model is taken for {other!r} of {source}"
        for name, other in loose_matches(rest_names, free_names, places)
    ]
    left_out = [name for label, name in enumerate(model_names) if chosen[label] is None]
    if left_out:
        notes.append(
            f"{len(left_out)} of the model's {len(model_names)} classes are not counted, for {source} has no class for "
            f"them: {list_names(left_out)}"
        )
    places_in_order = (chosen[label] for label in range(len(model_names)))
    return ClassMap(tuple(None if place is None else ids[place] for place in places_in_order), tuple(notes))


def _given_places(
    model_names: Sequence[str], file_names: Sequence[str], source: str, given: Sequence[str]
) -> dict[int, int | None]:
    """Label -> the place of its class in the file, None to leave it out; for the classes of --class_map alone."""
    chosen: dict[int, int | None] = {}
    for text in given:
        if "=" not in text:
            raise InputError(
                f"got --class_map {text!r}, expected 'model name=file name', or 'model name=' to leave out"
            )
        ours, theirs = _split(text, model_names)
        label = place_of_name(ours, model_names, f"--class_map {text!r} names {ours!r}, which is no class of the model")
        if label in chosen:
            raise InputError(f"got --class_map twice for the class {ours!r} of the model, expected it once; remove one")
        chosen[label] = (
            place_of_name(theirs, file_names, f"--class_map {text!r} names {theirs!r}, which is no class of {source}")
            if theirs
            else None
        )
    return chosen


def _split(text: str, model_names: Sequence[str]) -> tuple[str, str]:
    """The two names around a '='; a name may hold one itself."""
    splits = [(text[:at].strip(), text[at + 1 :].strip()) for at, letter in enumerate(text) if letter == "="]
    return next((pair for pair in splits if pair[0] in model_names), splits[0])


def place_of_name(name: str, names: Sequence[str], wrong: str) -> int:
    """Where a name is among others; InputError, `wrong` with the nearest of them, where it is not."""
    if name in names:
        return names.index(name)
    near = _nearest(name, names)
    raise InputError(f"{wrong}; {f'did you mean {near!r}?' if near else f'expected one of {list_names(names)}'}")


def _nearest(name: str, names: Sequence[str]) -> str | None:
    by_key = {_loosely(each): each for each in names}
    near = difflib.get_close_matches(_loosely(name), by_key, n=1, cutoff=0.6)
    return by_key[near[0]] if near else None


def _missing(source: str, missing: Sequence[str], unused: Sequence[str], model_names: Sequence[str]) -> str:
    """What is wrong where classes of a file have no class of the model, with a proposal for the first."""
    if taken := [name for name in missing if name in model_names]:  # nothing else takes a class from its own name
        return (
            f"{source} has {list_names(taken)}, for which --class_map leaves no class of the model, expected one for "
            "each class of the file; change --class_map, or give a file without them"
        )
    near = _nearest(missing[0], unused) or (unused[0] if unused else model_names[0])
    return (
        f"{source} has {list_names(missing)}, which the model does not know: it was trained on "
        f"{list_names(model_names)}; give annotations of the model's classes, or say which class stands for which, "
        f"e.g. --class_map '{near}={missing[0]}'"
    )


def _loosely(name: str) -> str:
    return name.strip().casefold()


def _by_key(names: Sequence[str], places: Iterable[int], key: Callable[[str], str]) -> defaultdict[str, list[int]]:
    """Places by the key of their names, in their order."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for place in sorted(places):
        found[key(names[place])].append(place)
    return found

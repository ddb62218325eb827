"""The rows of a checkpoint's class layer, put into the places that their classes have in the run's data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from gfl.class_names import list_names, loose_matches, match_names

CLASS_LAYER = "bbox_head.gfl_cls."  # the one layer whose shape follows the number of classes
BIAS = CLASS_LAYER + "bias"


@dataclass(frozen=True)
class ClassRows:
    """What becomes of the class layer of a file."""

    leaves: Mapping[str, Tensor]  # path -> values for the model's layer; empty where no row is kept
    complete: bool  # whether every row of the model comes from the file
    text: str  # the same in words, for the head of a run


def place_rows(
    leaves: Mapping[str, Tensor], state: Mapping[str, Tensor], wanted: Sequence[str], offered: Sequence[str] | None
) -> ClassRows | None:
    """Take the rows of the file's class layer by the names of their classes; other rows stay as they are in `leaves`.

    leaves, state: the weights of the model and of the file by path; wanted, offered: the classes of the model and of
    the file, in the order of their rows, which a row for the background may follow. offered None, for a file that does
    not name its classes: where it has as many rows, they are taken as they stand.
    Returns None for a file without a class layer that fits the model's towers.
    """
    paths = [path for path in leaves if path.startswith(CLASS_LAYER)]
    if BIAS not in paths or any(path not in state or state[path].shape[1:] != leaves[path].shape[1:] for path in paths):
        return None
    in_file, in_model = len(state[BIAS]), len(leaves[BIAS])
    if offered is None:
        if in_file == in_model:
            taken = (
                "kept by place: the file does not name its classes, so that they are in this order is taken on trust"
            )
            return ClassRows({path: state[path] for path in paths}, True, f"class layer: all {in_file} rows {taken}")
        return ClassRows(
            {}, False, f"class layer: new, {in_file} -> {in_model} rows; the file does not name its classes"
        )
    if in_file - len(offered) not in (0, 1):
        wrong = f"the file names {len(offered)} classes and has {in_file} rows"
        return ClassRows({}, False, f"class layer: new, {in_model} rows; {wrong}")
    places = match_names(wanted, offered)
    rows = {row: place for row, place in enumerate(places) if place is not None}
    text = _in_words(wanted, offered, places)
    if in_model > len(wanted) and rows:
        if in_file > len(offered):
            rows[len(wanted)] = len(offered)
        text += f"; background: {'kept' if in_file > len(offered) else 'new'}"
    placed: dict[str, Tensor] = {}
    for path in paths if rows else ():
        placed[path] = leaves[path].detach().clone()
        placed[path][list(rows)] = state[path][list(rows.values())].to(leaves[path].dtype)
    return ClassRows(placed, len(rows) == in_model, text)


def _in_words(wanted: Sequence[str], offered: Sequence[str], places: Sequence[int | None]) -> str:
    """'class layer: 2 of 3 rows kept by name (RBC, WBC), new: Platelets; not used from the file: dog, ...'."""
    kept = [name for name, place in zip(wanted, places, strict=True) if place is not None]
    new = [name for name, place in zip(wanted, places, strict=True) if place is None]
    unused = [name for place, name in enumerate(offered) if place not in places]
    text = f"class layer: {len(kept)} of {len(wanted)} rows kept by name"
    text += f" ({list_names(kept)})" if kept else ""
    text += f", new: {list_names(new)}" if new else ""
    text += f"; not used from the file: {list_names(unused)}" if unused else ""
    loose = [f"{name!r} from {other!r}" for name, other in loose_matches(wanted, offered, places)]
    return text + (f"; case and blanks ignored: {list_names(loose)}" if loose else "")

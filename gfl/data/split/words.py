"""What is said of a split: pictures and boxes a side, the share of each class, near-duplicates, what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gfl.data.coco_json import Mask
from gfl.data.split.choice import Labelled, Together
from gfl.words import counted

MOST_CLASSES = 20  # in the table
MOST_NAMED = 10  # file names or classes in a sentence


def describe(
    data: Labelled,
    together: Together,
    in_val: Mask,
    *,
    asked: int,
    missing: Sequence[int],
    renamed: Sequence[tuple[str, str]],
    note: str,
) -> Iterator[str]:
    """The lines that are printed.

    asked: pictures that should validate. missing: pictures without a file. renamed: the file names that would have led
    out of the folder, and the new ones. note: where the pictures were found, if not where they were said to be.
    """
    yield f"{data.file.path}: {_counts(data, np.ones_like(in_val))}"
    yield f"train   {_counts(data, ~in_val)}"
    yield f"val     {_counts(data, in_val)} ({in_val.mean():.1%} of the pictures)"
    yield from _shares(data, in_val)
    yield from _alike(data, together, asked)
    unread = sorted({*together.unread} - {*missing})
    for what, positions in (("not found and not linked", missing), ("not readable", unread)):
        if positions:
            yield f"{counted(len(positions), 'picture')} {what}, in the split all the same: {_listed(data, positions)}"
    dangling, unknown = data.picture < 0, (data.kind < 0) & (data.picture >= 0)
    if dangling.any():
        which = data.file.annotations.name_of(int(np.argmax(dangling)))
        yield f"{counted(int(dangling.sum()), 'annotation')} of no picture in the file left out (e.g. {which})"
    if unknown.any():
        which = data.file.annotations.name_of(int(np.argmax(unknown)))
        yield f"{counted(int(unknown.sum()), 'annotation')} of no class in the file kept as written (e.g. {which})"
    for name, placed in renamed[:1]:
        yield (
            f"{counted(len(renamed), 'picture')} got another file name, as the old one leads out of the folder "
            f"(e.g. {name} is now {placed})"
        )
    if note:
        yield note


def next_command(output: Path, *, pictures: bool) -> str:
    """Where the split is, and the command that trains on it."""
    bindings = [f"DATA_ROOT = {str(output)!r}"]
    if not pictures:
        bindings = []
        for side in ("train", "val"):
            file = output / "annotations" / f"instances_{side}.json"
            bindings += [f"{side.upper()}_JSON = {str(file)!r}", f"{side.upper()}_IMAGES = 'FOLDER'"]
    flags = " ".join(f'"{binding}"' for binding in bindings)
    what = "" if pictures else " (the two JSON files alone, split by class)"
    return (
        f"written to {output}{what}; next:\n    python -m gfl.train --gin_file scratch_small.gin --gin_bindings {flags}"
    )


def _counts(data: Labelled, chosen: Mask) -> str:
    """'234 pictures, 2,805 boxes', and how many of the pictures have none."""
    boxes = np.bincount(data.picture[data.picture >= 0], minlength=len(chosen))[chosen]
    empty = int((boxes == 0).sum())
    text = f"{counted(len(boxes), 'picture')}, {counted(int(boxes.sum()), 'box', 'boxes')}"
    return text + (f", {counted(empty, 'picture')} without a box" if empty else "")


def _shares(data: Labelled, in_val: Mask) -> Iterator[str]:
    """A table of the classes where they are few, and the classes that are on one side only."""
    known = (data.picture >= 0) & (data.kind >= 0)
    boxes = data.kind[known], in_val[data.picture[known]]
    pairs = np.unique(np.stack([data.picture[known], data.kind[known]], axis=1), axis=0)
    pictures = pairs[:, 1], in_val[pairs[:, 0]]
    totals, insides = (
        [
            np.bincount(kind[inside | everything], minlength=len(data.names)).tolist()
            for kind, inside in (pictures, boxes)
        ]
        for everything in (True, False)
    )
    if len(data.names) <= MOST_CLASSES:
        wide = max(map(len, [*data.names, "class"]))
        yield f"{'class':<{wide}}  pictures   in val     boxes   in val"
        for at, name in enumerate(data.names):
            cells = [
                f"{total[at]:>8,}  {f'{inside[at] / total[at]:.1%}' if total[at] else '-':>7}"
                for total, inside in zip(totals, insides, strict=True)
            ]
            yield f"{name:<{wide}}  {'  '.join(cells)}"
    for side, all_of_it in (("train", 0), ("val", 1)):
        only = [at for at, total in enumerate(totals[0]) if total and insides[0][at] == all_of_it * total]
        if only:
            single = sum(totals[0][at] == 1 for at in only)
            why = f" ({single:,} of them with a single picture)" if single else ""
            names = _cut([data.names[at] for at in only])
            yield f"{counted(len(only), 'class', 'classes')} in {side} only{why}: {names}"


def _alike(data: Labelled, together: Together, asked: int) -> Iterator[str]:
    """The groups of pictures that look alike, and those that are too large for the share asked for."""
    if not together.compared:
        yield "the pictures were not compared: near-duplicates may be on both sides"
    for size in together.cut:
        yield (
            f"a group of {size:,} pictures that look alike, or are alike by way of others, is too large for either "
            "side and was cut where its pictures differ more: alike pictures may be on both sides"
        )
    if not together.alike:
        return
    largest = max(together.alike, key=len)
    first, second = (data.file_names[at] for at in largest[:2])
    groups, pictures = len(together.alike), sum(map(len, together.alike))
    extent = f"; the largest has {len(largest):,}" if groups > 1 else ""
    yield (
        f"near-duplicates: {counted(groups, 'group')} of {pictures:,} pictures{', each' if groups > 1 else ''} kept on "
        f"one side{extent} (e.g. {first} and {second})"
    )
    if len(largest) > asked:
        yield (
            f"the largest group has more than the {counted(asked, 'picture')} asked for in val, so that it decides "
            "the shares: look whether its pictures are alike, and if not, split with --ignore_near_duplicates"
        )


def _listed(data: Labelled, positions: Sequence[int]) -> str:
    return _cut([data.file_names[at] for at in sorted(positions, key=lambda at: int(data.ids[at]))])


def _cut(names: Sequence[str]) -> str:
    more = [f"{len(names) - MOST_NAMED:,} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])

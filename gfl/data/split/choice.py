"""Which pictures of a COCO file validate, and which of them stay together. Letters: P pictures, N annotations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gfl.data.coco_json import CocoFile, Ints, Mask, class_names
from gfl.data.split.near_duplicates import cut_chains, group_alike, read_looks
from gfl.data.split.stratify import choose_val
from gfl.errors import InputError


class Labelled(NamedTuple):
    """The pictures of a file and the classes of their boxes, by position."""

    file: CocoFile
    ids: Ints  # (P,) in the file's order
    file_names: Sequence[str]  # (P,)
    names: list[str]  # of the classes, in the order of their ids
    picture: Ints  # (N,) position of each annotation's picture; -1 where the file has no such picture
    kind: Ints  # (N,) position of each annotation's class; -1 where the file has no such class


class Together(NamedTuple):
    """Pictures that stay on one side, by position."""

    groups: list[list[int]]  # every picture is in one
    alike: list[list[int]]  # those groups of more than one picture whose pictures look alike
    cut: list[int]  # sizes of groups that were too large for either side and had to be cut
    unread: list[int]  # pictures that cannot be read
    compared: bool  # whether the pictures were compared at all


def label(file: CocoFile) -> Labelled:
    """The pictures and classes of a file. Raises InputError where ids or names are missing, wrong or used twice."""
    names = class_names(file)
    image_ids = file.images.ids()
    return Labelled(
        file=file,
        ids=image_ids,
        file_names=file.images.texts("file_name"),
        names=list(names.values()),
        picture=_positions(file.annotations.integers("image_id"), image_ids),
        kind=_positions(file.annotations.integers("category_id"), np.array(list(names), dtype=np.int64)),
    )


def _positions(wanted: Ints, known: Ints) -> Ints:
    """Where each id stands among the known ones; -1 where it is not among them."""
    if not len(known):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(known)
    found = order[np.searchsorted(known[order], wanted).clip(max=len(known) - 1)]
    return np.where(known[found] == wanted, found, -1)


def find_together(data: Labelled, paths: Sequence[Path] | None, largest: int, *, compare: bool) -> Together:
    """Which pictures stay together: those of one file, and those that look alike.

    paths: of the pictures; None: only the file names count. largest: pictures that fit on the larger side; a group of
    more, held together by chains, is cut. compare: read the pictures and look for those that are alike.
    Raises InputError where all stay together.
    """
    by_id = np.argsort(data.ids).tolist()  # the order of the rows must not decide
    of_file: dict[str, list[int]] = {}
    for position in by_id:
        of_file.setdefault(str(paths[position]) if paths else data.file_names[position], []).append(position)
    files = list(of_file.values())
    alike: list[list[int]] = []
    cut: list[int] = []
    unread: list[int] = []
    compare = compare and paths is not None
    if paths is not None and compare:
        looks, readable = read_looks([paths[positions[0]] for positions in files])
        unread = [position for index in sorted({*range(len(files))} - {*readable}) for position in files[index]]
        whole = group_alike(looks)
        cut = [len(group) for group in whole if len(group) > largest]
        parts = cut_chains(looks, whole, largest)
        alike = [[position for at in part for position in files[readable[at]]] for part in parts]
    grouped = {position for group in alike for position in group}
    groups = [*alike, *(positions for positions in files if positions[0] not in grouped)]
    if len(groups) == 1:
        first, second = (data.file_names[at] for at in groups[0][:2])
        raise InputError(
            f"{data.file.path}: all {len(data.ids):,} pictures {'look alike' if alike else 'are one file'} (e.g. "
            f"{first} and {second}), expected some to validate on that training does not know; add other pictures"
            + (", or split these as they are with --ignore_near_duplicates" if alike else "")
        )
    rank = {position: at for at, position in enumerate(by_id)}
    return Together(sorted(groups, key=lambda group: rank[group[0]]), alike, cut, unread, compare)


def choose_side(data: Labelled, together: Together, val: int, seed: int) -> Mask:
    """(P,) whether each picture validates, about `val` of them; the order of the file's rows does not matter."""
    classes: list[set[int]] = [set() for _ in data.ids]
    known = (data.picture >= 0) & (data.kind >= 0)
    for position, kind in zip(data.picture[known].tolist(), data.kind[known].tolist(), strict=True):
        classes[position].add(kind)
    in_val = np.zeros(len(data.ids), dtype=np.bool_)
    for group, chosen in zip(together.groups, choose_val(together.groups, classes, val, seed).tolist(), strict=True):
        in_val[group] = chosen
    return in_val

"""Which pictures validate: a share of each class, whole groups on one side.

Source: Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data, 2011 (the rarest class is dealt
out first); then single groups change sides, or two exchange them, where that brings the shares closer.
Letters: U units (groups of pictures that stay together), K classes, N entries (a unit and a class that it has).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ABSENT = 100.0  # what a class that is missing on one side costs, in squared pictures: more than any class's share
EMPTY = 1e12  # what a side without any picture costs: more than any number of pictures that is off
PICTURE_OFF = 1000.0  # what a picture too many or too few costs, squared: the number asked for comes first
TRIES = 1000  # exchanges tried; at 100,000 pictures each takes about 10 ms
CANDIDATES = 8  # units of each side for which a partner is looked for


class Units(NamedTuple):
    """Groups of pictures and the classes they have; the last class, which all have, counts all pictures."""

    sizes: Ints  # (U,) pictures
    unit: Ints  # (N,) ascending
    kind: Ints  # (N,) the class, 0-based
    pictures: Ints  # (N,) of the unit that have the class
    wanted: Floats  # (K,) pictures of each class that should validate
    totals: Ints  # (K,) pictures of each class
    splittable: Mask  # (K,) whether two units have the class, so that both sides can have it


def choose_val(groups: Sequence[Sequence[int]], classes: Sequence[Collection[int]], val: int, seed: int) -> Mask:
    """(U,) whether each group validates, so that about `val` pictures of all do and as large a share of each class.

    groups: positions of pictures that stay together, every picture in one; classes: of each picture, those that it
    has, numbered from 0. The result depends on the order of the groups, so give them in an order that only the seed
    decides: ties go by it.
    """
    units = _count(groups, classes, val)
    return _exchange(units, _deal(units, np.random.default_rng(seed)))


def _count(groups: Sequence[Sequence[int]], classes: Sequence[Collection[int]], val: int) -> Units:
    """Pictures without boxes count as a class of their own, and all pictures as the last one."""
    count = len(classes)
    without = 1 + max((kind for kinds in classes for kind in kinds), default=-1)
    everything = without + 1
    pairs = [
        unit * (everything + 1) + kind
        for unit, group in enumerate(groups)
        for picture in group
        for kind in (*(set(classes[picture]) or (without,)), everything)
    ]
    keys, pictures = np.unique(np.array(pairs, dtype=np.int64), return_counts=True)
    unit, kind = np.divmod(keys, everything + 1)
    totals = np.bincount(kind, weights=pictures, minlength=everything + 1).astype(np.int64)
    splittable: Mask = np.bincount(kind, minlength=everything + 1) > 1
    wanted: Floats = totals.astype(np.float64) * val / count
    wanted = np.where(splittable, wanted.clip(1, np.maximum(totals - 1, 1)), 0.0)  # what only one side can have trains
    return Units(
        sizes=np.array([len(group) for group in groups], dtype=np.int64),
        unit=unit,
        kind=kind,
        pictures=pictures.astype(np.int64),
        wanted=wanted,
        totals=totals,
        splittable=splittable,
    )


def _deal(units: Units, rng: np.random.Generator) -> Mask:
    """The rarest class first, each unit goes to the side that lacks more of the class, while it fits there."""
    by_kind = np.argsort(units.kind, kind="stable")
    of_kind = np.split(units.unit[by_kind], np.searchsorted(units.kind[by_kind], np.arange(1, len(units.totals))))
    starts = np.searchsorted(units.unit, np.arange(len(units.sizes) + 1)).tolist()
    kinds, pictures, sizes = units.kind.tolist(), units.pictures.tolist(), units.sizes.tolist()
    lacking = [(units.totals - units.wanted).tolist(), units.wanted.tolist()]  # train, val
    undealt = [len(each) for each in of_kind]
    last = len(undealt) - 1
    side = [-1] * len(sizes)
    order = rng.permutation(len(sizes))
    while any(undealt):
        rarest = min((k for k in range(len(undealt)) if undealt[k]), key=lambda k: (undealt[k], k))
        members = of_kind[rarest]
        largest_first = members[np.lexsort((order[members], -units.sizes[members]))]
        for unit in largest_first.tolist():
            if side[unit] >= 0:
                continue
            train, val = lacking
            chosen = int((val[rarest], val[last]) > (train[rarest], train[last]))
            if lacking[chosen][last] < sizes[unit] <= lacking[1 - chosen][last]:
                chosen = 1 - chosen
            side[unit] = chosen
            for entry in range(starts[unit], starts[unit + 1]):
                lacking[chosen][kinds[entry]] -= pictures[entry]
                undealt[kinds[entry]] -= 1
    return np.array(side, dtype=np.int64).astype(np.bool_)


def _exchange(units: Units, in_val: Mask) -> Mask:
    """Move single units, or one of each side, as long as that lowers the cost."""
    in_val = in_val.copy()
    tries = 0
    while tries < TRIES:
        gains = _move_costs(units, in_val)
        best = int(np.argmin(gains))
        if gains[best] < -1e-9:
            tries += 1
            in_val[best] ^= True
            continue
        # Who leaves costs a picture too few, which the partner makes up for: rank them without that.
        ranked = np.argsort(_move_costs(units, in_val, count_pictures=False), kind="stable")
        leaving = [*ranked[in_val[ranked]][:CANDIDATES].tolist(), *ranked[~in_val[ranked]][:CANDIDATES].tolist()]
        for unit in leaving:
            tries += 1
            in_val[unit] ^= True
            partners = _move_costs(units, in_val)
            best = int(np.argmin(partners))
            if gains[unit] + partners[best] < -1e-9:
                in_val[best] ^= True
                break
            in_val[unit] ^= True
        else:
            break
    return in_val


def _move_costs(units: Units, in_val: Mask, *, count_pictures: bool = True) -> Floats:
    """(U,) what the cost of the split grows by when a unit changes sides."""
    classes = len(units.totals)
    moved = np.where(in_val[units.unit], -units.pictures, units.pictures)
    weights = (units.pictures * in_val[units.unit]).astype(np.float64)
    inside = _sums(units.kind, weights, classes)[units.kind]
    grown = _costs(units, inside + moved) - _costs(units, inside)
    if not count_pictures:
        grown[units.kind == classes - 1] = 0.0
    return _sums(units.unit, grown, len(units.sizes))


def _sums(index: Ints, weights: Floats, count: int) -> Floats:
    """(count,) the sum of the weights with each index."""
    return np.asarray(np.bincount(index, weights=weights, minlength=count), dtype=np.float64)


def _costs(units: Units, inside: Floats) -> Floats:
    """(N,) the cost of each entry's class with `inside` pictures in validation: squares of what is off, and absence."""
    wanted, totals = units.wanted[units.kind], units.totals[units.kind]
    is_last = units.kind == len(units.totals) - 1
    absent = units.splittable[units.kind] & ((inside <= 0) | (inside >= totals))
    off: Floats = (inside - wanted) ** 2 * np.where(is_last, PICTURE_OFF, 1 / np.maximum(wanted, 1.0))
    return off + absent * np.where(is_last, EMPTY, ABSENT)

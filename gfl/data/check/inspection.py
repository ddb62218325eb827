"""A look at a data set before hours are spent on it: its files, pictures and boxes, and what a run makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfl.data.canvas import pick_canvases
from gfl.data.check.anchors import Reach, check_anchors
from gfl.data.check.findings import MOST_EXAMPLES, Finding, finding
from gfl.data.check.rows import check_rows
from gfl.data.check.truth import Known, check_boxes, check_truth
from gfl.data.coco import CocoData, data_of_file
from gfl.data.coco_json import CocoFile, GroundTruth, Ints, collector_paused, ground_truth, read_coco_file
from gfl.data.lazy import Picked
from gfl.data.picture_files import PictureFile, read_picture
from gfl.data.pictures import Picture, box_counts, ids_of, names_of, paths_of, sizes_of
from gfl.data.same_pictures import same_pictures
from gfl.data.shards.member import Member
from gfl.data.sizes import box_slots, canvases_for, check_fits, eval_short_side, short_side_range
from gfl.data.source.layouts import SplitPaths
from gfl.data.transforms import resized_sizes
from gfl.errors import InputError
from gfl.settings import DataConfig
from gfl.shapes import Canvas
from gfl.words import counted

LEAST_REAL = 0.6  # share of the canvases' pixels that should be picture: 'auto' reaches 0.9 on COCO
FAR_OFF = 1.5  # how many times the sizes of training an evaluation may be larger or smaller without a word


@dataclass(frozen=True)
class Inspection:
    """What was found in the annotation file of one split."""

    split: str  # 'train' or 'val'
    annotations: Path
    findings: list[Finding]
    data: CocoData | None = None  # with the pictures without boxes; None where the file cannot be used
    reach: tuple[Reach, ...] = ()  # boxes by size, and how many get no anchor; of training alone


@collector_paused()
def inspect(
    split: str, paths: SplitPaths, cfg: DataConfig, *, seed: int = 0, read_pictures: bool = False
) -> Inspection:
    """Look at one split. read_pictures: also decode each picture.

    Nothing here raises for what is wrong with the data: that becomes a finding, fatal where training would refuse it.
    """
    try:
        file = read_coco_file(paths.annotations)
    except InputError as error:
        return Inspection(split, paths.annotations, [_fatal(error)])
    findings = check_rows(file)
    try:
        data = data_of_file(file, paths.images, keep_empty=True, every_size=read_pictures)
    except InputError as error:
        return Inspection(split, paths.annotations, [_fatal(error), *findings, *_by_file_alone(file)])
    findings += check_boxes(data)
    told = {each.text for each in findings}
    findings += [Finding("read_otherwise", 1, note, is_note=True) for note in data.notes if note not in told]
    findings += check_pictures(data, read_pictures=read_pictures)
    groups: list[Reach] = []
    if split == "train":
        with_boxes = Picked(data.pictures, np.flatnonzero(box_counts(data.pictures)))
        if not with_boxes:
            findings.insert(0, Finding("nothing_to_learn", 1, "no picture has a box to learn from", is_fatal=True))
        else:
            found, groups = check_anchors(with_boxes, cfg, seed)
            findings += found
    return Inspection(split, paths.annotations, findings, data, tuple(groups))


def check_pictures(data: CocoData, *, read_pictures: bool = False) -> list[Finding]:
    """Pictures that are missing, and those that are known to be damaged.

    read_pictures: find out of each whether it can be decoded and has its size; else that is known of those alone whose
    headers were looked into.
    """
    there = existing(paths_of(data.pictures))
    missing = Picked(names_of(data.pictures), np.flatnonzero(~there))
    found = finding("missing_pictures", "pictures that are missing", "passed over", missing)
    wanted = there if read_pictures else there & known_unreadable(data)
    looked_into = Picked(data.pictures, np.flatnonzero(wanted))
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(_fault, looked_into))
    unreadable = [fault for fault in faults if fault]
    return found + finding("unreadable_pictures", "pictures that cannot be used", "passed over", unreadable)


def known_unreadable(data: CocoData) -> NDArray[np.bool_]:
    """(P,) whether each picture was looked into and is missing or damaged."""
    return np.isin(ids_of(data.pictures), np.array(sorted(data.unreadable), np.int64))


def existing(paths: Sequence[PictureFile]) -> NDArray[np.bool_]:
    """(P,) whether each path exists. A folder is listed once: on a network that is faster than to ask for each file.

    Names are compared by their hashes of 64 bits: those of millions as texts take hundreds of megabytes.
    """
    folders: dict[Path, int] = {}
    folder_P, name_P = np.empty(len(paths), np.int64), np.empty(len(paths), np.int64)
    for at, path in enumerate(paths):
        if isinstance(path, Member):  # then all are: their index says it
            return np.fromiter((isinstance(each, Member) and each.is_file() for each in paths), np.bool_, len(paths))
        folder_P[at], name_P[at] = folders.setdefault(path.parent, len(folders)), hash(path.name)
    exists = np.zeros(len(paths), np.bool_)
    order = np.argsort(folder_P, kind="stable")
    ends = np.searchsorted(folder_P, np.arange(1, len(folders)), sorter=order)
    for folder, places in zip(folders, np.split(order, ends), strict=folders != {}):
        exists[places] = np.isin(name_P[places], _listed(folder))
    return exists


def _listed(folder: Path) -> Ints:
    """The hashes of the names in a folder; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return np.fromiter((hash(entry.name) for entry in entries), np.int64)
    except OSError:
        return np.empty(0, np.int64)


def check_run(train: Inspection, val: Inspection | None, cfg: DataConfig) -> list[Finding]:
    """What concerns both splits, or the settings of a run over them."""
    if train.data is None:
        return []
    found: list[Finding] = []
    if val is not None and val.data is not None:
        found += check_shared(train.data, val.data, same_pictures)
        if set(val.data.names) - set(train.data.names):
            becomes = "give both the same categories"
            extra = sorted(set(val.data.names) - set(train.data.names))
            found += finding("unknown_classes", "classes of validation that training lacks", becomes, extra)
        found += check_eval_size(cfg)
    try:
        canvases = canvases_for(train.data, cfg, val=None if val is None else val.data)
        check_fits(train.data.pictures, cfg, canvases)
        box_slots(train.data, cfg.max_boxes)
    except InputError as error:
        return [*found, _fatal(error)]
    if canvases is not None:
        found.append(_canvases(train.data, cfg, canvases))
    for each in (train, val):
        if canvases is not None and each is not None and each.data is not None:
            found += _shrunk(each.split, each.data, cfg, canvases)
    return found


PairsOf = Callable[[Sequence[PictureFile], Sequence[PictureFile]], list[tuple[PictureFile, PictureFile]]]


def check_shared(train: CocoData, val: CocoData, pairs_of: PairsOf) -> list[Finding]:
    """Pictures that are trained on and evaluated on. pairs_of: how equal files are found."""
    pairs = pairs_of(paths_of(train.pictures), paths_of(val.pictures))
    shared, every = len({other for _, other in pairs}), len(val.pictures)
    if not shared:
        return []
    text = (
        f"{shared:,} of {counted(every, 'validation picture')} {'is' if every == 1 else 'are'} among those of training "
        f"too: the AP {'says nothing of new pictures' if 2 * shared > every else 'flatters'}; make a new split with "
        "`python -m gfl.data split`"
    )
    same = tuple(f"{one.name} = {other.name}" for one, other in pairs[:MOST_EXAMPLES])
    return [Finding("same_pictures", len(pairs), text, same)]


def check_eval_size(cfg: DataConfig) -> list[Finding]:
    """An evaluation at a size far from those of training, as where SHORT_SIDE alone was lowered for a trial."""
    (low, high), size = short_side_range(cfg), eval_short_side(cfg)
    if low / FAR_OFF <= size <= high * FAR_OFF:
        return []
    trained = f"{low}" if low == high else f"{low} to {high}"
    text = (
        f"evaluation at a short side of {size} px, training at {trained} px: objects look too "
        f"{'large' if size > high else 'small'} to the detector; set EVAL_SHORT_SIDE = {high}"
    )
    return [Finding("eval_size", 1, text)]


def _canvases(data: CocoData, cfg: DataConfig, canvases: Sequence[Canvas]) -> Finding:
    """The canvases beside the orientations of the pictures, and how much of their pixels is picture."""
    sizes_hw = resized_sizes(sizes_of(data.pictures), short_side_range(cfg)[1], cfg.long_side)
    chosen = np.array(canvases)[pick_canvases(sizes_hw, canvases)]
    real = sizes_hw.prod(axis=1).sum() / chosen.prod(axis=1).sum()
    listed = ", ".join(f"{height}x{width}" for height, width in canvases)
    standing = float((sizes_hw[:, 0] > sizes_hw[:, 1]).mean())
    text = f"canvases {listed}: {real:.0%} of their pixels are picture ({standing:.0%} of the pictures stand upright)"
    return Finding("canvases", len(canvases), text, is_note=real > LEAST_REAL)


def _shrunk(split: str, data: CocoData, cfg: DataConfig, canvases: Sequence[Canvas]) -> list[Finding]:
    """Pictures that the canvases shrink below the resize rule."""
    sizes_hw = resized_sizes(sizes_of(data.pictures), eval_short_side(cfg), cfg.long_side)
    shrunk = [data.pictures[i].file_name for i in np.flatnonzero(pick_canvases(sizes_hw, canvases) < 0).tolist()]
    listed = ", ".join(f"{height}x{width}" for height, width in canvases)
    what, becomes = f"pictures of {split} that fit no canvas of {listed}", "shrunk to fit; add a canvas"
    return finding(f"shrunk_by_canvases_{split}", what, becomes, shrunk)


def _fault(picture: Picture) -> str:
    """Why a picture cannot be used; empty where it can."""
    try:
        image = read_picture(picture.path)
    except InputError as error:
        return str(error)
    if image.shape[:2] == (picture.height, picture.width):
        return ""
    height, width = image.shape[:2]
    return f"{picture.file_name} is {width}x{height}, the annotations say {picture.width}x{picture.height}"


def _by_file_alone(file: CocoFile) -> list[Finding]:
    """Findings about the boxes of a file that training refuses, as far as they can be read."""
    try:
        truth: GroundTruth = ground_truth(file, strict=False)
        by_id = np.argsort(truth.image_ids, kind="stable")
        sizes_hw = np.stack([file.images.sides(key) for key in ("height", "width")], axis=1)
        known = Known(truth.image_ids[by_id], sizes_hw[by_id], Picked(file.images.texts("file_name"), by_id))
    except InputError:
        return []
    return check_truth(truth, known)


def _fatal(error: InputError) -> Finding:
    return Finding("unusable", 1, str(error), is_fatal=True)

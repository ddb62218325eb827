"""The layouts of a folder that DATA_ROOT takes: COCO's own, and what Roboflow, CVAT and Label Studio export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gfl.data.shards.pattern import TAR, Images, Shards, shard_in
from gfl.errors import InputError

ROBOFLOW = "_annotations.coco.json"  # in the folder of each split, beside its pictures
SPLIT_NAMES = {"train": ("train", "Train", "training"), "val": ("val", "valid", "validation", "Validation")}
YEARS = ("2017", "")
WHOLE = ("annotations/instances_default.json", "result.json", "annotations/instances_all.json")  # without a split


class SplitPaths(NamedTuple):
    """The annotations and the pictures of one split."""

    annotations: Path
    images: Images


def find_split(root: Path, split: str) -> SplitPaths | None:
    """The 'train' or 'val' of a folder; None where it has no such split.

    COCO's layout: annotations/instances_train2017.json with train2017/; the year may be missing, and the pictures may
    be below images/, as CVAT has it. Roboflow's: train/_annotations.coco.json beside its pictures, and valid/.
    """
    for name in SPLIT_NAMES[split]:
        for year in YEARS:
            annotations = root / "annotations" / f"instances_{name}{year}.json"
            if annotations.is_file():
                return SplitPaths(annotations, _pictures_of(root, (f"{name}{year}", name)))
        if (root / name / ROBOFLOW).is_file():
            return SplitPaths(root / name / ROBOFLOW, root / name)
    return None


def find_whole(root: Path) -> SplitPaths | None:
    """The one annotation file of a folder that is not split; None where there is none, or more than one.

    CVAT's annotations/instances_default.json with images/, Label Studio's result.json with images/, or the only .json.
    """
    for name in WHOLE:
        if looks_like_coco(root / name):
            return SplitPaths(root / name, _pictures_of(root, ("default",)))
    found = [path for folder in (root, root / "annotations") for path in sorted(folder.glob("*.json"))]
    found = [path for path in found if looks_like_coco(path)]
    return SplitPaths(found[0], _pictures_of(root, (found[0].stem,))) if len(found) == 1 else None


def _split_beside(paths: SplitPaths | None) -> Path | None:
    """The folder that `gfl.data split` makes of an annotation file by itself, where it is there."""
    if paths is None:
        return None
    folder = default_split(paths.annotations)
    return folder if find_split(folder, "train") and find_split(folder, "val") else None


def default_split(annotations: Path) -> Path:
    """Where `gfl.data split` puts the split of an annotation file unless it is told another place."""
    return annotations.with_name(f"{annotations.stem}_split")


def split_of(root: Path, split: str, *, without_val: bool = False) -> SplitPaths:
    """The paths of 'train' or 'val' in a folder of any layout.

    without_val: whether the run evaluates nothing, so that a file without a split can be trained on as a whole.
    Raises InputError where there is no such split, with the command that makes one.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder, expected one with annotations and pictures; check DATA_ROOT")
    paths = find_split(root, split)
    if paths is not None:
        return paths
    train, val = find_split(root, "train"), find_split(root, "val")
    whole = find_whole(root)
    if whole is not None and val is not None and whole.annotations == val.annotations:
        whole = None
    if lying := _split_beside(train or whole):
        raise InputError(
            f"{root} has no {'training' if train is None else 'validation'} part, but its split lies in {lying}; "
            f"set DATA_ROOT = {str(lying)!r}"
        )
    if whole is not None and train is None:
        if split == "train" and without_val:
            return whole
        raise InputError(
            f"{root} has one annotation file, {whole.annotations.relative_to(root)}, and no split into training and "
            f"validation; split it with `python -m gfl.data split {whole.annotations} --val 0.2`, or set "
            "EVAL_EVERY = 0 to train on all of it without an evaluation"
        )
    if split == "val" and train is not None:
        raise InputError(
            f"{root} has training data ({train.annotations.relative_to(root)}) and none to validate on; "
            f"make some with `python -m gfl.data split {train.annotations} --val 0.2`, give VAL_JSON and VAL_IMAGES, "
            "or set EVAL_EVERY = 0 to train without an evaluation"
        )
    if split == "train" and val is not None:
        raise InputError(
            f"{root} has validation data ({val.annotations.relative_to(root)}) and none to train on, expected "
            f"annotations/instances_train.json or instances_train2017.json, or train/{ROBOFLOW}, too; put it there, or "
            "give TRAIN_JSON and TRAIN_IMAGES"
        )
    for tool, name in _other_formats(root):
        raise InputError(
            f"{root} looks like {name}, expected COCO's layout; convert it with `python -m gfl.data convert "
            f"--from {tool} {root} --output data/converted` and set DATA_ROOT = 'data/converted'"
        )
    raise InputError(
        f"{root} has no annotations/instances_{split}2017.json (nor instances_{split}.json, nor {split}/{ROBOFLOW}), "
        f"expected a folder in COCO's layout; set DATA_ROOT to one, or give {split.upper()}_JSON and "
        f"{split.upper()}_IMAGES"
    )


def looks_like_coco(path: Path) -> bool:
    """Whether a file has the words that a COCO file cannot do without."""
    if not path.is_file():
        return False
    content = path.read_bytes()
    return all(word in content for word in (b'"images"', b'"annotations"', b'"categories"'))


def _pictures_of(root: Path, names: tuple[str, ...]) -> Images:
    """The folder of the split's own name, in the root or in images/; or images/. Or the shards in that folder."""
    candidates = [root / start / name for name in names for start in ("", "images")] + [root / "images"]
    folder = next((folder for folder in candidates if folder.is_dir()), candidates[0])
    return Shards(f"{folder / folder.name}-*{TAR}") if shard_in(folder, 0).is_file() else folder


def _other_formats(root: Path) -> Iterator[tuple[str, str]]:
    """Formats that `gfl.data convert` reads and that the folder looks like, with the names of their layouts."""
    if any(root.glob("*.yaml")) or (root / "labels").is_dir():
        yield "yolo", "YOLO's layout"
    if (root / "Annotations").is_dir() or any(root.glob("*.xml")):
        cvat = (root / "annotations.xml").is_file()
        yield ("cvat", "CVAT's XML") if cvat else ("voc", "Pascal VOC's layout")
    for path in sorted(root.glob("*.json"))[:1]:
        yield _tool_of(path)


def _tool_of(path: Path) -> tuple[str, str]:
    """Which tool a .json that is no COCO file is likely of, by the words in its beginning."""
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        start = stream.read(4096)
    if "via_" in start or "region_attributes" in start or '"regions"' in start:
        return "via", "VGG Image Annotator's"
    if '"shapes"' in start or '"imagePath"' in start:
        return "labelme", "LabelMe's"
    return "labelstudio", "Label Studio's"

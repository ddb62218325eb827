"""Where a run's pictures and annotations are: the paths given, a COCO root, or the generated data set."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gfl.data.synthetic import write_synthetic
from gfl.errors import InputError
from gfl.files import write_errors
from gfl.settings import DataConfig

SYNTHETIC = Path("data/synthetic")  # where DATA_ROOT = 'synthetic' puts its pictures
SYNTHETIC_TRAIN, SYNTHETIC_VAL = 480, 96


class SplitPaths(NamedTuple):
    """The annotations and the folder of pictures of one split."""

    annotations: Path
    images: Path


def split_paths(cfg: DataConfig, split: str) -> SplitPaths:
    """The paths of 'train' or 'val': TRAIN_JSON and TRAIN_IMAGES (or VAL_JSON and VAL_IMAGES) win over DATA_ROOT.

    DATA_ROOT is in COCO's layout, with or without the year: annotations/instances_train2017.json and train2017/, or
    annotations/instances_train.json and train/; 'synthetic' is generated first, where it is not there yet.
    Raises InputError where DATA_ROOT has neither file, and where the generated pictures cannot be written.
    """
    keys = f"{split}_json", f"{split}_images"
    annotations, images = (getattr(cfg, key) for key in keys)
    if annotations and images:
        return SplitPaths(Path(annotations), Path(images))
    if annotations or images:
        given, missing = keys if annotations else keys[::-1]
        raise InputError(f"got {given.upper()} without {missing.upper()}, expected both or neither; give both")
    root = Path(cfg.root or ".")
    if cfg.root == "synthetic":
        root = SYNTHETIC
        with write_errors(root.resolve()):
            write_synthetic(root, train=SYNTHETIC_TRAIN, val=SYNTHETIC_VAL)
    for year in ("2017", ""):
        paths = SplitPaths(root / "annotations" / f"instances_{split}{year}.json", root / f"{split}{year}")
        if paths.annotations.is_file():
            return paths
    raise InputError(
        f"{root} has no annotations/instances_{split}2017.json (nor instances_{split}.json), expected a folder in "
        f"COCO's layout; set DATA_ROOT to one, or give {split.upper()}_JSON and {split.upper()}_IMAGES"
    )

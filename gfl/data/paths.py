"""Where a run's pictures and annotations are: the paths given, a COCO root, or the generated data set."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gfl.data.synthetic import write_synthetic
from gfl.errors import InputError
from gfl.settings import DataConfig

SYNTHETIC = Path("data/synthetic")  # where DATA_ROOT = 'synthetic' puts its pictures
SYNTHETIC_TRAIN, SYNTHETIC_VAL = 480, 96


class SplitPaths(NamedTuple):
    """The annotations and the folder of pictures of one split."""

    annotations: Path
    images: Path


def split_paths(cfg: DataConfig, split: str) -> SplitPaths:
    """The paths of 'train' or 'val': TRAIN_JSON and TRAIN_IMAGES (VAL_...) win over DATA_ROOT.

    A root is in COCO's layout, with or without the year: annotations/instances_train2017.json and train2017/, or
    annotations/instances_train.json and train/. Raises InputError when the root has neither.
    """
    annotations, images = getattr(cfg, f"{split}_json"), getattr(cfg, f"{split}_images")
    if annotations and images:
        return SplitPaths(Path(annotations), Path(images))
    if annotations or images:
        given, lacking = (f"{split}_json", f"{split}_images")[:: 1 if annotations else -1]
        raise InputError(f"got {given.upper()} without {lacking.upper()}, expected both or neither; give both")
    if cfg.root == "synthetic":
        try:
            write_synthetic(SYNTHETIC, train=SYNTHETIC_TRAIN, val=SYNTHETIC_VAL)
        except OSError as error:
            raise InputError(
                f"cannot write the generated pictures to {SYNTHETIC.resolve()}: {error.strerror}; free some space, or "
                "start from a folder that you may write to"
            ) from error
    root = SYNTHETIC if cfg.root == "synthetic" else Path(cfg.root or ".")
    for year in ("2017", ""):
        found = SplitPaths(root / "annotations" / f"instances_{split}{year}.json", root / f"{split}{year}")
        if found.annotations.is_file():
            return found
    raise InputError(
        f"{root} has no annotations/instances_{split}2017.json (nor instances_{split}.json); "
        f"set DATA_ROOT to a folder in COCO's layout, or give {split.upper()}_JSON and {split.upper()}_IMAGES"
    )

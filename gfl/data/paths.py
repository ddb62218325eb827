"""Where a run's pictures and annotations are: the paths given, a COCO root, or the generated data set."""

from __future__ import annotations

from pathlib import Path

from gfl.data.shards.pattern import images_at
from gfl.data.source.layouts import SplitPaths, split_of
from gfl.data.synthetic import write_synthetic
from gfl.errors import InputError
from gfl.files import write_errors
from gfl.settings import DataConfig

SYNTHETIC = Path("data/synthetic")  # where DATA_ROOT = 'synthetic' puts its pictures
SYNTHETIC_TRAIN, SYNTHETIC_VAL = 960, 96


def split_paths(cfg: DataConfig, split: str, *, without_val: bool = False) -> SplitPaths:
    """The paths of 'train' or 'val': TRAIN_JSON and TRAIN_IMAGES (or VAL_JSON and VAL_IMAGES) win over DATA_ROOT.

    without_val: whether nothing is to be evaluated; a file without a split is then trained on as a whole.
    DATA_ROOT is a folder in one of the layouts of `layouts.py`; 'synthetic' is generated first, where it is not there
    yet. A leading ~ is the home folder. Raises InputError where DATA_ROOT has no such split, and where the generated
    pictures cannot be written.
    """
    keys = f"{split}_json", f"{split}_images"
    annotations, images = (getattr(cfg, key) for key in keys)
    if annotations and images:
        return SplitPaths(Path(annotations).expanduser(), images_at(images))
    if annotations or images:
        given, missing = keys if annotations else keys[::-1]
        raise InputError(f"got {given.upper()} without {missing.upper()}, expected both or neither; give both")
    if cfg.root == "synthetic":
        with write_errors(SYNTHETIC.resolve()):
            write_synthetic(SYNTHETIC, train=SYNTHETIC_TRAIN, val=SYNTHETIC_VAL)
        return split_of(SYNTHETIC, split)
    return split_of(Path(cfg.root or ".").expanduser(), split, without_val=without_val)

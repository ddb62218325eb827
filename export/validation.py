"""The pictures that a model was validated on, where they are still there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfl.data.canvas import fit_factor, judge_shrinkage
from gfl.data.coco_json import read_coco_file
from gfl.data.paths import SYNTHETIC, split_paths
from gfl.data.shards.pattern import are_there
from gfl.data.sizes import eval_short_side
from gfl.data.source.layouts import SplitPaths
from gfl.data.transforms import resized_sizes
from gfl.engine.checkpoints import TrainedModel
from gfl.errors import InputError
from gfl.settings import DataConfig
from gfl.shapes import Canvas


def validation_split(data: DataConfig) -> SplitPaths | None:
    """Annotations and pictures that a model was validated on; None where they are not here."""
    try:
        if data.root != "synthetic" or SYNTHETIC.is_dir():  # asking for its paths would draw it otherwise
            paths = split_paths(data, "val")
            if paths.annotations.is_file() and are_there(paths.images):
                return paths
    except (InputError, OSError):
        pass
    return None


def canvas_notes(model: TrainedModel, sizes: Sequence[Canvas]) -> list[str]:
    """What it costs to export these sizes and not the run's canvases, a sentence each; empty where it costs nothing."""
    notes = []
    factors = {canvas: max(fit_factor(*canvas, size) for size in sizes) for canvas in model.canvases or ()}
    smaller = [f"{h}x{w} (sides shrunk to {factor:.0%})" for (h, w), factor in factors.items() if factor < 1]
    if smaller:
        notes.append(
            f"warning: of the run's canvases this leaves out {', '.join(smaller)}: pictures that fill them "
            "are shrunk so far, which costs accuracy; give --size for these too, or no --size"
        )
    paths = validation_split(model.run.data)
    if paths is not None:
        try:
            images = read_coco_file(paths.annotations, needed=("images",)).images
            sizes_hw = np.stack([images.sides(side) for side in ("height", "width")], axis=1)
        except InputError:  # it is not this program's to judge
            return notes
        sizes_hw = sizes_hw[sizes_hw.min(axis=1) > 0]  # 0: the file does not say
        resized = resized_sizes(sizes_hw, eval_short_side(model.run.data), model.run.data.long_side)
        if said := judge_shrinkage(resized, sizes).sentence():
            notes.append(f"warning: {Path(paths.annotations).name}: {said}")
    return notes

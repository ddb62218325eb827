"""Test-time augmentation: a model that looks at a picture in several views, mirrored and at several sizes.

The rule is the authors' (aug_test of the reference): the candidates of every view are taken before NMS, brought back to
the picture, put one view after the other, and one NMS chooses the best. A model that gives its candidates is opened so;
an exported file gives what its graph's own NMS has left, and that is merged by the same function.

Shapes: B pictures a run; H, W the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.boxes import flip_boxes_horizontal
from gfl.data.canvas import check_canvases, own_canvas
from gfl.data.transforms import change_onto
from gfl.errors import InputError
from gfl.runtime.description import Arrays
from gfl.runtime.merging import Floats, Found, found_in, merge_runs, rule_of
from gfl.runtime.model import Model
from gfl.runtime.providers import ProviderReport
from gfl.shapes import CANVAS_MULTIPLE, Canvas

FLIP = "flip"
LEAST_SCALE, MOST_SCALE = 0.1, 4.0
OWN_NMS = "the views are merged after the exported file's own NMS, a checkpoint's before: some detections may differ"


class View(NamedTuple):
    """One look at a picture."""

    scale: float = 1.0  # of the size that the model's own resize rule gives
    flip: bool = False  # left and right


def parse_views(words: Sequence[str | float]) -> tuple[View, ...]:
    """'flip' and scales -> views: at each scale the picture, then mirrored; without scales at the model's own size.

    Raises InputError for other words, scales out of bounds and one that is given twice.

    >>> parse_views(["flip", 0.8, 1.25])
    (View(scale=0.8, flip=False), View(scale=0.8, flip=True), View(scale=1.25, flip=False), View(scale=1.25, flip=True))
    """
    texts = [str(word) for word in words]
    try:
        scales = [float(text) for text in texts if text != FLIP] or [1.0]
    except ValueError:
        scales = []
    within = scales and all(LEAST_SCALE <= scale <= MOST_SCALE for scale in scales)
    if not texts or not within or len(set(scales)) < len(scales) or texts.count(FLIP) > 1:
        raise InputError(
            f"got the views {' '.join(texts)!r}, expected {FLIP!r}, different scales from {LEAST_SCALE:g} to "
            f"{MOST_SCALE:g}, or both; give for example: {FLIP} 0.8 1.0 1.25"
        )
    return tuple(View(scale, flip) for scale in scales for flip in ((False, True) if FLIP in texts else (False,)))


def with_views(model: Model, views: Sequence[View], method: str) -> Model:
    """A model that detects in all views of a picture and merges what it finds by `method`.

    It asks for pictures at the largest of the scales; the smaller views are shrunk from that. With one view it is the
    model itself at that scale, bit for bit. Raises InputError for scales of a file that takes only its own canvases.
    """
    largest = max(view.scale for view in views)
    if any(view.scale != 1.0 for view in views):
        model = at_scale(model, largest)
    if len(views) == 1:
        return model
    about = model.description.thresholds
    rule, most = rule_of(method, about), about.max_detections

    def run(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        outputs, runs = [], []
        for view in views:
            seen, sizes = see(images, image_sizes, view.scale / largest, flip=view.flip)
            outputs.append(model.run(seen, sizes))
            factors = (sizes / np.maximum(image_sizes, 1))[:, [1, 0, 1, 0]]
            found = zip(found_in(outputs[-1]), sizes[:, 1].tolist(), factors, strict=True)
            runs.append([to_picture(*each, flip=view.flip) for each in found])
        return merge_runs(runs, outputs, rule, most)

    def provider_report() -> ProviderReport:
        report = model.provider_report()
        return report if model.any_canvas else report._replace(notes=(*report.notes, OWN_NMS))

    return replace(model, run=run, provider_report=provider_report)


def at_scale(model: Model, scale: float) -> Model:
    """The model for pictures at another scale than its own; InputError where it takes only its own canvases."""
    if not model.any_canvas:
        raise InputError(
            f"got views at several scales for {model.path}, which takes only its own canvases; give its checkpoint, or "
            f"{FLIP} alone"
        )
    short, long = (int(side * scale + 0.5) for side in (model.description.short_side, model.description.long_side))
    if short < CANVAS_MULTIPLE:
        raise InputError(
            f"got views of at most {scale:g} times the size that {model.path} was trained for, a short side of {short} "
            f"px, expected at least {CANVAS_MULTIPLE}; give a larger scale"
        )
    canvases = model.canvases and check_canvases([scaled_canvas(canvas, scale) for canvas in model.canvases])
    size = canvases[0] if canvases else own_canvas(short, long)
    return replace(
        model, canvases=canvases, description=replace(model.description, short_side=short, long_side=long, size=size)
    )


def scaled_canvas(canvas: Canvas, scale: float) -> Canvas:
    """The canvas that holds what another one holds, at a scale."""
    return own_canvas(*(int(side * scale + 0.5) for side in canvas))


def see(
    images: NDArray[np.uint8], image_sizes: NDArray[np.int32], scale: float, *, flip: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A view of pictures (B,3,H,W) and their (B,2) height, width: each is resized, mirrored, then padded with zeros."""
    if scale == 1.0 and not flip:
        return images, image_sizes
    canvas = images.shape[2:] if scale == 1.0 else scaled_canvas((images.shape[2], images.shape[3]), scale)
    seen = np.zeros((len(images), 3, *canvas), np.uint8)
    sizes = np.zeros_like(image_sizes)
    for i, (height, width) in enumerate(image_sizes.tolist()):
        if height and width:  # others are blanks
            sizes[i] = [max(1, int(side * scale + 0.5)) for side in (height, width)]
            picture = np.ascontiguousarray(images[i, :, :height, :width].transpose(1, 2, 0))
            change_onto(picture, (int(sizes[i, 0]), int(sizes[i, 1])), seen[i], flip=flip)
    return seen, sizes


def to_picture(found: Found, width: int, factors_xyxy: Floats, *, flip: bool) -> Found:
    """What was found in a view of this width, px, in the picture: x' = width - x where it was mirrored, then divided by
    the scale factors (4,) of the view."""
    boxes, spread = found.boxes_xyxy, found.edge_std
    if flip:
        boxes, spread = flip_boxes_horizontal(boxes, width), spread[:, [2, 1, 0, 3]]
    factors = factors_xyxy.astype(np.float32)
    return found._replace(boxes_xyxy=boxes / factors, edge_std=spread / factors)

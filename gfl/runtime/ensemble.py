"""Several models as one: each looks at a picture, and what they find is merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.class_names import list_names
from gfl.errors import InputError
from gfl.runtime.description import Arrays
from gfl.runtime.merging import Merge, found_in, merge_runs, rule_of
from gfl.runtime.model import Model, merge_reports
from gfl.runtime.tta import View, parse_views, with_views


class Looks(NamedTuple):
    """How a picture is looked at beyond one model's one run."""

    views: tuple[View, ...]
    method: str  # of merging


def read_looks(tta: Sequence[str | float] | None, merge: str | None, models: int) -> Looks:
    """The views and the method of merging; InputError as `parse_views`, and where there is nothing to merge."""
    if not models:
        raise InputError("got an empty list of models, expected at least one; name its file")
    views = (View(),) if tta is None else parse_views(tta)
    if merge is not None and len(views) * models == 1:
        raise InputError(f"got the merge {merge!r} for one model and one view, expected several; give tta, or omit it")
    return Looks(views, Merge(merge or "nms").method)


def open_merged(paths: Sequence[str | Path], open_one: Callable[..., Model], looks: Looks) -> Model:
    """One model from its file, or several as one, in all views.

    open_one: `open_model` with all arguments but the path and `candidates`. Raises InputError as it, `with_views` and
    `ensemble` do.
    """
    several = len(looks.views) > 1
    models = [with_views(open_one(path, candidates=several), *looks) for path in paths]
    return models[0] if len(models) == 1 else ensemble(models, looks.method)


def ensemble(models: Sequence[Model], method: str) -> Model:
    """Models of the same classes and resize rule as one, which merges the detections of each by `method`.

    Checkpoints run on the canvases of the exported files, or of the first one. A class is shown from the mean of the
    models' scores on. Raises InputError for models that do not take the same pictures.
    """
    lead = next((model for model in models if not model.any_canvas), models[0])
    about = lead.description
    for model in models:
        other = model.description
        pairs = [
            ("classes", other.names, about.names),
            ("short and long sides", (other.short_side, other.long_side), (about.short_side, about.long_side)),
        ]
        if not model.any_canvas:
            pairs.append(("pictures a run and canvases", (model.batch, model.canvases), (lead.batch, lead.canvases)))
        for what, got, expected in pairs:
            if got != expected:
                raise InputError(
                    f"got models of different {what}, {list_names(map(str, got))} of {model.path} and "
                    f"{list_names(map(str, expected))} of {lead.path}, expected the same; give models that have them"
                )
    most = max(model.description.thresholds.max_detections for model in models)
    rule = rule_of(method, about.thresholds)

    def run(images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        outputs = [model.run(images, image_sizes) for model in models]
        return merge_runs([found_in(each) for each in outputs], outputs, rule, most)

    scores = np.mean([model.description.score_thresholds for model in models], axis=0)
    description = replace(
        about, score_thresholds=tuple(scores.tolist()), thresholds=replace(about.thresholds, max_detections=most)
    )
    path = Path(", ".join(str(model.path) for model in models))
    return replace(
        lead,
        path=path,
        description=description,
        run=run,
        provider_report=lambda: merge_reports([model.provider_report() for model in models]),
        any_canvas=all(model.any_canvas for model in models),
    )

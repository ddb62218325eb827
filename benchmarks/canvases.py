"""The training step with three ways of padding: `python -m benchmarks.canvases [--json FILE]`.

Ours: at most four canvases for the whole run. Huawei's Ascend port of GFocalV2: one square that holds every picture.
mmdetection: batches of landscape or of portrait pictures, each batch padded to its own maximum. All three train the
same model on the same pictures at the same sizes with the same boxes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.command_line import (
    add_data_set,
    benchmark_flags,
    data_set_of,
    gemm_of,
    positive,
    rounds_of,
    run_program,
)
from benchmarks.measure import Form, Gemm, Sample, Timing, figures_of, interleave, paired_ratio
from benchmarks.parts import RATE, make_training
from benchmarks.tables import Findings, Table
from gfl.config import read_run
from gfl.data.canvas import own_canvas, round_up
from gfl.data.coco import CocoData, read_coco
from gfl.data.fill import Work
from gfl.data.loader import load_batch
from gfl.data.pictures import Picture
from gfl.data.plan import BLANK, BatchPlan, draw_changes, train_plan
from gfl.data.shards.pattern import Images
from gfl.data.sizes import box_slots, canvases_for, ignored_slots
from gfl.data.synthetic import write_synthetic
from gfl.engine.state import TrainState, step
from gfl.errors import InputError
from gfl.model.structures import Batch
from gfl.settings import DataConfig, RunConfig
from gfl.shapes import Canvas

OURS, SQUARE, GROUPED = "our canvases", "one square", "own maximum of a batch"
FORMS = (OURS, SQUARE, GROUPED)

# The run file, and the short and the long side of a resized picture: the paper's recipe, and a smaller one like it.
CONFIGS = {"r50": ("r50.gin", 800, 1333), "small": ("scratch_small.gin", 320, 533)}
QUICK_SIDES = (96, 160)
TEST_DATA = "GFL_TEST_DATA"  # names a folder that may hold coco_tiny
GENERATED_HW = (480, 640)  # COCO's usual size; every fourth generated picture stands upright


class Setting(NamedTuple):
    """The run to measure, and how often."""

    name: str  # r50 | small
    run: RunConfig
    data: CocoData
    canvases: tuple[Canvas, ...]  # ours, chosen on all pictures of the set
    repeats: int
    gemm: Gemm

    @property
    def picture_count(self) -> int:
        return len(self.data.pictures)


# ---- the three plans of one epoch ----


def plans_of(setting: Setting) -> dict[str, Sequence[BatchPlan]]:
    """One epoch's batches of each form: the same pictures, resized and flipped alike."""
    cfg, seed = setting.run.data, setting.run.seed
    pictures, batch_size = setting.data.pictures, setting.run.batch_size
    square = (round_up(cfg.long_side),) * 2  # 1333 -> 1344
    planned = partial(train_plan, pictures, cfg, batch_size=batch_size, seed=seed, epoch=0)
    return {
        OURS: planned(setting.canvases),
        SQUARE: planned((square,)),
        GROUPED: grouped_plan(pictures, cfg, batch_size, seed),
    }


def grouped_plan(pictures: Sequence[Picture], cfg: DataConfig, batch_size: int, seed: int) -> tuple[BatchPlan, ...]:
    """As mmdetection's GroupSampler and collate: batches of landscape or of portrait pictures, each of its own shape.

    A group's last batch is filled with pictures of the group that come a second time.
    """
    planned = draw_changes(pictures, cfg, seed, 0)
    sizes_hw = planned.sizes_hw
    landscape = np.array([picture.width > picture.height for picture in pictures])
    generator = np.random.default_rng(seed)
    batches: list[list[int]] = []
    for group in (np.flatnonzero(landscape), np.flatnonzero(~landscape)):
        if len(group):
            order = generator.permutation(group)
            order = np.concatenate([order, generator.choice(order, -len(order) % batch_size)])
            batches += order.reshape(-1, batch_size).tolist()
    plans = []
    for index, members in enumerate(batches[i] for i in generator.permutation(len(batches))):
        high, wide = sizes_hw[members].max(axis=0).tolist()
        plans.append(BatchPlan(0, index, own_canvas(high, wide), tuple(planned[i] for i in members)))
    return tuple(plans)


class Pixels(NamedTuple):
    """The pixels that one epoch processes."""

    real: int  # of the resized pictures, each counted once
    canvas: int  # of all images of all batches, padding included
    spare_slots: int  # images that are blank, or a picture that comes a second time
    spare: int  # pixels of these, a part of `canvas`
    shapes: int  # number of different canvases, each of which is compiled

    @property
    def filled_share(self) -> float:
        """Share of real pixels without the spare slots, which hardly count in a large data set."""
        return self.real / (self.canvas - self.spare)


def pixels_of(plans: Sequence[BatchPlan]) -> Pixels:
    """Count the pixels of an epoch's plan."""
    seen: set[int] = set()
    real = canvas = spare = spare_slots = 0
    for plan in plans:
        area = plan.canvas[0] * plan.canvas[1]
        for planned in plan.pictures:
            canvas += area
            if planned.picture == BLANK or planned.picture in seen:
                spare, spare_slots = spare + area, spare_slots + 1
            else:
                seen.add(planned.picture)
                real += planned.size_hw[0] * planned.size_hw[1]
    return Pixels(real, canvas, spare_slots, spare, len({plan.canvas for plan in plans}))


# ---- the steps ----


def read_batches(setting: Setting, plans: Sequence[BatchPlan]) -> list[Batch]:
    """Build the batches of a plan before time is taken; raises InputError for a picture that cannot be read."""
    data = setting.data
    slots = box_slots(data, "auto"), ignored_slots(data)
    batches = []
    for plan in plans:
        chosen = (None if each.picture == BLANK else data.pictures[each.picture] for each in plan.pictures)
        loaded = load_batch(Work(plan, tuple(chosen)), *slots)
        if loaded.failed:
            raise InputError(f"{loaded.failed[0]}; the benchmark needs every picture, mend or remove this one")
        batches.append(loaded.batch)
    return batches


def epoch_form(label: str, state: TrainState, batches: Sequence[Batch], run: RunConfig) -> Form:
    """A form whose sample is the seconds of all steps of an epoch, without data."""

    def sample() -> Sample:
        started = time.perf_counter()
        for batch in batches:
            step(state, [batch], RATE, run.optim)
        return {label: time.perf_counter() - started}

    return sample


# ---- the table ----


def table(setting: Setting, pixels: Mapping[str, Pixels], timings: Mapping[str, Timing]) -> Table:
    """Pixels and pictures a second of each form, and our pixels and rate divided by its."""
    count, cfg = setting.picture_count, setting.run.data
    rows = []
    for form in FORMS:
        epoch, timing = pixels[form], timings[form]
        saved = "" if form == OURS else f"{pixels[OURS].canvas / epoch.canvas:.1%}"
        ratio = "" if form == OURS else str(paired_ratio(timings[OURS], timing))
        megapixels = f"{epoch.canvas / 1e6:,.1f}"
        rates = f"{count / timing.median:.3f}", f"{count / timing.high:.3f} - {count / timing.low:.3f}"
        shapes = (f"{epoch.shapes}", f"{epoch.spare_slots}")
        rows.append((form, megapixels, f"{epoch.real / epoch.canvas:.1%}", *shapes, *rates, saved, ratio))
    header = (
        "",
        "Mpx an epoch",
        "real",
        "shapes",
        "spare slots",
        "pictures/s",
        "min - max",
        "our pixels / its",
        "our rate / its",
    )
    sides = f"short side {cfg.short_side}, long side at most {cfg.long_side}"
    ours, square = ", ".join(f"{height}x{width}" for height, width in setting.canvases), round_up(cfg.long_side)
    filled = ", ".join(f"{pixels[form].filled_share:.1%}" for form in FORMS)
    boxes = sum(len(picture.boxes_xyxy) for picture in setting.data.pictures)
    return Table(
        f"Padding: {setting.name}, {count} pictures with {boxes} boxes, {sides}, batches of {setting.run.batch_size}",
        header,
        tuple(rows),
        f"Forward, loss, backward and optimiser of one epoch, without data. Our canvases: {ours}. One square: "
        f"{square}x{square} for every picture, as in Huawei's Ascend port. Own maximum of a batch: pictures grouped by "
        "orientation as in mmdetection; its shapes change from epoch to epoch. Spare slots: images that fill last "
        "batches, blank, or in mmdetection pictures that come a second time; they cost time, are not counted as "
        f"pictures, and weigh more where pictures are few: without them the real pixels are {filled}. "
        f"{setting.gemm.note(timings)}",
    )


# ---- the whole ----


def read_setting(arguments: argparse.Namespace, folder: Path) -> Setting:
    """Sizes from the flags, model and optimiser from the run file, and the pictures, generated if need be."""
    gin_file, short_side, long_side = CONFIGS[arguments.config]
    if arguments.quick:
        short_side, long_side = QUICK_SIDES
    run = read_run([gin_file]).run
    cfg = replace(
        run.data,
        short_side=arguments.short_side or short_side,  # one size, as in the paper's 1x recipe
        long_side=arguments.long_side or long_side,
        canvases="auto",
        brightness=0.0,
        contrast=0.0,
    )
    count = arguments.pictures or (8 if arguments.quick else 32)
    data = read_coco(*pictures_of(arguments, folder, count), keep_empty=False)
    canvases = canvases_for(data, cfg) or ()
    chosen = data.pictures[:: max(1, len(data.pictures) // count)][:count]
    detector = replace(run.detector, num_classes=len(data.names))
    batch = arguments.batch or 2
    run = replace(run, detector=detector, data=cfg, optim=replace(run.optim, ema=0.0), batch_size=batch, accumulate=1)
    data = replace(data, pictures=chosen)
    return Setting(arguments.config, run, data, canvases, rounds_of(arguments), gemm_of(arguments))


def pictures_of(arguments: argparse.Namespace, folder: Path, count: int) -> tuple[Path, Images]:
    """Annotation file and where its pictures are: those of the flags, coco_tiny, or generated ones."""
    given = data_set_of(arguments)
    if given is not None:
        return given
    tiny = Path(os.environ.get(TEST_DATA, "")) / "coco_tiny"
    if os.environ.get(TEST_DATA) and tiny.is_dir():
        return tiny / "annotations" / "instances_train2017.json", tiny / "train2017"
    write_synthetic(folder, train=count, val=1, size_hw=GENERATED_HW)
    return folder / "annotations" / "instances_train2017.json", folder / "train2017"


def measure(arguments: argparse.Namespace) -> Findings:
    """Measure the three forms, an epoch of each in turn."""
    with tempfile.TemporaryDirectory() as folder:
        setting = read_setting(arguments, Path(folder))
        plans = plans_of(setting)
        batches = {form: read_batches(setting, plans[form]) for form in FORMS}
    pixels = {form: pixels_of(plans[form]) for form in FORMS}
    shapes = {form: Counter(plan.canvas for plan in plans[form]) for form in FORMS}
    state = make_training(setting.run, tuple({canvas for used in shapes.values() for canvas in used}))
    forms = [epoch_form(form, state, batches[form], setting.run) for form in FORMS]
    timings = interleave([*forms, setting.gemm.form()], setting.repeats)
    figures = {
        "config": setting.name,
        "annotations": str(setting.data.annotations),
        "pictures": setting.picture_count,
        "short_side": setting.run.data.short_side,
        "long_side": setting.run.data.long_side,
        "batch": setting.run.batch_size,
        "canvases": setting.canvases,
        "pixels": {form: epoch._asdict() for form, epoch in pixels.items()},
        "batches_by_shape": {
            form: {f"{height}x{width}": count for (height, width), count in sorted(used.items())}
            for form, used in shapes.items()
        },
        "rate_ratio": {form: paired_ratio(timings[OURS], timings[form])._asdict() for form in FORMS[1:]},
        "seconds": figures_of(timings),
    }
    return Findings((table(setting, pixels, timings),), figures)


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.canvases", __doc__)
    flags.add_argument("--config", choices=sorted(CONFIGS), default="r50", help="model and sizes (default r50)")
    add_data_set(flags, default=f"${TEST_DATA}/coco_tiny's")
    flags.add_argument("--pictures", type=positive, help="number of pictures, spread over the set (default 32)")
    flags.add_argument("--batch", type=positive, help="pictures a batch (default 2)")
    flags.add_argument("--short_side", type=positive, help="of a resized picture, px (default 800; small: 320)")
    flags.add_argument("--long_side", type=positive, help="its limit, px (default 1333; small: 533)")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

"""The training loader, in pictures a second by number of workers: `python -m benchmarks.loader [--json FILE]`.

Beside it is the limit of a worker: OpenCV's decoding and resizing of the same pictures to the same sizes, in one thread
and nothing else. Without --annotations and --images it reads generated JPEGs of 480x640, COCO's usual size. The figures
hold on idle cores, one a worker.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from benchmarks.command_line import add_data_set, benchmark_flags, data_set_of, positive, rounds_of, run_program, whole
from benchmarks.inputs import write_pictures
from benchmarks.measure import Form, Sample, Timing, figures_of, interleave, milliseconds, paired_ratio, rates, timed
from benchmarks.tables import Findings, Table
from gfl.data.coco import CocoData, read_coco
from gfl.data.loader import TrainLoader
from gfl.data.picture_files import read_bytes, read_picture, stored_bytes
from gfl.data.plan import BLANK
from gfl.data.sizes import canvases_for, eval_short_side
from gfl.data.transforms import resize, resized_size
from gfl.errors import InputError
from gfl.settings import DataConfig

SIZE_HW = (480, 640)
WORKERS = (0, 1, 2)
BARE, ONE = "bare decode + resize", "workers 1"
ALONE = 16  # pictures whose reading and resizing are timed by themselves


def epochs_form(data: CocoData, cfg: DataConfig, batch_size: int, workers: int) -> Form:
    """A form whose sample is the seconds of one epoch; its worker processes stay alive between epochs."""
    cfg = replace(cfg, workers=workers)
    loader = TrainLoader(data, cfg, canvases_for(data, cfg), batch_size=batch_size, seed=0)
    epochs = count()

    def sample() -> Sample:
        started = time.perf_counter()
        for loaded in loader.batches(loader.plan(next(epochs))):
            if loaded.failed:
                raise InputError(f"{loaded.failed[0]}; the benchmark needs every picture, mend or remove this one")
        return {f"workers {workers}": time.perf_counter() - started}

    return sample


def bare_form(data: CocoData, cfg: DataConfig, batch_size: int) -> Form:
    """A form whose sample is the seconds in which one thread of OpenCV decodes and resizes the pictures of an epoch."""
    loader = TrainLoader(data, replace(cfg, workers=0), canvases_for(data, cfg), batch_size=batch_size, seed=0)
    epochs = count()

    def sample() -> Sample:
        planned = [each for batch in loader.plan(next(epochs)) for each in batch.pictures if each.picture != BLANK]
        threads = cv2.getNumThreads()
        cv2.setNumThreads(0)
        started = time.perf_counter()
        for each in planned:
            picture, (height, width) = data.pictures[each.picture], each.size_hw
            image = cv2.imdecode(np.frombuffer(read_bytes(picture.path), np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise InputError(
                    f"got no picture from {picture.path}; the benchmark needs every picture, mend this one"
                )
            cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        seconds = time.perf_counter() - started
        cv2.setNumThreads(threads)
        return {BARE: seconds}

    return sample


def parts(data: CocoData, cfg: DataConfig) -> list[Form]:
    """Reading and resizing the first pictures in this process."""
    some = data.pictures[:ALONE]
    sizes = [resized_size(picture.height, picture.width, eval_short_side(cfg), cfg.long_side) for picture in some]
    images = [read_picture(picture.path) for picture in some]

    def read() -> None:
        for picture in some:
            read_picture(picture.path)

    def resize_all() -> None:
        for image, size_hw in zip(images, sizes, strict=True):
            resize(image, size_hw)

    return [timed("read", read), timed("resize", resize_all)]


def table(data: CocoData, cfg: DataConfig, batch_size: int, timings: Mapping[str, Timing]) -> Table:
    """Pictures a second by number of workers; the note gives the time of one picture."""
    pictures = len(data.pictures)
    rows = []
    for label, timing in timings.items():
        if label == BARE or label.startswith("workers"):
            others = [timings[other] if other in timings and other != label else None for other in (BARE, ONE)]
            ratios = ["" if other is None or label == BARE else str(paired_ratio(timing, other)) for other in others]
            rows.append((label, *rates(timing, pictures), *ratios))
    kilobytes = sum(stored_bytes(picture.path) for picture in data.pictures) / pictures / 1e3
    read, resized = (milliseconds(timings[part].median / min(ALONE, pictures)) for part in ("read", "resize"))
    limits = f"short side {cfg.short_side}, batches of {batch_size}"
    return Table(
        f"Training loader: {pictures} pictures of {kilobytes:.0f} kB, {limits}",
        ("", "pictures/s", "min", "max", "of bare", "of one worker"),
        tuple(rows),
        f"Alone, reading and decoding a picture takes {read} ms, resizing it {resized} ms. With workers 0 that happens "
        "in the training process itself, on all of its cores.",
    )


def measure(arguments: argparse.Namespace) -> Findings:
    """The loader with every number of workers, on the same pictures."""
    given = data_set_of(arguments)
    pictures = arguments.pictures or (8 if arguments.quick else 64)
    with tempfile.TemporaryDirectory() as folder:
        data = read_coco(*(given or write_pictures(Path(folder), pictures, SIZE_HW)), keep_empty=False)
        data = replace(data, pictures=data.pictures[:pictures])
        cfg = DataConfig(short_side=arguments.short_side, long_side=arguments.long_side)
        workers: Sequence[int] = arguments.workers or WORKERS
        forms = [bare_form(data, cfg, arguments.batch)]
        forms += [epochs_form(data, cfg, arguments.batch, number) for number in workers] + parts(data, cfg)
        timings = interleave(forms, rounds_of(arguments))
        tables = (table(data, cfg, arguments.batch, timings),)
    return Findings(tables, {"pictures": len(data.pictures), **figures_of(timings)})


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.loader", __doc__)
    add_data_set(flags, default="generated pictures")
    flags.add_argument("--pictures", type=positive, help="number of pictures, the first ones (default 64)")
    flags.add_argument("--batch", type=positive, default=2, help="pictures a batch (default 2)")
    flags.add_argument("--short_side", type=positive, default=800, help="of a resized picture, px (default 800)")
    flags.add_argument("--long_side", type=positive, default=1333, help="its limit, px (default 1333)")
    flags.add_argument("--workers", type=whole, nargs="+", help=f"numbers of worker processes (default {WORKERS})")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

"""The training loader: pictures a second from JPEGs, by number of workers: `python -m benchmarks.loader [--json FILE]`.

Without --annotations and --images it reads generated pictures of COCO's usual 480x640.
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

from benchmarks.inputs import write_pictures
from benchmarks.measure import Form, Sample, Timing, figures_of, interleave, milliseconds, rates, timed
from benchmarks.program import (
    add_pictures,
    add_rounds,
    flags_of,
    given_pictures,
    positive,
    rounds_of,
    run_program,
    whole,
)
from benchmarks.tables import Found, Table
from gfl.data.coco import CocoData, read_coco
from gfl.data.loader import TrainLoader, canvases_for
from gfl.data.picture_files import read_picture
from gfl.data.sizes import eval_short_side
from gfl.data.transforms import resize, resized_size
from gfl.errors import InputError
from gfl.settings import DataConfig

SIZE_HW = (480, 640)
WORKERS = (0, 1, 2)
SOME = 16  # pictures whose reading and resizing are timed alone


def passes(data: CocoData, cfg: DataConfig, batch_size: int, workers: int) -> Form:
    """One epoch a call, by workers that live on; seconds of the whole epoch."""
    loader = TrainLoader(data, cfg, canvases_for(data, cfg), batch_size=batch_size, seed=0, workers=workers)
    epochs = count()

    def sample() -> Sample:
        started = time.perf_counter()
        for loaded in loader.epoch(next(epochs)):
            if loaded.failed:
                raise InputError(f"{loaded.failed[0]}; a picture that is not read would count as read")
        return {f"workers {workers}": time.perf_counter() - started}

    return sample


def parts(data: CocoData, cfg: DataConfig) -> list[Form]:
    """Reading and resizing alone, of the first pictures, without a worker."""
    some = data.pictures[:SOME]
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
    """Pictures a second of the epochs, and what a picture costs."""
    pictures = len(data.pictures)
    rows = tuple((label, *rates(timing, pictures)) for label, timing in timings.items() if label.startswith("workers"))
    kilobytes = sum(picture.path.stat().st_size for picture in data.pictures) / pictures / 1e3
    read, resized = (milliseconds(timings[part].median / min(SOME, pictures)) for part in ("read", "resize"))
    limits = f"short side {cfg.short_side}, batches of {batch_size}"
    return Table(
        f"Training loader: {pictures} pictures of {kilobytes:.0f} kB, {limits}",
        ("", "pictures/s", "min", "max"),
        rows,
        f"Alone, reading and decoding a picture takes {read} ms, resizing it {resized} ms. With workers 0 that happens "
        "in the training process itself.",
    )


def measure(arguments: argparse.Namespace) -> Found:
    """Every number of workers on the same pictures."""
    given = given_pictures(arguments)
    pictures = arguments.pictures or (8 if arguments.quick else 64)
    with tempfile.TemporaryDirectory() as folder:
        data = read_coco(*(given or write_pictures(Path(folder), pictures, SIZE_HW)), keep_empty=False)
        data = replace(data, pictures=data.pictures[:pictures])
        cfg = DataConfig(short_side=arguments.short_side, long_side=arguments.long_side)
        workers: Sequence[int] = arguments.workers or WORKERS
        forms = [passes(data, cfg, arguments.batch, number) for number in workers] + parts(data, cfg)
        timings = interleave(forms, rounds_of(arguments))
        found_table = table(data, cfg, arguments.batch, timings)
    return Found((found_table,), {"pictures": len(data.pictures), **figures_of(timings)})


def parser() -> argparse.ArgumentParser:
    flags = flags_of("benchmarks.loader", __doc__)
    add_pictures(flags, default="generated pictures")
    flags.add_argument("--pictures", type=positive, help="the first so many (default 64)")
    flags.add_argument("--batch", type=positive, default=2, help="pictures a batch (default 2)")
    flags.add_argument("--short_side", type=positive, default=800, help="of a resized picture, px (default 800)")
    flags.add_argument("--long_side", type=positive, default=1333, help="its limit, px (default 1333)")
    flags.add_argument("--workers", type=whole, nargs="+", help=f"numbers of worker processes (default {WORKERS})")
    add_rounds(flags)
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

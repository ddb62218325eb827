"""Data sets of millions: time and memory of opening them, and of a training step on two ranks.

`python -m benchmarks.millions --folder DIR [--pictures N] [--json FILE]` writes a generated data set of N pictures and
fifteen times as many boxes, once; its pictures are names of a few real files. Memory of several processes is the sum of
their proportional set sizes (Linux): a page that several share is counted once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.child import ROOT
from benchmarks.command_line import benchmark_flags, positive, run_program
from benchmarks.inputs import write_pictures
from benchmarks.tables import Findings, Table
from gfl.data.annotation_index import INDEX_FROM
from gfl.data.coco_json import Ints
from gfl.data.host_cache import CACHE
from gfl.errors import InputError
from gfl.files import draft_path
from gfl.shapes import Canvas

PICTURES, QUICK_PICTURES = 2_000_000, 20_000
FEWEST_BOXES, MOST_BOXES = 10, 20  # of a picture, uniform: 15 on average
CLASSES = 365  # as many as Objects365 has
SIZES: Sequence[Canvas] = ((96, 128), (128, 96), (96, 96), (80, 128))
REAL, REAL_VAL = 64, 8  # files; ext4 gives a file at most 65,000 names
FOLDER_SIZE = 40_000  # names
CHUNK = 10_000  # pictures that are written together
WATCH_S = 0.25
STEPS = 2
# Of a process of its own: opens the set, then says seconds, peak and what it keeps, MB.
OPEN = """
import json, sys, time
def memory(file, name):
    return int(next(line for line in open(f"/proc/self/{file}") if line.startswith(name)).split()[1]) / 1024
from gfl.data.coco import read_coco
before, began = memory("smaps_rollup", "Pss:"), time.perf_counter()
data = read_coco(sys.argv[1], sys.argv[2], keep_empty=False)
seconds, pictures = time.perf_counter() - began, len(data.pictures)
print(json.dumps([seconds, memory("status", "VmHWM"), memory("smaps_rollup", "Pss:") - before]))
"""


class DataSet(NamedTuple):
    """Where a generated data set is."""

    annotations: Path
    images: Path
    val_annotations: Path
    val_images: Path


class Opened(NamedTuple):
    """What opening a data set took."""

    seconds: float
    peak_mb: float  # of the whole process, Python and NumPy included
    kept_mb: float  # PSS that came with it


class Trained(NamedTuple):
    """What a short training took."""

    first_step_s: float  # from the start of the launcher
    whole_s: float
    peak_mb: float  # PSS of all its processes
    processes: int  # at that time


# ---- the data set ----


def data_set(folder: Path, pictures: int) -> DataSet:
    """A generated data set of so many pictures, written where it is not there yet."""
    root = folder / f"{pictures}"
    if not root.is_dir():
        draft = draft_path(root)
        draft.mkdir(parents=True)
        _link_pictures(draft, pictures)
        _write_annotations(draft / "train.json", pictures)
        write_pictures_of(draft / "val", REAL_VAL)
        draft.rename(root)
    return DataSet(root / "train.json", root / "train", root / "val" / "instances.json", root / "val")


def write_pictures_of(folder: Path, count: int) -> None:
    """Real pictures of the last size with their boxes, of the training set's classes."""
    folder.mkdir()
    file, _ = write_pictures(folder, count, SIZES[-1])
    content = json.loads(file.read_text(encoding="utf-8"))
    content["categories"] = _categories()
    for row in content["annotations"]:
        row["category_id"] = 1 + row["id"] % CLASSES
    file.write_text(json.dumps(content), encoding="utf-8")


def _categories() -> list[dict[str, object]]:
    return [{"id": key, "name": f"class {key}"} for key in range(1, CLASSES + 1)]


def _name(number: int) -> str:
    return f"patch{number // FOLDER_SIZE}/{number:07d}.jpg"


def _link_pictures(root: Path, pictures: int) -> None:
    """Names of REAL files, whose sizes are SIZES in turn."""
    real = []
    for kind, size_hw in enumerate(SIZES):
        (root / f"real{kind}").mkdir()
        write_pictures(root / f"real{kind}", REAL // len(SIZES), size_hw)
        real.append(sorted((root / f"real{kind}").glob("*.jpg")))
    for number in range(pictures):
        path = root / "train" / _name(number)
        if number % FOLDER_SIZE == 0:
            path.parent.mkdir(parents=True)
        of_size = real[number % len(SIZES)]
        os.link(of_size[number // len(SIZES) % len(of_size)], path)


def _write_annotations(file: Path, pictures: int) -> None:
    """An annotation file without polygons, some pictures at a time."""
    generator = np.random.default_rng(0)
    counts = generator.integers(FEWEST_BOXES, MOST_BOXES + 1, pictures)
    with open(file, "w", encoding="utf-8") as stream:
        stream.write('{"images": [')
        rows = ((number, *SIZES[number % len(SIZES)]) for number in range(pictures))
        texts = (f'{{"id": {n}, "file_name": "{_name(n)}", "height": {h}, "width": {w}}}' for n, h, w in rows)
        for number, text in enumerate(texts):
            stream.write(f"{', ' if number else ''}{text}")
        stream.write('], "annotations": [')
        first = 0
        for start in range(0, pictures, CHUNK):
            text = ", ".join(_boxes(generator, np.arange(start, min(start + CHUNK, pictures)), counts, first))
            stream.write(f"{', ' if start else ''}{text}")
            first += int(counts[start : start + CHUNK].sum())
        stream.write(f'], "categories": {json.dumps(_categories())}}}')


def _boxes(generator: np.random.Generator, numbers: Ints, counts: Ints, first: int) -> Iterator[str]:
    """The annotations of some pictures; first: the number of the first."""
    owners = np.repeat(numbers, counts[numbers])
    sizes_wh = np.array([(width, height) for height, width in SIZES])[owners % len(SIZES)]
    wide_high = np.round(8 + generator.random((len(owners), 2)) * (sizes_wh - 10), 2)
    left_top = np.round(generator.random((len(owners), 2)) * (sizes_wh - wide_high), 2)
    classes = generator.integers(1, CLASSES + 1, len(owners))
    columns = zip(owners.tolist(), classes.tolist(), left_top.tolist(), wide_high.tolist(), strict=True)
    for key, (owner, label, (x, y), (w, h)) in enumerate(columns, start=first + 1):
        yield (
            f'{{"id": {key}, "image_id": {owner}, "category_id": {label}, "bbox": [{x}, {y}, {w}, {h}], '
            f'"area": {w * h:.2f}, "iscrowd": 0}}'
        )


# ---- what it takes ----


def open_once(data: DataSet, environment: dict[str, str]) -> Opened:
    """Open it in a process of its own."""
    command = [sys.executable, "-c", OPEN, str(data.annotations), str(data.images)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise InputError(f"got exit status {done.returncode} from opening {data.annotations}; mend what it wrote above")
    return Opened(*json.loads(done.stdout.splitlines()[-1]))


def train_once(data: DataSet, environment: dict[str, str], folder: Path) -> Trained:
    """Some steps of a small model on two ranks with a loader's worker each, and an evaluation of a few pictures."""
    settings = {
        "TRAIN_JSON": str(data.annotations),
        "TRAIN_IMAGES": str(data.images),
        "VAL_JSON": str(data.val_annotations),
        "VAL_IMAGES": str(data.val_images),
        "SHORT_SIDE": 96,
        "LONG_SIDE": 128,
        "EVAL_SHORT_SIDE": 96,
        "BATCH_SIZE": 4,
        "MAX_STEPS": STEPS,
        "LOG_EVERY": 1,
        "WORKERS": 1,
        "DEVICE": "cpu",
        "PRECISION": "fp32",
    }
    bindings = [f"{name} = {value!r}" for name, value in settings.items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "gfl.train", "--gin_file", "scratch_small.gin", "--workdir", str(folder)]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--gin_bindings", *bindings], cwd=ROOT, env=environment)
    peak_mb, processes, first_step_s = 0.0, 0, 0.0
    while process.poll() is None:
        time.sleep(WATCH_S)
        each = [pss_mb(pid) for pid in family(process.pid)]
        if sum(each) > peak_mb:
            peak_mb, processes = sum(each), len(each)
        if not first_step_s and (folder / "log.jsonl").is_file() and (folder / "log.jsonl").stat().st_size:
            first_step_s = time.perf_counter() - began
    if process.returncode:
        raise InputError(f"got exit status {process.returncode} from {command}; mend what it wrote above")
    return Trained(first_step_s, time.perf_counter() - began, peak_mb, processes)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def pss_mb(pid: int) -> float:
    """The proportional set size of a process, MB; 0 where it has ended."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    return 0.0


def measure(arguments: argparse.Namespace) -> Findings:
    """One table: the first opening, the second, and a training."""
    pictures = arguments.pictures or (QUICK_PICTURES if arguments.quick else PICTURES)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as own:
        data = data_set(arguments.folder or Path(own), pictures)
        size = data.annotations.stat().st_size
        environment = {**os.environ, CACHE: str(Path(own) / "cache")}
        first, second = (open_once(data, environment) for _ in range(2))
        index = sum(path.stat().st_size for path in Path(own, "cache").rglob("*") if path.is_file())
        trained = train_once(data, environment, Path(own) / "run")
        shutil.rmtree(Path(own) / "cache", ignore_errors=True)
    rows = [
        (name, f"{each.seconds:,.1f}", f"{each.peak_mb:,.0f}", f"{each.kept_mb:,.0f}")
        for name, each in (("open, first time", first), ("open, second time", second))
    ]
    steps = f"{STEPS} steps on two ranks, {trained.processes} processes"
    rows.append((steps, f"{trained.first_step_s:,.1f}", f"{trained.peak_mb:,.0f}", ""))
    note = f"{size / 1e6:,.0f} MB of JSON; the index takes {index / 1e6:,.0f} MB of disk. " * (size >= INDEX_FROM)
    note += "Training: seconds until the first step is logged; the peak is the PSS of all its processes together."
    table = Table(f"{pictures:,} pictures", ("", "s", "peak MB", "keeps MB"), tuple(rows), note)
    figures = {"first": first._asdict(), "second": second._asdict(), "training": trained._asdict()}
    return Findings((table,), {"pictures": pictures, "index_bytes": index, "file_bytes": size, **figures})


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.millions", __doc__)
    flags.add_argument("--folder", type=Path, help="where the data set is kept (default: a temporary folder)")
    flags.add_argument("--pictures", type=positive, help=f"pictures of the data set (default {PICTURES:,})")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))

"""The child process in which one of the READERS reads one file, since some crash and some hang.

`python -m benchmarks.reader_child --reader NAME --file FILE --inputs IN.npz --outputs OUT.npz` runs the pictures of
IN.npz and writes what came out and how long it took, or why nothing did. Shapes: N picture, each a batch of one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.readers import READERS, Array, Job, Reader, Run, onnxruntime


def installed(packages: Sequence[str]) -> dict[str, str]:
    """The versions of packages; empty where one is missing, or its version is not one of those that count."""
    found: dict[str, str] = {}
    for package in packages:
        name, _, wanted = package.partition("==")
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            if version.startswith(wanted):
                found[name] = version
    return found if len(found) == len(packages) else {}


def beside(reader: Reader, job: Job) -> Run | None:
    """ONNX Runtime on the same graph, to take turns with; None for itself, and where it is not in this installation."""
    if reader.open is onnxruntime:
        return None
    try:
        return onnxruntime(job._replace(file=job.file.with_suffix(".onnx")))
    except Exception:  # of many types, where it is missing, or too old for the file
        return None


def read(reader: Reader, job: Job, images: Array, sizes: Array) -> dict[str, object]:
    """What came of a file: outputs (N,...) and the seconds of each run, both sides in turns; an error; or nothing."""
    try:
        run = reader.open(job)
        if run is None:
            return {}
        sides = {"": run, "beside_": beside(reader, job)}
        outputs: list[list[Array]] = []
        seconds: dict[str, list[float]] = {}
        for place in (0, *range(len(images))):  # the first once more: allocators start in it
            for side, call in sides.items():
                if call is not None:
                    started = time.perf_counter()
                    found = [np.array(each) for each in call(images[place], sizes[place])]
                    seconds.setdefault(f"{side}seconds", []).append(time.perf_counter() - started)
                    if side == "":
                        outputs.append(found)
        stacked = {f"output_{place}": np.stack(each) for place, each in enumerate(zip(*outputs[1:], strict=True))}
        return {**stacked, **{name: np.array(times[1:]) for name, times in seconds.items()}}
    except Exception as error:  # of any type
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Read one file; 0 whatever comes of it."""
    flags = argparse.ArgumentParser(prog="python -m benchmarks.reader_child", description=__doc__)
    flags.add_argument("--reader", required=True, choices=tuple(READERS))
    flags.add_argument("--file", type=Path, required=True)
    flags.add_argument("--inputs", type=Path, required=True, help=".npz: images, image_sizes, names")
    flags.add_argument("--outputs", type=Path, required=True, help=".npz to write")
    flags.add_argument("--threads", type=int, default=1)
    arguments = flags.parse_args()
    inputs, reader = np.load(arguments.inputs), READERS[arguments.reader]
    images, sizes, names = (inputs[name] for name in ("images", "image_sizes", "names"))
    versions = installed(reader.packages)
    answer: dict[str, Any] = {"versions": json.dumps(versions)}
    np.savez(arguments.outputs, **answer)  # which stays if this process dies
    if versions:
        with TemporaryDirectory(prefix="gfl_reader_") as folder:
            job = Job(arguments.file, [*map(str, names)], images.shape[-2:], arguments.threads, Path(folder))
            answer |= read(reader, job, images, sizes)
        np.savez(arguments.outputs, **answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())

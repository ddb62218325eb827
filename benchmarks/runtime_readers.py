"""Exported files in programs of other people, as they stand: `python -m benchmarks.runtime_readers --now FILE ...`.

Each of the READERS reads each file in a child process of its own, and its outputs are compared with those that ONNX
Runtime gives on the same pictures. With --before, files of an older version stand beside: what became of each reader.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from benchmarks.child import ROOT
from benchmarks.command_line import positive
from benchmarks.readers import READERS, reason
from benchmarks.sections import pythons_of, run_section, section_flags
from benchmarks.tables import Findings, Table
from export.parity import Parity, compare_detections, compare_tensors
from export.samples import batches, picture_files, read_samples
from gfl.errors import InputError
from gfl.runtime.description import Arrays, Thresholds
from gfl.runtime.onnx_file import describe_onnx, open_onnx

FORMS = ("detections", "decoded", "raw")
LIMIT_S = 300.0
SCALE = 10.0  # of the tolerances between two runtimes, as of the formats of export.to that round the most
LENGTH = 120  # characters of a reason
# What programs say around a reason: places in sources, versions, times, marks of lines, arguments.
AROUND = re.compile(
    r"^[> ]+|OpenCV\(\S+ \S+: |error: \(-2:Unspecified error\) |in function '[^']*'|Node \S+ parse error: "
    r"|\[[\d:.]+\] |Exception encountered when calling layer [^\n]+|Call arguments received by .*",
    re.MULTILINE | re.DOTALL,
)
NO = "no: "
NOT_INSTALLED = "not installed here"
NOT_RUN = "converted, not run"
NOTE = (
    "Scores / boxes px: the largest difference from ONNX Runtime's detections, matched by class and box, or number by "
    "number; of raw outputs edge logits in the place of boxes. Detections that do not match lie within rounding of a "
    "threshold or of the limit of NMS, unless said. x: the time of a run as a share of that of ONNX "
    "Runtime in turns with it, the median, where the reader's own installation has one."
)


class Reading(NamedTuple):
    """What came of one file in one program."""

    reader: str
    form: str  # 'detections', 'decoded' or 'raw'
    now: bool  # False: of the files before
    versions: Mapping[str, str]  # of the reader's packages; empty where it is not installed
    text: str  # differences and time, or why there are none


class Reference(NamedTuple):
    """What ONNX Runtime gives on the pictures of one file."""

    inputs: Path  # .npz for the children
    outputs: Sequence[Arrays]  # a picture
    thresholds: Thresholds  # by which the file chooses its detections


def read_all(
    now: Mapping[str, Path],
    before: Mapping[str, Path],
    images: Sequence[Path],
    *,
    pythons: Mapping[str, str] | None = None,
    readers: Sequence[str] = tuple(READERS),
    threads: int = 1,
    limit_s: float = LIMIT_S,
) -> Iterator[Reading]:
    """Each reader on each file, one after the other.

    now, before: form -> .onnx, with a .pt2 of the same stem beside it. pythons: reader -> the Python that runs it, for
    those whose packages exclude those of this one. limit_s: seconds that a child process may take. Raises InputError
    for a file that is no export, or that ONNX Runtime itself does not read.
    """
    with TemporaryDirectory(prefix="gfl_readers_") as name:
        files = [(path, reference_of(path, images, threads, Path(name))) for path in (*before.values(), *now.values())]
        kinds = [(form, is_now) for is_now, forms in ((False, before), (True, now)) for form in forms]
        for reader in readers:
            python = (pythons or {}).get(reader, sys.executable)
            for (form, is_now), (path, reference) in zip(kinds, files, strict=True):
                words = [python, "-m", "benchmarks.reader_child", "--reader", reader, "--threads", str(threads)]
                words += ["--file", str(path.resolve().with_suffix(READERS[reader].suffix))]
                words += ["--inputs", str(reference.inputs)]
                versions, text = read_one(words, reference, threads, limit_s)
                yield Reading(reader, form, is_now, versions, text)


def reference_of(path: Path, images: Sequence[Path], threads: int, folder: Path) -> Reference:
    """The pictures as the file takes them, and ONNX Runtime's outputs; InputError for more than a picture a run."""
    model = open_onnx(path, threads=threads)
    about = model.description
    if about.batch != 1:
        raise InputError(f"got {path}, of {about.batch} pictures a run, expected one; export it with --batch 1")
    samples = read_samples(images, about.size, about.short_side, about.long_side)
    feeds = [(batch.images, batch.image_sizes) for batch in batches(samples, about.size, 1)]
    inputs = Path(tempfile.mkdtemp(dir=folder)) / "inputs.npz"
    pictures, sizes = map(np.stack, zip(*feeds, strict=True))
    np.savez(inputs, images=pictures, image_sizes=sizes, names=np.array(model.output_names))
    return Reference(inputs, [model.run(*feed) for feed in feeds], about.thresholds)


def read_one(words: Sequence[str], reference: Reference, threads: int, limit_s: float) -> tuple[dict[str, str], str]:
    """The versions and the cell of a child process with this command; --outputs is added to it."""
    with TemporaryDirectory(prefix="gfl_reader_") as name:
        written, log = Path(name, "outputs.npz"), Path(name, "log")
        # What a child that dies has begun to write goes with this folder.
        variables = {"TMPDIR": name, **dict.fromkeys(("OMP_NUM_THREADS", "TVM_NUM_THREADS"), str(threads))}
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*words, "--outputs", str(written)],
                stdout=stream,
                stderr=stream,
                cwd=ROOT,
                env={**os.environ, **variables},
                start_new_session=True,  # so that converters that it has started end with it
            )
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        answer = dict(np.load(written)) if written.is_file() else {}
        versions: dict[str, str] = json.loads(str(answer.get("versions", "{}")))
        if status is None:
            return versions, f"{NO}nothing after {limit_s:g} s"
        if status != 0:
            ended = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            return versions, told(f"{ended}: {reason(log.read_text(encoding='utf-8', errors='replace'))}")
    return versions, cell_of(answer, reference) if versions else NOT_INSTALLED


def told(failure: str) -> str:
    """A reason for a cell: both ends of it, without what would be markup."""
    line = " ".join(AROUND.sub("", failure).split()).translate(str.maketrans("|`", "/'"))
    half = LENGTH // 2 - 2
    return f"{NO}`{line if len(line) <= LENGTH else f'{line[:half]} .. {line[-half:]}'}`"


# ---- comparison ------------------------------------------------------------------------------------------------------


def cell_of(answer: Arrays, reference: Reference) -> str:
    """What is told of the arrays that a child has written."""
    if "error" in answer:
        return told(str(answer["error"]))
    if "seconds" not in answer:
        return NOT_RUN
    names = list(reference.outputs[0])
    outputs = [answer[f"output_{place}"] for place in range(len(names)) if f"output_{place}" in answer]
    if [each[0].size for each in outputs] != [each.size for each in reference.outputs[0].values()]:
        return told(f"gives outputs of shapes {[each.shape[1:] for each in outputs]}")
    shaped = [
        {name: each[place].reshape(expected[name].shape) for name, each in zip(names, outputs, strict=True)}
        for place, expected in enumerate(reference.outputs)
    ]
    text = difference(shaped, reference)
    if "beside_seconds" not in answer:
        return text
    ratios = answer["seconds"].astype(np.float64) / answer["beside_seconds"].astype(np.float64)
    return f"{text}, x {np.median(ratios):.1f}"


def difference(of_reader: Sequence[Arrays], reference: Reference) -> str:
    """'scores / boxes px', with the number of detections that match where some do not; or 'equal'."""
    parity, counts = Parity(scale=SCALE, reference="ONNX Runtime"), np.zeros(2, np.int64)
    for place, (found, expected) in enumerate(zip(of_reader, reference.outputs, strict=True)):
        if "count" in expected:
            compare_detections(parity, [f"picture {place}"], found, expected, reference.thresholds)
            counts += [int(found["count"][0]), int(expected["count"][0])]
        else:
            compare_tensors(parity, [f"picture {place}"], found, expected)
    scores, boxes = (
        max((value for name, value in parity.largest.items() if name.startswith(kind)), default=0.0)
        for kind in ("scores", ("boxes", "edge_logits"))
    )
    text = f"{scores:.1g} / {boxes:.1g}" if scores or boxes else "equal"
    alone = int(counts.sum()) - 2 * parity.matched
    if alone == 0:
        return text
    unexplained = alone - len(parity.excused)
    rest = f", {unexplained} alone and not by rounding" if unexplained else ""
    return f"{parity.matched} of {counts[1]} detections matched{rest}, {text}"


# ---- the table -------------------------------------------------------------------------------------------------------


def table(readings: Sequence[Reading]) -> Table:
    """A row a reader; columns of the files before where there are some."""
    cells = {(each.reader, each.now, each.form): each.text for each in readings}
    versions = {each.reader: each.versions for each in readings if each.versions}
    columns = [(now, form) for now in (False, True) for form in FORMS if any(key[1:] == (now, form) for key in cells)]
    rows, reasons = [], []
    for name in dict.fromkeys(each.reader for each in readings):
        packages = ", ".join(f"{package} {version}" for package, version in versions.get(name, {}).items())
        title = f"{READERS[name].title} ({packages})" if packages else READERS[name].title
        own = [cells.get((name, *column), "") for column in columns]
        rows.append((title, *("no" if text.startswith(NO) else text for text in own), READERS[name].licence))
        why = {text.removeprefix(NO): now for (now, _), text in zip(columns, own, strict=True) if text.startswith(NO)}
        if why:
            told_now = [text if now else f"before, {text}" for text, now in why.items()]
            reasons.append(f"- {READERS[name].title}: {'; '.join(told_now)}")
    header = ("runtime", *(f"{'now' if now else 'before'}: {form}" for now, form in columns), "licence")
    note = "\n".join([NOTE, *(["", "Why not:", ""] if reasons else []), *reasons])
    return Table("Exported files in other programs, as they stand", header, tuple(rows), note)


def measure(arguments: argparse.Namespace) -> Findings:
    """The findings that the command line asks for; InputError for a reader that is not known."""
    pythons = pythons_of(arguments.python, READERS)
    now, before = ({describe_onnx(path).outputs: path for path in files} for files in (arguments.now, arguments.before))
    images = picture_files(arguments.images, arguments.samples)
    readings = []
    wanted = {"readers": arguments.readers, "threads": arguments.threads, "limit_s": arguments.limit_s}
    for reading in read_all(now, before, images, pythons=pythons, **wanted):
        print(" | ".join((reading.reader, "now" if reading.now else "before", reading.form, reading.text)), flush=True)
        readings.append(reading)
    return Findings((table(readings),), {"readings": [each._asdict() for each in readings]})


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = section_flags("benchmarks.runtime_readers", __doc__, "readers")
    add = flags.add_argument
    add("--now", type=Path, nargs="+", required=True, metavar="FILE", help=".onnx of each form; the .pt2 beside it")
    add("--before", type=Path, nargs="+", default=[], metavar="FILE", help="the same of an older version")
    add("--images", type=Path, required=True, metavar="DIR", help="pictures to run")
    add("--samples", type=positive, default=4, help="how many pictures, at most (default 4)")
    add("--readers", nargs="+", choices=tuple(READERS), default=list(READERS), help="default: all")
    add("--threads", type=positive, default=1, help="of each side (default 1)")
    add("--limit_s", type=float, default=LIMIT_S, metavar="SECONDS", help=f"a child may take (default {LIMIT_S:g})")
    return flags


if __name__ == "__main__":
    sys.exit(run_section(parser(), measure))

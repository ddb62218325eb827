"""Convert an export for another runtime, and compare it there with what it was made of.

    python -m export.to --format openvino --model best.onnx --output best_openvino/ --images val/

A checkpoint is exported first. A runtime that is not installed here gives a file that was converted and not run, and
the report beside it says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:  # `python export/to.py`
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # so that the sentence about it can be said

from export import command
from export.errors import CheckError
from export.formats import FORMATS
from export.formats.interface import Conversion, Format
from gfl.errors import InputError, NotHereError, first_line
from gfl.files import new_folder, require_new, to_json, write_atomic
from gfl.machine import usable_cores
from gfl.runtime.description_file import description_path, description_text
from gfl.say import say

if TYPE_CHECKING:
    from export.sources import Pictures, Source
    from gfl.runtime.model import StaticFile


def main(argv: Sequence[str] | None = None) -> int:
    """Convert as the command line says; 0, 1 when a check fails, 2 on a user's mistake.

    128 and its number when a signal stops it.
    """
    try:
        run(command.read_arguments(parser(), argv))
    except command.FAILURES as failure:
        return command.report_failure(failure)
    return 0


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(
        prog="python -m export.to", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--format", required=True, choices=tuple(FORMATS), help="of the runtime that will run it")
    add("--model", type=Path, required=True, metavar="FILE", help="an .onnx, a .pt2, a folder of them, or a checkpoint")
    add("--output", type=Path, required=True, metavar="FOLDER", help="new or empty; gfl.load opens it")
    scope = (
        "what the runtime computes in (default fp32; rknn: fp16); bf16: openvino; int8, of the convolutions: openvino "
        "and litert"
    )
    add("--precision", choices=("fp32", "fp16", "bf16", "int8"), help=scope)
    add("--images", type=Path, metavar="DIR", help="pictures to compare on (default: a checkpoint's own, or generated)")
    add(
        "--annotations", type=Path, metavar="FILE", help="COCO JSON of these pictures, on whose boxes the AP is counted"
    )
    add("--calibration", type=Path, metavar="DIR", help=command.RANGES)
    add("--samples", type=int, metavar="N", help="how many pictures (default 64; 4 generated ones)")
    drop = "the most AP that bf16 or int8 may lose, from 0 to 1 (default 0.005)"
    add("--max_ap_drop", type=float, metavar="X", help=drop)
    add("--threads", type=int, metavar="N", help="of the CPU, for both sides (default: a thread a core)")
    checkpoint = "of a checkpoint, as of export.onnx"
    add("--size", action="extend", nargs="+", default=[], metavar="HxW", help=checkpoint)
    add("--gin_file", action="append", default=[], help=checkpoint)
    add("--gin_bindings", action="extend", nargs="+", default=[], help=checkpoint)
    return flags


def run(arguments: argparse.Namespace) -> None:
    """Check everything, convert each size and compare it."""
    for name in ("samples", "threads"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise InputError(f"got --{name} {number}, expected 1 or more; omit it for the default")
    wanted = FORMATS[arguments.format]
    arguments.precision = arguments.precision or wanted.precisions[0]
    check_format(wanted, arguments)
    import torch  # late, as what follows: seconds, which --help and the sentences above do not need

    from export.sources import read_sources
    from gfl.runtime.model import static_model
    from gfl.runtime.open import finished

    require_new(arguments.output)
    threads = arguments.threads or usable_cores()
    torch.set_num_threads(threads)
    with TemporaryDirectory(prefix="gfl_export_") as exported:
        sources, pictures = read_sources(arguments, wanted, Path(exported))
        # Refuses what gfl.load would refuse of the new files: several models, or settings that NumPy does not follow.
        static_model(arguments.model, finished([source.rival for source in sources]))
        with new_folder(arguments.output) as folder:
            for source in sources:
                for line in convert(source, wanted, arguments, folder, pictures, threads):
                    say(line)
    for remark in wanted.remarks:
        say(f"note: {remark}")
    if wanted.open is not None and wanted.suffix != ".onnx":  # which infer would run by ONNX Runtime
        say(f"next: python infer/run.py --model {arguments.output} --input PICTURES --output found")


def check_format(wanted: Format, arguments: argparse.Namespace) -> None:
    """Raise InputError for a precision that the format has not, and for a converter that is not installed."""
    if arguments.precision not in wanted.precisions:
        raise InputError(
            f"got --precision {arguments.precision} for --format {wanted.name}, expected one of "
            f"{', '.join(wanted.precisions)}; omit it for {wanted.precisions[0]}"
        )
    command.check_precision(arguments)
    needed = {wanted.extra: wanted.packages}
    if arguments.precision == "int8":
        needed[f"{wanted.extra}-int8"] = wanted.int8_packages
    for extra, packages in needed.items():
        if missing := [package for package in packages if find_spec(package) is None]:
            raise InputError(
                f"--format {wanted.name} needs {', '.join(missing)}, which is not installed; "
                f"pip install 'gflv2[{extra}]'{wanted.besides}"
            )


def convert(
    source: Source, wanted: Format, arguments: argparse.Namespace, folder: Path, pictures: Pictures, threads: int
) -> Iterator[str]:
    """Write one file with its description and report, and compare it; what is printed of it.

    Raises CheckError where it gives other results.
    """
    from export.compare import report_path
    from export.gate import judge
    from export.precision import WAYS_OUT

    description = source.rival.description
    if arguments.precision != description.precision:
        digest = sha256(f"{description.digest} {arguments.precision}".encode()).hexdigest()
        description = replace(description, precision=arguments.precision, digest=digest)
    target = folder / f"{source.path.stem}{wanted.suffix}"
    try:
        opened = wanted.convert(Conversion(source.path, description, source.output_names, pictures.calibration, target))
    except (CheckError, InputError, OSError):
        raise
    except (Exception, SystemExit) as error:  # converters raise many types, and onnx2tf ends the program
        raise CheckError(f"{wanted.name} did not convert {source.path}", [first_line(error)]) from error
    mine = [path for path in folder.iterdir() if path.stem == target.stem]  # files, or a folder of them
    mb = sum(file.stat().st_size for path in mine for file in (path, *path.rglob("*")) if file.is_file()) / 1e6
    write_atomic(
        description_path(target), description_text(description, source.output_names, filter(Path.is_file, mine))
    )
    about: dict[str, object] = {"file": target.name, "format": wanted.name, "made_of": source.path.name}
    about |= {name: getattr(description, name) for name in ("digest", "outputs", "precision", "size", "batch")}
    about |= {"mb": mb, "remarks": wanted.remarks, "calibration": [file.name for file in pictures.calibration]}
    about["versions"] = versions_of(wanted)
    yield f"{target.name}: {mb:.1f} MB, {wanted.name}, {description.outputs}, {description.precision}"
    try:
        file = opened or open_target(wanted, target, threads)
    except NotHereError as error:
        why = f"converted, not run: {error}"
        write_atomic(report_path(target), to_json({**about, "passed": None, "not_run": why}, indent=2) + "\n")
        yield f"  {why}"
        return
    verdict = judge(file, source, pictures, threads, wanted.scale, arguments.max_ap_drop)
    content = {**about, "passed": not verdict.failures, "failures": verdict.failures, **verdict.content()}
    write_atomic(report_path(target), to_json(content, indent=2) + "\n")
    if verdict.failures:
        refusal = CheckError(f"{target.name} would not agree with {source.path.name}", verdict.failures)
        if ways_out := WAYS_OUT[description.precision]:
            refusal.add(ways_out)
        raise refusal
    yield from (f"  {line}" for line in verdict.lines())


def open_target(wanted: Format, target: Path, threads: int) -> StaticFile:
    """Open a converted file; NotHereError where its runtime, or what it takes, is not here."""
    if wanted.open is None or find_spec(wanted.runtime) is None:
        raise NotHereError(f"{wanted.runtime or wanted.name} is not here")
    return wanted.open(target, threads)


def versions_of(wanted: Format) -> dict[str, str]:
    """The versions of what converts and runs a format, by the name of the package."""
    found = metadata.packages_distributions()
    modules = filter(None, (*wanted.packages, *wanted.int8_packages, wanted.runtime))
    names = sorted({name for module in modules for name in found.get(module, ())})
    return {name: metadata.version(name) for name in names}


if __name__ == "__main__":
    sys.exit(main())

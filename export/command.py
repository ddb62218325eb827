"""The command line that the programs of this folder share: flags, and how a program ends, in failure too.

Nothing heavy is imported here, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.errors import CheckError
from gfl.errors import InputError  # and gfl before torch: see gfl/autoload.py
from gfl.say import say
from gfl.signals import exit_code, interrupt_on_sigterm

# What ends a program without a traceback: a user's mistake, a failed check, Ctrl-C or another signal.
FAILURES = (InputError, CheckError, KeyboardInterrupt)

RANGES = "pictures that int8 takes its ranges from, best of the training (default: those of --images)"


def parser(program: str, description: str | None, suffix: str, precisions: Sequence[str]) -> argparse.ArgumentParser:
    """The flags of a program that exports a checkpoint into files of this suffix, in one of these precisions."""
    flags = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.set_defaults(suffix=suffix)
    add = flags.add_argument
    add("--checkpoint", type=Path, help="a .pt of this project, or a .pth with --gin_file (default: the newest run's)")
    add("--output", type=Path, help=f"the {suffix}, or a folder, as for several sizes (default: beside the checkpoint)")
    add("--size", action="extend", nargs="+", default=[], metavar="HxW", help="px, multiples of 32; may repeat")
    add("--batch", type=int, default=1, metavar="N", help="pictures that the graph takes at a time (default 1)")
    add("--outputs", default="detections", choices=("detections", "decoded", "raw"), help="default: detections")
    scope = "of the convolutions; the distribution, the boxes and the NMS stay float32 (default fp32)"
    add("--precision", default="fp32", choices=precisions, help=scope)
    pictures = (
        "pictures to compare with PyTorch on (default: of the run's validation set, or generated ones where it is not "
        "here)"
    )
    add("--images", type=Path, metavar="DIR", help=pictures)
    add("--calibration", type=Path, metavar="DIR", help=RANGES)
    add("--samples", type=int, metavar="N", help="how many of these and those (default 4; 64 for fp16 and int8)")
    drop = "the most AP that fp16 or int8 may lose, from 0 to 1; more than half of the model's it never may"
    add("--max_ap_drop", type=float, metavar="X", help=drop)
    add("--skip_parity", action="store_true", help="write the file without comparing it with PyTorch")
    unchecked = "write the file though nothing is detected on the pictures, not even below the score threshold"
    add("--allow_unchecked", action="store_true", help=unchecked)
    add("--gin_file", action="append", default=[], help="settings of a model whose file has none")
    add("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    classes = "COCO JSON whose class names and category ids to write; fp16 and int8 count their AP on its boxes"
    add("--annotations", type=Path, metavar="FILE", help=classes)
    metrics = (
        "metrics.json of an evaluation: write the score of highest F1 of each class from it (default: the checkpoint's)"
    )
    add("--metrics", type=Path, metavar="FILE", help=metrics)
    return flags


def read_arguments(flags: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line `argv`; None stands for that of this process, which signals then stop as Ctrl-C does.

    Raises InputError for a program that was started inside this folder.
    """
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        # This folder stands before the installed packages: `import onnx` would find export/onnx.py.
        raise InputError(f"got started from inside export/, expected `{flags.prog}` from elsewhere")
    arguments = flags.parse_args(argv)
    if argv is None:
        interrupt_on_sigterm()
    return arguments


def check_precision(arguments: argparse.Namespace) -> None:
    """InputError for a flag that another precision takes, for one out of its range, and for int8 without pictures."""
    drop = arguments.max_ap_drop
    if drop is not None and not 0.0 <= drop <= 1.0:
        raise InputError(f"got --max_ap_drop {drop:g}, expected a share from 0 to 1; omit it for the precision's own")
    if drop is not None and arguments.precision == "fp32":
        raise InputError(
            f"got --max_ap_drop {drop:g} with --precision fp32, which is compared number by number; "
            "omit it, or give a smaller --precision"
        )
    if arguments.precision != "int8" and arguments.calibration is not None:
        raise InputError(f"got --calibration {arguments.calibration} without --precision int8; omit it, or give both")
    if arguments.precision == "int8" and arguments.calibration is None and arguments.images is None:
        raise InputError(
            "got --precision int8 without pictures to take the ranges of the activations from; give --calibration DIR "
            "with pictures like those that the model is for, or --images DIR"
        )


def report_failure(failure: BaseException) -> int:
    """Print one of FAILURES to stderr; the exit code for it."""
    if isinstance(failure, InputError):
        say(f"error: {failure}", error=True)
        return 2
    if isinstance(failure, CheckError):
        say(f"failed: {failure}", error=True)
        return 1
    say("\nstopped; files that were finished stay, the one that was not is gone", error=True)
    return exit_code(failure) if isinstance(failure, KeyboardInterrupt) else 1

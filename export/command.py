"""The command line that the exports share. Nothing heavy is imported here: --help answers at once."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gfl.errors import InputError  # and gfl before torch: see gfl/autoload.py

if TYPE_CHECKING:
    from export.request import Request
    from gfl.shapes import Canvas


def parser(program: str, description: str | None, suffix: str, precisions: Sequence[str]) -> argparse.ArgumentParser:
    """The flags of a program that writes files of this suffix."""
    flags = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.set_defaults(suffix=suffix)
    add = flags.add_argument
    add("--checkpoint", type=Path, help="a .pt of this project, or a .pth with --gin_file (default: the newest run's)")
    add(
        "--output",
        type=Path,
        help=f"the {suffix}, or a folder; for several sizes a folder (default: beside the checkpoint)",
    )
    add(
        "--size",
        action="extend",
        nargs="+",
        default=[],
        metavar="HxW",
        help="canvas in pixels, multiples of 32; may repeat",
    )
    add("--batch", type=int, default=1, metavar="N", help="pictures a run of the graph (default 1)")
    add("--outputs", default="detections", choices=("detections", "decoded", "raw"), help="default: detections")
    add(
        "--precision",
        default="fp32",
        choices=precisions,
        help="of the convolutions; the distribution, the boxes and the NMS stay float32 (default fp32)",
    )
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="pictures to compare with PyTorch on (default: generated ones); int8 also takes its ranges from them",
    )
    add("--samples", type=int, metavar="N", help="how many of them (default 4; 64 of --images for fp16 and int8)")
    add("--max_ap_drop", type=float, metavar="X", help="the most that fp16 or int8 may lose, as a share of 1")
    add("--skip_parity", action="store_true", help="write the file without comparing it with PyTorch")
    add("--gin_file", action="append", default=[], help="settings of a model whose file has none")
    add("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO JSON whose class names and category ids to write; fp16 and int8 count their AP on its boxes",
    )
    return flags


def export_sizes(arguments: argparse.Namespace, write: Callable[[Request, Canvas], Iterator[str]]) -> None:
    """Write each size that the command line asks for, print what `write` says of it, and at the end what to do next."""
    from export.request import read_request  # late, as in `main`
    from export.summary import next_command

    request = read_request(arguments)
    for note in request.notes:
        print(note)
    for size in request.files:
        print(*write(request, size), sep="\n", flush=True)
    print(f"next: {next_command(request)}")


def main(flags: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], argv: Sequence[str] | None) -> int:
    """Run a program as the command line says; 0, 1 when a check fails, 2 on a user's mistake, 130 when interrupted."""
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        # This folder stands before the installed packages: `import onnx` would find export/onnx.py.
        print(f"error: got started from inside export/, expected `{flags.prog}` from elsewhere", file=sys.stderr)
        return 2
    arguments = flags.parse_args(argv)
    if argv is None:  # a program of its own
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # of a batch system; leave nothing half-written
    # The project's imports come late, so that the sentence above comes before `import onnx`, and --help at once.
    from export.check import CheckError

    try:
        run(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CheckError as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; files that were finished stay, the one that was not is gone", file=sys.stderr)
        return 130
    return 0

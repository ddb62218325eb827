"""Export a trained model to a static ONNX file that carries its preprocessing, its NMS and its own description.

    python -m export.onnx --checkpoint runs/r50/.../best.pt --size 800x1216

Without flags it takes the newest runs/*/*/best.pt and its run's canvases, and writes beside it. Every file is compared
with PyTorch before it gets its name; the report lies beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m export.onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--checkpoint", type=Path, help="a .pt of this project, or a .pth with --gin_file (default: the newest run's)")
    add(
        "--output",
        type=Path,
        help="the .onnx, or a folder; for several sizes a folder (default: beside the checkpoint)",
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
    add("--precision", default="fp32", choices=("fp32",), help="of the weights and the arithmetic (default fp32)")
    add("--images", type=Path, metavar="DIR", help="pictures to compare with PyTorch on (default: generated ones)")
    add("--samples", type=int, default=4, metavar="N", help="how many of them (default 4)")
    add("--skip_parity", action="store_true", help="write the file without comparing it with PyTorch")
    add("--gin_file", action="append", default=[], help="settings of a model whose file has none")
    add("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    add("--annotations", type=Path, metavar="FILE", help="COCO JSON whose class names and category ids to write")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says; 0, 1 when a check fails, 2 on a user's mistake."""
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        # This folder stands before the installed packages: `import onnx` would find this very file.
        print(
            "error: got started from inside export/, expected `python -m export.onnx` from elsewhere", file=sys.stderr
        )
        return 2
    arguments = parser().parse_args(argv)
    # The project's imports come late, so that the sentence above comes before `import onnx`, and --help at once.
    from export.check import CheckError
    from gfl.errors import InputError

    try:
        run(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CheckError as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Export each size and say what was written."""
    from export.request import read_request  # late, as in `main`
    from export.summary import next_command, summary
    from export.write import write_export
    from gfl.model import detector

    request = read_request(arguments)
    for note in request.notes:
        print(note)
    variables, cfg = request.model.variables, request.model.run.detector
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    for size in request.files:
        print(*summary(write_export(request, prepared, size)), sep="\n", flush=True)
    print(f"next: {next_command(request)}")


if __name__ == "__main__":
    sys.exit(main())

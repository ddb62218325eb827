"""Detect objects in pictures or in a video with a trained model.

    python infer/run.py --model best.onnx --input pictures/ --output found/
    python -m infer.run --model best.pt --input clip.mp4 --output found/ --draw

The folder --output gets detections.json (COCO results in original pixels, everything that the model gives),
summary.json (what was done, how fast, and what failed) and with --draw the pictures in drawn/. A picture that cannot be
read is named, counted and passed over.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
if not __package__:  # started as a file: this folder is on the path, and the project is not
    sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE)]


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="infer/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--model", type=Path, required=True, help=".onnx, .pt, .pt2 or .om, or a folder of exports at several sizes")
    add(
        "--input",
        required=True,
        help="a picture, a folder, a pattern in quotes ('in/**/*.jpg'), a video or a folder of videos",
    )
    add("--recursive", action="store_true", help="look into the folders below --input too")
    add("--output", type=Path, required=True, help="folder for the results; it must not hold any yet")
    add("--batch", type=int, metavar="N", help="pictures a run of the model (default 1; an exported file has its own)")
    add("--shard", metavar="i/n", help="do part i of n into OUTPUT/shard-i-of-n; to join them: python -m infer.merge")
    add(
        "--provider", default="auto", choices=("auto", "cpu", "cuda", "cann"), help="what runs the model (default auto)"
    )
    add(
        "--provider_options", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="handed to the provider"
    )
    add("--allow_fallback", action="store_true", help="go on when the provider leaves parts of the model to the CPU")
    add(
        "--score",
        type=float,
        help="least score of the detections that are drawn and counted in what is printed (default: of each class, the "
        "best-F1 score of its evaluation); detections.json has all that pass the model's own threshold",
    )
    add("--draw", action="store_true", help="write the pictures with their detections to OUTPUT/drawn")
    add("--threads", type=int, default=0, metavar="N", help="of the model on a CPU (default 0: the runtime's choice)")
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO JSON of these pictures: its image ids go into detections.json, which can then be evaluated "
        "(default: pictures are numbered from 1)",
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Detect as the command line says; 0, 2 on a user's mistake, 130 when interrupted."""
    arguments = parser().parse_args(argv)
    # What OpenCV and FFmpeg say of a damaged file, the sentence that is printed says better.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # The project's imports come late, so that --help answers at once.
    from gfl.errors import InputError
    from gfl.say import say

    try:
        from infer.task import run

        run(arguments)
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt:
        say(f"\nstopped; nothing was written to {arguments.output}", error=True)
        return 130
    return 0


if __name__ == "__main__":
    from gfl.signals import interrupt_on_sigterm

    interrupt_on_sigterm()
    sys.exit(main())

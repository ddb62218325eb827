"""Detect objects in pictures or in a video with a trained model.

    python infer/run.py --model best.onnx --input pictures/ --output found/
    python -m infer.run --model best.pt --input clip.mp4 --output found/ --draw

The folder --output gets detections.json (COCO results in original pixels, everything that the model gives), images.json
(every picture with its size, and the classes), summary.json (what was done, how fast, and what failed) and with --draw
the pictures in drawn/, a video as .mp4. A picture that cannot be read is named, counted and passed over.

With --format jsonl, results.jsonl has a line a picture, after a line that says what they are of; it is written as
results come, and --resume goes on where it ends. The other formats are made of it when the run ends. What a killed run
with --format json left, the next one with the same flags goes on with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
if not __package__:  # started as a file: this folder is on the path, and the project is not
    sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE)]

from infer.model_flags import add_model_flags  # noqa: E402  # not before the path is right


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="infer/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        nargs="+",
        metavar="FILE",
        help=".onnx, .pt, .pth, .safetensors, .pt2, .om, .xml, .mnn, .param, .tflite or .pte, or a folder of exports; "
        "several, of the same classes and sizes, detect together",
    )
    add(
        "--tta",
        nargs="+",
        metavar="VIEW",
        help="test-time augmentation (default: none): flip, scales of a checkpoint, or both: --tta flip 0.8 1.0 1.25",
    )
    add(
        "--merge",
        choices=("nms", "soft_linear", "soft_gaussian", "voting", "fusion"),
        help="how what several models or views find is merged (default nms); fusion is weighted box fusion",
    )
    add(
        "--input",
        required=True,
        nargs="+",
        help="pictures, folders, patterns in quotes ('in/**/*.jpg'), or videos; what several name is taken once",
    )
    add("--recursive", action="store_true", help="look into the folders below --input too")
    add("--output", type=Path, required=True, help="folder for the results; it must not hold any yet")
    add("--shard", metavar="i/n", help="do part i of n into OUTPUT/shard-i-of-n; to join them: python -m infer.merge")
    add("--draw", action="store_true", help="write the pictures with their detections to OUTPUT/drawn")
    add("--track", action="store_true", help="follow objects through a video: track_id in results and drawings")
    add("--edges", action="store_true", help="with --draw: also how sure the detector is of each edge, as whiskers")
    add(
        "--gin_file", action="append", default=[], metavar="FILE", help="settings of a .pth or .safetensors without any"
    )
    add("--gin_bindings", action="extend", nargs="+", default=[], metavar="'NAME = value'", help="change its settings")
    add(
        "--names",
        type=Path,
        metavar="FILE",
        help="classes of a .pth or .safetensors that does not name them: a name a line, or COCO annotations",
    )
    add(
        "--format",
        default="json",
        choices=("json", "jsonl", "parquet"),
        help="json: detections.json and images.json; jsonl: results.jsonl, a line a picture as it is done; parquet: "
        "results-00001.parquet, ... (needs pyarrow) (default json)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where an earlier run with these flags ended, or begin where there is none; a run with it that is "
        "stopped can be gone on with, whatever its --format",
    )
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO JSON of these pictures: its ids of images and, by their names, of classes go into the results, "
        "which can then be evaluated (default: pictures are numbered from 1, classes have the model's ids)",
    )
    add(
        "--class_map",
        action="extend",
        nargs="+",
        default=[],
        metavar="'CLASS=CLASS'",
        help="'class of the model=class of --annotations' where names differ; 'class of the model=' leaves it out",
    )
    add_model_flags(flags)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Detect as the command line says; 0, 2 on a user's mistake, 128 and its number when a signal stops it."""
    arguments = parser().parse_args(argv)
    # The project's imports come late, so that --help answers at once.
    from gfl.errors import InputError
    from gfl.say import say
    from gfl.signals import exit_code
    from infer.opencv_settings import settle_opencv

    settle_opencv(arguments.most_pixels)
    try:
        from infer.task import run

        run(arguments)
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt as stopped:
        from infer.task import folder_of

        kept = (folder_of(arguments) / "results.jsonl").exists()
        say("\nstopped" if kept else f"\nstopped; nothing was written to {arguments.output}", error=True)
        return exit_code(stopped)
    return 0


if __name__ == "__main__":
    from gfl.signals import interrupt_on_sigterm

    interrupt_on_sigterm()
    sys.exit(main())

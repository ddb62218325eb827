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
        help=".onnx, .pt, .pth, .safetensors, .pt2, .om, .xml, .mnn or .tflite, or a folder of exports; several, of "
        "the same classes and sizes, detect together",
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
        "--slice",
        type=int,
        metavar="PX",
        help="look at a picture in overlapping windows of this side, and at the whole of it (default: at the whole)",
    )
    add("--overlap", type=float, metavar="SHARE", help="with --slice: of neighbouring windows (default 0.2)")
    add(
        "--input",
        required=True,
        nargs="+",
        help="pictures, folders, patterns in quotes ('in/**/*.jpg'), or videos; what several name is taken once",
    )
    add("--recursive", action="store_true", help="look into the folders below --input too")
    add(
        "--depth",
        default="auto",
        help="how pictures of more than 8 bits a channel, or of floats, are made 8 bits: auto (by the bits that the "
        "picture uses; default), full (the range of its type), range (its own range) or a number of bits, e.g. 12",
    )
    add("--most_pixels", type=int, metavar="N", help="refuse pictures of more pixels (default 180,000,000)")
    add("--output", type=Path, required=True, help="folder for the results; it must not hold any yet")
    add("--batch", type=int, metavar="N", help="pictures a run of the model (default 1; an exported file has its own)")
    add("--shard", metavar="i/n", help="do part i of n into OUTPUT/shard-i-of-n; to join them: python -m infer.merge")
    add(
        "--provider",
        default="auto",
        choices=("auto", "cpu", "cuda", "cann", "openvino"),
        help="what runs the model (default auto); openvino takes an .onnx and --provider_options precision=f32|bf16",
    )
    add(
        "--provider_options", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="handed to the provider"
    )
    add("--allow_fallback", action="store_true", help="go on when the provider leaves parts of the model to the CPU")
    add(
        "--score",
        type=float,
        help="least score of the detections that are drawn and counted in what is printed (default: of each class, the "
        "score of highest F1 in its evaluation); detections.json has all that pass the model's own threshold",
    )
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
    add("--threads", type=int, default=0, metavar="N", help="of the model on a CPU (default 0: the runtime's choice)")
    add(
        "--format",
        default="json",
        choices=("json", "jsonl", "parquet"),
        help="json: detections.json and images.json; jsonl: results.jsonl, a line a picture as it is done; parquet: "
        "results-00001.parquet, ... (needs pyarrow) (default json)",
    )
    add("--min_score", type=float, default=0.0, metavar="S", help="write no detection of a lower score (default 0)")
    add("--top", type=int, metavar="N", help="write at most the best N detections of a picture (default: all)")
    add(
        "--class_agnostic",
        action="store_true",
        help="of two detections of any classes that overlap by more than NMS allows, write the better alone",
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

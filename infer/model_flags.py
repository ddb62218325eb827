"""The flags that programs which run a model over pictures share: how it runs, and which detections are written."""

from __future__ import annotations

import argparse

DETECTOR_FLAGS = (  # what decides about the rows of a picture, and what runs the model: keyword arguments elsewhere
    "slice",
    "overlap",
    "batch",
    "threads",
    "provider",
    "provider_options",
    "allow_fallback",
    "min_score",
    "top",
    "class_agnostic",
    "depth",
    "most_pixels",
)


def add_model_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags to a parser."""
    add = flags.add_argument
    add(
        "--depth",
        default="auto",
        help="how pictures of more than 8 bits a channel, or of floats, are made 8 bits: auto (by the bits that the "
        "picture uses; default), full (the range of its type), range (its own range) or a number of bits, e.g. 12",
    )
    add("--most_pixels", type=int, metavar="N", help="refuse pictures of more pixels (default 180,000,000)")
    add(
        "--slice",
        type=int,
        metavar="PX",
        help="look at a picture in overlapping windows of this side, and at the whole of it (default: at the whole)",
    )
    add("--overlap", type=float, metavar="SHARE", help="with --slice: of neighbouring windows (default 0.2)")
    add("--batch", type=int, metavar="N", help="pictures a run of the model (default 1; an exported file has its own)")
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
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="of the model on a CPU; 0: the runtime's choice (default %(default)s)",
    )
    add(
        "--score",
        type=float,
        help="least score of the detections that are drawn and counted in what is printed (default: of each class, the "
        "score of highest F1 in its evaluation); the results have all that pass the model's own threshold",
    )
    add("--min_score", type=float, default=0.0, metavar="S", help="write no detection of a lower score (default 0)")
    add("--top", type=int, metavar="N", help="write at most the best N detections of a picture (default: all)")
    add(
        "--class_agnostic",
        action="store_true",
        help="of two detections of any classes that overlap by more than NMS allows, write the better alone",
    )


def check_model_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError for values that no run takes."""
    from gfl.errors import InputError  # late, so that --help answers at once
    from gfl.runtime.open import MOST_THREADS

    for flag, default in (("score", "each class's own threshold"), ("min_score", "all detections of the model")):
        value = getattr(arguments, flag)
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"got --{flag} {value:g}, expected 0 to 1; omit it for {default}")
    if arguments.top is not None and arguments.top < 1:
        raise InputError(f"got --top {arguments.top}, expected at least 1 detection a picture; omit it for all")
    if not 0 <= arguments.threads <= MOST_THREADS:
        raise InputError(
            f"got --threads {arguments.threads}, expected 0 to {MOST_THREADS}; omit it for the default (0: the "
            "runtime's choice)"
        )

"""The command line of bulk jobs; importing it costs nothing, so that --help answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from infer.model_flags import add_model_flags, check_model_flags

ABOUT = """Detect objects in millions of pictures with a trained model, on Ray Data: on this machine or on a cluster.

    python -m infer.bulk --model best.onnx --pictures pictures/ --out found/
    RAY_ADDRESS=auto python -m infer.bulk --model best.onnx --pictures 's3://bucket/shards/*.tar' --out s3://bucket/found

The folder --out gets parts/, Parquet tables with a row a picture, as the job goes, and summary.json at its end, when
every picture was found to be answered once. The same command again goes on with a job that was stopped or killed. A
picture that cannot be read is a row with the reason. For a few thousand pictures, infer/run.py is quicker.
"""


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m infer.bulk", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add(
        "--model",
        type=Path,
        required=True,
        metavar="FILE",
        help=".onnx, .pt, .pt2 or .om, or a folder of exports at several sizes; on a cluster, in the same place on "
        "every machine",
    )
    add(
        "--pictures",
        required=True,
        nargs="+",
        metavar="SOURCE",
        help="folders with all below them, files, and patterns in quotes, as paths or as URIs (s3://, gs://, hdfs://, "
        "and what fsspec opens): picture files, .tar shards (WebDataset), .parquet tables of paths, URIs or contents",
    )
    add("--out", required=True, metavar="FOLDER", help="folder for the results, as a path or as a URI")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with a model of its own (default: one a core, but for one that is left to reading and "
        "writing; with --provider cuda or cann, one a device)",
    )
    add(
        "--max_failures",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="end the job, with exit status 1, when more than this share of all pictures has failed (default 1: never)",
    )
    add_model_flags(flags)
    flags.set_defaults(threads=1)
    return flags


def check_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError for values that no job takes."""
    from gfl.errors import InputError  # late, so that --help answers at once
    from gfl.runtime.slices import read_slicing

    check_model_flags(arguments)
    read_slicing(arguments.slice, arguments.overlap)
    if arguments.workers is not None and arguments.workers < 1:
        raise InputError(f"got --workers {arguments.workers}, expected at least 1; omit it for one a core or device")
    if not 0 <= arguments.max_failures <= 1:
        raise InputError(f"got --max_failures {arguments.max_failures:g}, expected 0 to 1; omit it for no limit")

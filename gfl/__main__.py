"""All programs of the project as one command: `gfl infer ...` is `python -m infer.run ...`, and so on.

    gfl train --gin_file r50.gin
    gfl export onnx --checkpoint runs/r50/.../best.pt
    gfl infer --model best.onnx --input pictures/ --output found/

A file export.py or infer.py in the working directory is in the way of `python -m export.onnx`, and is not of this.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.say import say
from gfl.signals import exit_code, interrupt_on_sigterm
from gfl.version import VERSION

OWN = ("gfl", "export", "infer")  # packages of the project


class Program(NamedTuple):
    """A program, imported when it is called: --help needs none of them, and infer no PyTorch."""

    module: str  # with a function main(argv) -> exit code
    about: str
    stops_itself: bool = False  # whether it takes SIGTERM and SIGHUP its own way
    alone: bool = False  # whether it runs in gflv2-infer, which has no PyTorch


PROGRAMS = {
    "train": Program("gfl.train", "train a model, or go on with a run", stops_itself=True),
    "evaluate": Program("gfl.evaluate", "count a model's AP on a data set"),
    "data": Program("gfl.data.__main__", "check, split, convert and shard data sets"),
    "report": Program("gfl.report.__main__", "a page about a run, an evaluation or any COCO results"),
    "describe": Program("gfl.describe", "layers, parameters, operations and memory of a run file's model"),
    "average": Program("gfl.average", "the mean of the weights of several checkpoints"),
    "card": Program("gfl.card.__main__", "a model card of a checkpoint: data, settings, results, limits, digests"),
    "export onnx": Program("export.onnx", "a checkpoint into static .onnx files"),
    "export torch": Program("export.torch", "a checkpoint into .pt2 programs"),
    "export om": Program("export.om", "an .onnx into an .om for an Ascend NPU"),
    "export to": Program("export.to", "an export for another runtime: OpenVINO, MNN, LiteRT, ..."),
    "export web": Program("export.web", "a page that detects in the browser, for static hosts", alone=True),
    "infer": Program("infer.run", "find objects in pictures and videos", alone=True),
    "serve": Program("infer.serve.__main__", "a trained model over HTTP: a page, an API, metrics", alone=True),
    "bulk": Program("infer.bulk.__main__", "millions of pictures through a model, on Ray", alone=True),
    "merge": Program("infer.merge", "join the results of infer's shards", alone=True),
    "doctor": Program("gfl.doctor.__main__", "what a bug report needs", alone=True),
    "npu_check": Program("gfl.npu_check.__main__", "everything to run once on a machine with an NPU"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that the command line names; its exit code, 2 for a name that is none."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        say(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        say(f"gfl {VERSION}")
        return 0
    name, rest = split_name(arguments)
    if name not in PROGRAMS:
        say(f"error: {unknown(arguments)}", error=True)
        return 2
    program = PROGRAMS[name]
    if argv is None:
        leave_out_the_working_directory()
        if not program.stops_itself:
            interrupt_on_sigterm()
    try:
        run: Callable[[Sequence[str]], int] = importlib.import_module(program.module).main
        return run(rest)
    except KeyboardInterrupt as stopped:  # while the program was imported; afterwards it says more itself
        say("\nstopped", error=True)
        return exit_code(stopped)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in OWN:  # a bug
            raise
        say(
            f"error: gfl {name} needs the package {missing}, which is not installed; install the whole project "
            "(gflv2): gflv2-infer has only what an .onnx needs",
            error=True,
        )
        return 2


def usage() -> str:
    """The programs, a line each."""
    is_whole = importlib.util.find_spec("torch") is not None
    lines = [
        f"  gfl {name:<14} {program.about}{'' if is_whole or program.alone else ' (needs the whole project, gflv2)'}"
        for name, program in PROGRAMS.items()
    ]
    return "\n".join(["usage: gfl PROGRAM [flags]; gfl PROGRAM --help has its flags; gfl --version", "", *lines])


def split_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The program's name, of one word or two, and its own arguments."""
    words = 2 if any(name.startswith(f"{arguments[0]} ") for name in PROGRAMS) else 1
    return " ".join(arguments[:words]), list(arguments[words:])


def unknown(arguments: Sequence[str]) -> str:
    """What is wrong with a command that names no program."""
    name, _ = split_name(arguments)
    group = [each for each in PROGRAMS if each.startswith(f"{arguments[0]} ")]
    if group and (not arguments[1:] or arguments[1].startswith("-")):
        return f"got the program {name}, expected one of {', '.join(group)}; name one"
    near = difflib.get_close_matches(name, PROGRAMS, n=1) or difflib.get_close_matches(arguments[0], PROGRAMS, n=1)
    expected = f"did you mean `gfl {near[0]}`?" if near else f"expected one of {', '.join(PROGRAMS)}"
    return f"got the program {name}; {expected}"


def leave_out_the_working_directory() -> None:
    """Take the folder that `python -m` puts first off the path, where it does not hold the project itself."""
    first, home = sys.path[0], Path(__file__).resolve().parent.parent
    if first in ("", os.getcwd()) and Path(first or ".").resolve() != home:
        del sys.path[0]


if __name__ == "__main__":
    sys.exit(main())

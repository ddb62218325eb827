"""Write a folder that detects in the browser, for any static host: no server computes, and no picture leaves the tab.

    python -m export.web --model runs/r50/.../best_onnx/ --output page/
    python -m http.server --directory page/

The folder holds the page, the .onnx of each canvas and ONNX Runtime's files for browsers, which come from --runtime or
are fetched by npm. A folder that this program wrote is written again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:  # `python export/web.py`
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # so that the sentence about it can be said

from export import command, web_runtime
from gfl.errors import InputError
from gfl.files import make_folder, new_folder, to_json, write_atomic, write_errors
from gfl.runtime import onnx_header
from gfl.runtime.description import PAD_RULE, RESIZE_RULE, Description
from gfl.runtime.open import files_of, kind_of, open_model
from gfl.say import say
from gfl.shapes import Canvas
from gfl.version import VERSION

PAGE = Path(__file__).resolve().parent.parent / "infer" / "page"  # shared with `python -m infer.serve`
ADDRESS, OWN_ADDRESS = 'data-model="model"', 'data-model="model.json"'  # where the page reads what the model is
PROGRAM = "gfl export.web"  # by which model.json tells a folder of ours
# For hosts that read it. With the first two, browsers give the page threads.
HEADERS = """/*
  Cross-Origin-Opener-Policy: same-origin
  Cross-Origin-Embedder-Policy: require-corp
  Cross-Origin-Resource-Policy: same-origin
  X-Content-Type-Options: nosniff
  Referrer-Policy: no-referrer
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder as the command line says; 0, 1 when an export fails its check, 2 on a user's mistake.

    128 and its number when a signal stops it.
    """
    flags = argparse.ArgumentParser(
        prog="python -m export.web", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--model", type=Path, required=True, metavar="FILE", help=".onnx, a folder of them, or a .pt to export first")
    add("--output", type=Path, required=True, metavar="FOLDER", help="new, empty, or written by this program before")
    add("--runtime", type=Path, metavar="DIR", help=f"npm's {web_runtime.NAME}, unpacked (default: npm fetches it)")
    add("--size", action="extend", nargs="+", default=[], metavar="HxW", help="of a .pt (default: its run's canvases)")
    try:
        return run(command.read_arguments(flags, argv))
    except command.FAILURES as failure:
        return command.report_failure(failure)


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then write; the exit code."""
    output, model = arguments.output, arguments.model
    again = is_ours(output)
    with ExitStack() as stack:
        package = stack.enter_context(web_runtime.runtime_package(arguments.runtime))
        runtime = web_runtime.read_version(package)
        if model.suffix == ".pt":
            from export import onnx as exporter  # late: it imports PyTorch

            exported = stack.enter_context(TemporaryDirectory(prefix="gfl_web_"))
            sizes = ["--size", *arguments.size] if arguments.size else []
            if failed := exporter.main(["--checkpoint", str(model), "--output", exported, *sizes]):
                return failed
            files, description = read_exports(Path(exported))
        elif arguments.size:
            raise InputError(f"got --size for {model}, which has its sizes; omit it, or give a .pt")
        else:
            files, description = read_exports(model)
        folder = output if again else stack.enter_context(new_folder(output))
        write_page(folder, package, files, describe(model.stem, description, files, runtime))
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    canvases = ", ".join(f"{height}x{width}" for height, width in files)
    say(f"{output}: {total / 1e6:.1f} MB for a static host, canvases {canvases}, {web_runtime.NAME} {runtime}")
    say("threads: where the host sends COOP and COEP, as _headers says to hosts that read such a file; elsewhere one")
    say(f"next: python -m http.server --directory {output}")
    return 0


def is_ours(folder: Path) -> bool:
    """Whether this program wrote the folder; InputError where something else is there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        ours = json.loads((folder / "model.json").read_text(encoding="utf-8"))["program"] == PROGRAM
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise InputError(
            f"{folder} is there and was not written by this program, expected a new or empty folder, or one of its "
            "own; give another --output"
        )
    return True


def read_exports(path: Path) -> tuple[dict[Canvas, Path], Description]:
    """The file of each canvas, by area, and what they have in common; InputError where a browser cannot take them."""
    kind = kind_of(path)
    if kind != ".onnx":
        raise InputError(
            f"got the model {path} ({kind}), expected an .onnx, a folder of them or a .pt; "
            "write one with `python -m export.onnx`"
        )
    model = open_model(path)  # it opens each file, and checks that they are of one model and give detections
    if model.batch != 1:
        raise InputError(
            f"{path} takes {model.batch} pictures at a time, expected 1, since the page asks for one at a time; export "
            "it again with --batch 1"
        )
    by_size = {size_of(file): file for file in files_of(path, kind)}
    return {canvas: by_size[canvas] for canvas in model.canvases or ()}, model.description


def size_of(file: Path) -> Canvas:
    """The canvas of an export."""
    return Description.from_metadata(onnx_header.read_metadata(file), file).size


def describe(name: str, about: Description, files: dict[Canvas, Path], runtime: str) -> dict[str, object]:
    """What model.json holds: what a server says at /model, and which file has which canvas."""
    return {
        "program": PROGRAM,
        "name": name,
        "version": VERSION,
        "digest": about.digest,
        "precision": about.precision,
        "names": about.names,
        "category_ids": about.category_ids,
        "score_thresholds": about.score_thresholds,
        "canvases": list(files),
        "files": [file_name(canvas) for canvas in files],
        "batch": about.batch,
        "short_side": about.short_side,
        "long_side": about.long_side,
        "resize": RESIZE_RULE,
        "pad": PAD_RULE,
        "thresholds": vars(about.thresholds),
        "runtime": f"{web_runtime.NAME} {runtime}",
    }


def file_name(canvas: Canvas) -> str:
    """Of the .onnx of a canvas, in the folder."""
    return f"{canvas[0]}x{canvas[1]}.onnx"


def write_page(folder: Path, package: Path, files: dict[Canvas, Path], model: dict[str, object]) -> None:
    """Write everything; what a former model left goes."""
    make_folder(folder / "runtime")
    with write_errors(folder):
        web_runtime.copy_runtime(package, folder / "runtime")
        for canvas, file in files.items():
            shutil.copyfile(file, folder / file_name(canvas))
        for old in set(folder.glob("*x*.onnx")) - {folder / file_name(canvas) for canvas in files}:
            old.unlink()
        for file in sorted(PAGE.glob("*.*")):
            if file.name != "index.html":
                shutil.copyfile(file, folder / file.name)
    write_atomic(folder / "_headers", HEADERS)
    write_atomic(folder / "model.json", to_json(model, indent=1))
    index = (PAGE / "index.html").read_text(encoding="utf-8")
    write_atomic(folder / "index.html", index.replace(ADDRESS, OWN_ADDRESS))


if __name__ == "__main__":
    sys.exit(main())

"""Compile an exported .onnx for one kind of Ascend NPU, with CANN's own compiler, ATC.

    python -m export.om --model best.onnx --soc_version Ascend310P3

The .om runs only on the SoC that it was compiled for (`npu-smi info` names it). Its description is written beside it,
so that infer/run.py knows how to prepare pictures. Where ATC is not installed, the command for it is printed.
Never run on hardware by us: the command follows ATC's manual (CANN 8.0) and is tested with a stand-in for ATC.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:  # `python export/om.py`
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # so that the sentence about it can be said

from export import command
from export.atc import PRECISION_MODE, PRECISION_MODES, Source, atc_command, read_source
from export.errors import CheckError
from gfl.errors import InputError
from gfl.files import make_folder, write_atomic, write_errors
from gfl.runtime.description_file import description_path, description_text
from gfl.say import say


def main(argv: Sequence[str] | None = None) -> int:
    """Compile as the command line says; 0, 1 when ATC fails, 2 on a user's mistake.

    128 and its number when a signal stops it.
    """
    flags = argparse.ArgumentParser(
        prog="python -m export.om", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--model", type=Path, required=True, metavar="FILE.onnx", help="an export of this project")
    add("--soc_version", required=True, metavar="NAME", help="the NPU, such as Ascend310P3 or Ascend910B4")
    modes = f"from the most exact to the fastest, by ATC's manual (default {PRECISION_MODE})"
    add("--precision_mode", default=PRECISION_MODE, choices=PRECISION_MODES, help=modes)
    add("--output", type=Path, metavar="FILE.om", help="default: beside the .onnx, under its name")
    add("--print_only", action="store_true", help="print the command of ATC, write and run nothing")
    try:
        run(command.read_arguments(flags, argv))
    except command.FAILURES as failure:
        return command.report_failure(failure)
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Print the command, run it where it can be, write the description."""
    model, output = arguments.model, arguments.output or arguments.model.with_suffix(".om")
    if output.suffix != ".om":
        raise InputError(f"got --output {output}, expected a file that ends in .om; rename it")
    source = read_source(model)
    target = {"soc_version": arguments.soc_version, "precision_mode": arguments.precision_mode}
    say(shlex.join(atc_command(model, source.inputs, output, **target)))
    if arguments.print_only:
        return
    if shutil.which("atc") is None:
        raise InputError(
            "got no `atc` on the PATH, expected that of the CANN toolkit; source its set_env.sh, or give the same "
            "command where it is installed"
        )
    compile_om(model, source, output, target)
    say(f"{output}: {output.stat().st_size / 1e6:.1f} MB for {arguments.soc_version}, never run on hardware by us")
    infer = ["python", "infer/run.py", "--model", str(output), "--input", "PICTURES", "--output", "found"]
    say(f"next, on the machine with the NPU: {shlex.join(infer)}")


def compile_om(model: Path, source: Source, output: Path, target: Mapping[str, str]) -> None:
    """Run ATC and put the .om and its description into place, both or none; CheckError where ATC fails.

    target: the NPU and the precision mode, as keywords of `atc_command`.
    """
    make_folder(output.absolute().parent)
    with write_errors(output), tempfile.TemporaryDirectory(prefix=".atc_", dir=output.absolute().parent) as name:
        folder = Path(name)  # ATC also leaves its kernels and reports in the working directory
        done = subprocess.run(
            atc_command(model.absolute(), source.inputs, folder / output.name, **target), cwd=folder, check=False
        )
        # It adds the host's system and machine to the name where parts of the model run on the host.
        compiled = [path for path in sorted(folder.glob(f"{output.stem}*.om")) if path.stat().st_size]
        if done.returncode or len(compiled) != 1:
            reason = f"it ended with {done.returncode} and wrote {len(compiled)} .om; its own words are above"
            raise CheckError(f"atc did not compile {model}", [reason])
        write_atomic(description_path(output), description_text(source.description, source.output_names))
        os.replace(compiled[0], output)


if __name__ == "__main__":
    sys.exit(main())

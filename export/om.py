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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:  # `python export/om.py`
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # so that the sentence about it can be said

from export import command

SOC_VERSION = "Ascend310P3"  # stands in a printed command where none was named
PRECISION_MODES = ("force_fp32", "must_keep_origin_dtype", "allow_fp32_to_fp16", "allow_mix_precision", "force_fp16")
# Convolutions in fp16, all else in the file's own type. ATC's own default, force_fp16, has no room for a box's area in
# pixels (65,504 is its largest number), and its mixed precision decides by lists of operators that we do not know.
PRECISION_MODE = "allow_fp32_to_fp16"


class Source(NamedTuple):
    """What an .onnx says of itself."""

    metadata: dict[str, str]
    inputs: dict[str, tuple[int, ...]]  # name -> shape
    output_names: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Compile as the command line says; 0, 1 when ATC fails, 2 on a user's mistake, 130 when interrupted."""
    flags = argparse.ArgumentParser(
        prog="python -m export.om", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--model", type=Path, required=True, metavar="FILE.onnx", help="an export of this project")
    add("--soc_version", required=True, metavar="NAME", help="the NPU, such as Ascend310P3 or Ascend910B4")
    add(
        "--precision_mode",
        default=PRECISION_MODE,
        choices=PRECISION_MODES,
        help=f"from the most exact to the fastest, by ATC's manual (default {PRECISION_MODE})",
    )
    add("--output", type=Path, metavar="FILE.om", help="default: beside the .onnx, under its name")
    add("--print_only", action="store_true", help="print the command of ATC, write and run nothing")
    return command.main(flags, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Print the command, run it where it can be, write the description."""
    from gfl.errors import InputError  # late, as in `command.main`

    model, output = arguments.model, arguments.output or arguments.model.with_suffix(".om")
    if output.suffix != ".om":
        raise InputError(f"got --output {output}, expected a file that ends in .om; rename it")
    atc = atc_command(model, arguments.soc_version, arguments.precision_mode, output)
    print(shlex.join(atc), flush=True)
    if arguments.print_only:
        return
    if shutil.which("atc") is None:
        raise InputError(
            "got no `atc` on the PATH, expected that of the CANN toolkit; source its set_env.sh, or give the same "
            "command where it is installed"
        )
    compile_om(model, output, arguments.soc_version, arguments.precision_mode)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB for {arguments.soc_version}, never run on hardware by us")
    infer = ["python", "infer/run.py", "--model", str(output), "--input", "PICTURES", "--output", "found"]
    print(f"next, on the machine with the NPU: {shlex.join(infer)}")


def atc_command(
    model: Path, soc_version: str = SOC_VERSION, precision_mode: str = PRECISION_MODE, output: Path | None = None
) -> list[str]:
    """The command that compiles an .onnx; by default it writes beside the file.

    Raises InputError for a file that is missing, not of this project, not static, or int8.
    """
    shapes = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in read_source(model).inputs.items())
    return [
        "atc",
        "--framework=5",  # ONNX
        f"--model={model}",
        f"--output={(output or model).with_suffix('')}",  # ATC adds .om
        "--input_format=ND",  # one value for all inputs, and the second is no picture
        f"--input_shape={shapes}",
        f"--soc_version={soc_version}",
        f"--precision_mode={precision_mode}",
    ]


def read_source(path: Path) -> Source:
    """Read what a file says of itself. Raises as `atc_command`."""
    import onnx  # late: this module is imported for --help, too

    from gfl.engine.description import Description
    from gfl.errors import InputError

    if not path.is_file():
        raise InputError(f"{path}: no such file, expected an .onnx; make one with `python -m export.onnx`")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's own type, which is not public
        raise InputError(f"{path} cannot be read as ONNX ({error}); export or copy it again") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if Description.from_metadata(metadata, path).precision == "int8":
        raise InputError(
            f"{path} is int8, which is for ONNX Runtime on the CPU and CUDA: CANN's operator list has no "
            "QuantizeLinear and DequantizeLinear; export it with --precision fp32 or fp16"
        )
    inputs = {}
    for value in model.graph.input:
        shape = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        if not all(shape):
            raise InputError(
                f"{path} has an input {value.name} of no fixed shape, expected static ones; export it again"
            )
        inputs[value.name] = shape
    return Source(metadata, inputs, tuple(value.name for value in model.graph.output))


def compile_om(model: Path, output: Path, soc_version: str, precision_mode: str) -> None:
    """Run ATC and put the .om and its description into place, both or none. Raises CheckError where ATC fails."""
    from export.check import CheckError
    from gfl.engine.description import Description
    from gfl.engine.files import make_folder, write_atomic, write_errors
    from gfl.engine.om_model import description_path, description_text

    make_folder(output.absolute().parent)
    with write_errors(output), tempfile.TemporaryDirectory(prefix=".atc_", dir=output.absolute().parent) as name:
        folder = Path(name)  # ATC also leaves its kernels and reports in the working directory
        unfinished = folder / output.name
        done = subprocess.run(atc_command(model.absolute(), soc_version, precision_mode, unfinished), cwd=folder)
        # It adds the host's system and machine to the name where parts of the model run on the host.
        found = [path for path in sorted(folder.glob(f"{output.stem}*.om")) if path.stat().st_size]
        if done.returncode or len(found) != 1:
            reason = f"it ended with {done.returncode} and wrote {len(found)} .om; its own words are above"
            raise CheckError(f"atc did not compile {model}", [reason])
        source = read_source(model)
        write_atomic(
            description_path(output),
            description_text(Description.from_metadata(source.metadata, model), source.output_names),
        )
        os.replace(found[0], output)


if __name__ == "__main__":
    sys.exit(main())

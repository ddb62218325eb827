"""The command line of ATC, CANN's offline compiler, for an exported .onnx."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gfl.errors import InputError
from gfl.runtime.description import Description
from gfl.runtime.onnx_file import describe_onnx

if TYPE_CHECKING:
    import onnx

SOC_VERSION = "Ascend310P3"  # stands in a printed command where none was named
PRECISION_MODES = ("force_fp32", "must_keep_origin_dtype", "allow_fp32_to_fp16", "allow_mix_precision", "force_fp16")

# Convolutions in fp16, all else in the file's own type. ATC's own default, force_fp16, has no room for a box's area in
# pixels (65,504 is its largest number), and its mixed precision decides by lists of operators that we do not know.
PRECISION_MODE = "allow_fp32_to_fp16"

Shapes = dict[str, tuple[int, ...]]  # of a model's inputs, by name


class Source(NamedTuple):
    """What the compiler and the .om's description need to know of an .onnx."""

    description: Description
    inputs: Shapes
    output_names: tuple[str, ...]


def read_source(path: Path) -> Source:
    """Open an .onnx that is to be compiled.

    Raises InputError for a file that is missing, not of this project, in need of other files, not static, or int8.
    """
    import onnx  # late: this module is imported for --help, too

    description = describe_onnx(path)  # which refuses weights in other files
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own type, which is not public
        raise InputError(f"{path} cannot be read as ONNX ({error}); export or copy it again") from error
    if description.precision == "int8":
        raise InputError(
            f"{path} is int8, which is for ONNX Runtime on the CPU and CUDA: CANN's operator list has no "
            "QuantizeLinear and DequantizeLinear; export it with --precision fp32 or fp16"
        )
    inputs = input_shapes(model)
    for name, shape in inputs.items():
        if not all(shape):
            raise InputError(f"{path} has an input {name} of no fixed shape, expected static ones; export it again")
    return Source(description, inputs, tuple(value.name for value in model.graph.output))


def input_shapes(model: onnx.ModelProto) -> Shapes:
    """The shape of each input of a model; 0 stands for a size that is not fixed."""
    return {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim) for value in model.graph.input
    }


def atc_command(
    model: Path,
    inputs: Shapes,
    output: Path | None = None,
    *,
    soc_version: str = SOC_VERSION,
    precision_mode: str = PRECISION_MODE,
) -> list[str]:
    """The command that compiles an .onnx with these inputs to `output`, by default beside the .onnx."""
    return [
        "atc",
        "--framework=5",  # ONNX
        f"--model={model}",
        f"--output={(output or model).with_suffix('')}",  # ATC adds .om
        "--input_format=ND",  # one value for all inputs, and the second is no picture
        f"--input_shape={';'.join(f'{name}:' + ','.join(map(str, shape)) for name, shape in inputs.items())}",
        f"--soc_version={soc_version}",
        f"--precision_mode={precision_mode}",
    ]

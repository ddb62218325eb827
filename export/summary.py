"""What an export prints at its end: the file, its inputs and outputs, how it compares with PyTorch, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import onnx

from export.atc import atc_command
from export.check import DTYPES
from export.parity import Parity
from export.precision import REMARKS
from export.request import Request
from export.write_onnx import Written
from gfl.data.paths import SYNTHETIC, split_paths
from gfl.errors import InputError
from gfl.settings import DataConfig


def summary(written: Written, precision: str) -> Iterator[str]:
    """The lines about one file."""
    model = written.model
    yield (
        f"{written.path}: {written.path.stat().st_size / 1e6:.1f} MB, opset {model.opset_import[0].version}, "
        f"IR {model.ir_version}, {len(model.graph.node)} nodes, {written.seconds:.0f} s"
    )
    for direction, values in (("in ", model.graph.input), ("out", model.graph.output)):
        for value in values:
            yield f"  {direction} {value.name:<14} {spell_type(value)}"
    if written.parity is None:
        yield "  not compared with PyTorch (--skip_parity)"
    else:
        yield f"  {written.parity.accuracy or agreement(written.parity)}"
        yield f"  report: {written.report}"
    for remark in REMARKS[precision]:
        yield f"  {precision}: {remark}"
    if precision != "int8":
        yield f"  for an NPU (never run on one by us): {shlex.join(atc_command(written.path))}"


def spell_type(value: onnx.ValueInfoProto) -> str:
    """'float32 1x100x4'."""
    kind = value.type.tensor_type
    return f"{DTYPES[kind.elem_type]:<8} {'x'.join(str(size.dim_value) for size in kind.shape.dim)}"


def agreement(found: Parity) -> str:
    """One line on the comparison with PyTorch."""
    largest = ", ".join(f"{name} {difference:.1e}" for name, difference in found.largest.items())
    parts = [f"agrees with PyTorch on {len(found.pictures)} pictures"]
    if found.matched:
        parts.append(f"{found.matched} detections matched")
    untried = "none: nothing was detected, so boxes and NMS are untried; give --images with objects in them"
    parts.append(f"largest difference: {largest or untried}")
    if found.intermediates:
        inside = max(found.intermediates.values())
        parts.append(f"{len(found.intermediates)} tensors inside within {inside:.1e} of their largest value")
    if found.excused:
        parts.append(f"{len(found.excused)} detections too near a limit to tell")
    return "; ".join(parts)


def next_command(request: Request) -> str:
    """The command that counts the AP of what was written."""
    files = list(request.files.values())
    exported = files[0] if len(files) == 1 else files[0].parent
    annotations, images = validation_paths(request.model.run.data)
    flag = "--onnx" if files[0].suffix == ".onnx" else "--checkpoint"
    return shlex.join(
        ["python", "-m", "gfl.evaluate", flag, str(exported), "--annotations", annotations, "--images", images]
    )


def validation_paths(data: DataConfig) -> tuple[str, str]:
    """Annotations and pictures that the model was validated on where they are here, else words in their place."""
    try:
        if data.root != "synthetic" or SYNTHETIC.is_dir():  # which would be drawn otherwise
            paths = split_paths(data, "val")
            if paths.annotations.is_file():
                return str(paths.annotations), str(paths.images)
    except InputError:
        pass
    return "ANNOTATIONS.json", "PICTURES"

"""ncnn's format, for phones and boards: a .param with the graph and a .bin with the weights, by pnnx.

ncnn has neither the TopK of the quality predictor nor the operators of NMS. So the file ends at the head's outputs, of
a graph that is changed for it alone; `gfl.runtime` goes on from there in NumPy.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from export.errors import CheckError
from export.formats.float_graph import float_inputs
from export.formats.interface import Conversion, Format
from gfl.packages import import_package
from gfl.runtime.model import StaticFile
from gfl.runtime.ncnn_file import SUFFIX, WEIGHTS, open_ncnn

STEEP = 1e30  # turns what a value is below the largest into 0 or 1


def convert(job: Conversion) -> None:
    """Write the graph in float32, its inputs too. Raises CheckError where pnnx fails."""
    if job.description.batch != 1:
        raise CheckError(f"ncnn takes one picture at a time, {job.source} {job.description.batch}", ["use --batch 1"])
    pnnx = import_package("pnnx", "the format ncnn needs the package pnnx, which", "pip install 'gflv2[ncnn]'")
    height, width = job.description.size
    with TemporaryDirectory(prefix="gfl_ncnn_") as name:
        onnx.save(changed(onnx.load(job.source)), Path(name, "model.onnx"))
        words = [pnnx.EXEC_PATH, "model.onnx", f"inputshape=[1,3,{height},{width}],[1,2]", "fp16=0"]
        done = subprocess.run(words, cwd=name, capture_output=True, text=True, check=False)
        written = Path(name, "model.ncnn.param"), Path(name, "model.ncnn.bin")
        if done.returncode or not all(path.is_file() for path in written):
            raise CheckError(f"pnnx did not convert {job.source}", done.stderr.splitlines()[-1:])
        shutil.copyfile(written[0], job.target)
        shutil.copyfile(written[1], job.target.with_suffix(WEIGHTS))


def changed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with inputs in float32, and the largest of the bins found one after the other."""
    float_inputs(model)
    graph = model.graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += largest(node, int(constants[node.input[1]][0])) if node.op_type == "TopK" else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    for name, number in (("gfl_zero", 0.0), ("gfl_one", 1.0), ("gfl_steep", STEEP)):
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
    return model


def largest(node: NodeProto, count: int) -> Iterator[NodeProto]:
    """The values of a TopK over the last axis without it: the largest, which is then cleared, and so on."""
    rest, found = node.input[0], []
    for place in range(count):
        best, below, switch, open_, left = (f"{node.output[0]}_{part}_{place}" for part in ("max", "d", "s", "c", "x"))
        found.append(best)
        yield helper.make_node("ReduceMax", [rest], [best], axes=[-1], keepdims=1)
        if place + 1 < count:
            yield helper.make_node("Sub", [best, rest], [below])
            yield helper.make_node("Mul", [below, "gfl_steep"], [switch])
            yield helper.make_node("Clip", [switch, "gfl_zero", "gfl_one"], [open_])
            yield helper.make_node("Mul", [rest, open_], [left])
            rest = left
    yield helper.make_node("Concat", found, [node.output[0]], axis=-1)


def open_file(path: Path, threads: int) -> StaticFile:
    """Open what `convert` wrote."""
    return open_ncnn(path, threads=threads)


FORMAT = Format(
    name="ncnn",
    suffix=SUFFIX,
    source=".onnx",
    forms=("raw",),
    precisions=("fp32",),
    packages=("pnnx",),
    runtime="ncnn",
    extra="ncnn",
    convert=convert,
    open=open_file,
    scale=10.0,  # equal probabilities are cleared together, and pnnx folds constants its own way
    remarks=(
        "ncnn computes in 16 bits where the CPU can, unless told otherwise: clear use_fp16_* and use_bf16_*; inputs "
        "are float32, outputs the head's: the choice of detections follows (gfl/runtime/decode.py and finish.py)",
    ),
)

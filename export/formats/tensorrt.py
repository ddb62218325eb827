"""TensorRT, which builds an engine of the .onnx on the machine that will run it. Never run by us."""

from __future__ import annotations

from export.formats import onnx_copy
from export.formats.interface import Format

FORMAT = Format(
    name="tensorrt",
    suffix=".onnx",
    source=".onnx",
    forms=("detections", "decoded"),
    precisions=("fp32",),
    packages=(),
    runtime="",
    extra="",
    convert=onnx_copy.convert,
    open=None,
    remarks=(
        "never run by us; build the engine on the machine with the GPU: "
        "trtexec --onnx=FILE.onnx --saveEngine=FILE.plan --noTF32",
        "--noTF32 keeps float32 as float32; --fp16 rounds the distribution and the boxes too, which the .onnx of "
        "`export.onnx --precision fp16` does not",
        "uint8 inputs need TensorRT 8.6 or newer; TopK takes at most 3,840, so PredictConfig.candidates at most too",
    ),
)

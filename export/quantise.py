"""The int8 form of an exported graph: convolutions on uint8 activations and int8 weights, everything else float32.

Static quantisation by ONNX Runtime: QuantizeLinear and DequantizeLinear around each convolution, one scale for each
filter, ranges of the activations taken from pictures. Unsigned activations with signed weights are what x86 multiplies
fastest (without VNNI instructions sums of such products may saturate: count the AP on such a machine). The last
convolutions of the head stay float32 with all that follows them: they give the logits that the distribution and the
scores are read from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from export.samples import Feed

FLOAT_CONVOLUTIONS = ("bbox_head.gfl_cls.", "bbox_head.gfl_reg.")  # paths of their weights begin so
BETWEEN = ("Relu", "MaxPool", "Add")  # quantised where all their inputs are, so that these can stay uint8

# Tells ONNX Runtime that its own preparation was run: ours has done the same (constants folded, all shapes known).
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def quantise(model: onnx.ModelProto, feeds: Iterable[Feed]) -> onnx.ModelProto:
    """An int8 copy of a float32 graph, with the activations' ranges seen on `feeds`; without metadata.

    Weights keep their paths as names, with `_quantized` behind them.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    onnx.helper.set_model_props(plain, PREPARED)
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(plain, source)  # older versions take files alone
        quantize_static(
            source,
            path,
            Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", *BETWEEN],
            nodes_to_quantize=quantised_nodes(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(path)
    onnx.helper.set_model_props(quantised, {})
    quantised.ir_version = model.ir_version
    return quantised


def quantised_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes to quantise: convolutions, and what lies between them."""
    chosen: dict[str, str] = {}  # output of a quantised node -> name of the node
    for node in model.graph.node:
        convolves = node.op_type == "Conv" and not node.input[1].startswith(FLOAT_CONVOLUTIONS)
        if convolves or (node.op_type in BETWEEN and all(name in chosen for name in node.input)):
            chosen[node.output[0]] = node.name
    return list(chosen.values())


class Reader:
    """A CalibrationDataReader of ONNX Runtime: feeds one at a time, None at the end."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        """The inputs of the next run."""
        return next(self.feeds, None)

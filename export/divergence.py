"""Where the graphs of an exported .onnx and of PyTorch part: tensors inside that both name, run side by side.

The exporter keeps the names of a torch.export program for the values of the ONNX graph. Only what comes before the
first choice by order (top-k) is compared: from there on two equally good candidates may stand in either order.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from export.parity import TOLERANCES
from gfl.runtime.onnx_session import open_session

OVERVIEW = 16  # tensors that are compared where all is well
DEQUANTISED = "_DequantizeLinear_Output"  # after the name of a tensor: what is left of it after rounding to int8
STRETCH_BYTES = 256 << 20  # of tensors that are kept at a time, about: all of an R50's would take gigabytes


class Parting(NamedTuple):
    """The first tensor that differs."""

    name: str
    weight: str  # the weight that enters there; empty where none does
    difference: float  # as a share of its largest value
    before: str  # the last compared tensor that agrees; empty where none does

    def __str__(self) -> str:
        weight = f" ({self.weight})" if self.weight else ""
        before = f", up to {self.before} they agree" if self.before else ""
        return f"the graphs part at {self.name}{weight}: {self.difference:.2g} of its largest value{before}"


class SideBySide:
    """A model and the program that it was translated from, or that of its float32 form, run on the same inputs."""

    def __init__(
        self, model: onnx.ModelProto, program: ExportedProgram, inputs: Mapping[str, NDArray[np.generic]]
    ) -> None:
        self.model, self.inputs = model, inputs
        module = program.module()
        if not isinstance(module, GraphModule):
            raise TypeError(f"the program's module is a {type(module).__name__}, expected a GraphModule")
        self.module = module
        produced = {name: node for node in model.graph.node for name in node.output}
        # Casts get other numbers in their names where the weights are of another dtype.
        self.names = [name for name in before_choice(module) if name in produced and not name.startswith("_to_copy")]
        # A quantised tensor is compared as the next operator reads it: rounded, and clipped where that replaces a ReLU.
        self.seen = {name: name + DEQUANTISED if name + DEQUANTISED in produced else name for name in self.names}
        self.weights = {name: weight_of(produced[name]) for name in self.names}

    def differences(self, names: Collection[str]) -> dict[str, float]:
        """Largest difference of each tensor, as a share of its largest value in PyTorch."""
        recorded = Recorder(self.module, names)
        with torch.no_grad():
            recorded.run(*(torch.from_numpy(array) for array in self.inputs.values()))
        of_file = self._run([self.seen[name] for name in recorded.values])
        differences = {}
        for name, value in recorded.values.items():
            expected = value.numpy().astype(np.float64)
            scale = max(float(np.abs(expected).max()), 1e-6)
            largest = float(np.abs(of_file[self.seen[name]].astype(np.float64) - expected).max()) / scale
            differences[name] = largest if largest == largest else float("inf")  # NaN
        return differences

    def overview(self) -> dict[str, float]:
        """`differences` of a few tensors, evenly spaced from the input to the head's outputs."""
        count = min(OVERVIEW, len(self.names))
        return self.differences([self.names[(i + 1) * len(self.names) // count - 1] for i in range(count)])

    def first_parting(self, tolerance: float = TOLERANCES["intermediates"]) -> Parting | None:
        """The first tensor beyond the tolerance in the order of computation; None where all compared ones agree."""
        before = ""
        sizes = {node.name: size_of(node) for node in self.module.graph.nodes}
        ends = dict(zip(self.names, accumulate(sizes[name] for name in self.names), strict=True))
        for _, stretch in groupby(self.names, key=lambda name: ends[name] // STRETCH_BYTES):
            for name, difference in self.differences(list(stretch)).items():
                if not difference <= tolerance:
                    return Parting(name, self.weights[name], difference, before)
                before = name
        return None

    def _run(self, names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        probed = onnx.ModelProto()
        probed.CopyFrom(self.model)
        own = {value.name for value in probed.graph.output}
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
        session = open_session(probed.SerializeToString(), threads=torch.get_num_threads())
        values = session.run(list(names), self.inputs)
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


class Recorder(Interpreter):
    """Runs a graph and keeps the float tensors of some names."""

    def __init__(self, module: GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self.names = frozenset(names)
        self.values: dict[str, Tensor] = {}

    def run_node(self, node: Node) -> object:
        """Run one node, and keep its result where it is wanted."""
        value: object = super().run_node(node)
        if node.name in self.names and isinstance(value, Tensor) and value.is_floating_point():
            self.values[node.name] = value
        return value


def weight_of(node: onnx.NodeProto) -> str:
    """Path of the weight that enters a node, without what quantisation adds to its name; empty where none does."""
    return next((name.partition(".weight")[0] + ".weight" for name in node.input if ".weight" in name), "")


def size_of(node: Node) -> int:
    """Bytes of a node's result, by what the tracing knew of it."""
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def before_choice(module: GraphModule) -> list[str]:
    """Names of the operations before the first use of a top-k's indices, in order."""
    operations = [node for node in module.graph.nodes if node.op == "call_function"]
    choices = [node.target is operator.getitem and node.args[1] == 1 and bool(node.users) for node in operations]
    return [node.name for node in operations[: (*choices, True).index(True)]]

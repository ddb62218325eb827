"""The second look of `export.untried` at an .onnx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from export.untried import comparisons, without_threshold
from gfl.runtime.description import INPUT_NAMES, Arrays, Description, Thresholds
from gfl.runtime.onnx_session import Session, open_session
from gfl.runtime.providers import CPU, ProviderReport

LOWERED = "lowered_score_threshold"  # the name of the constant that takes the threshold's place


@dataclass(frozen=True)
class LoweredFile:
    """An open copy of an .onnx, whose score threshold is 0."""

    path: Path  # of the file that it is a copy of
    description: Description
    session: Session

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`."""
        names = [value.name for value in self.session.get_outputs()]
        outputs = self.session.run(names, dict(zip(INPUT_NAMES, (images, image_sizes), strict=True)))
        return {name: np.asarray(array) for name, array in zip(names, outputs, strict=True)}

    def provider_report(self) -> ProviderReport:
        """ONNX Runtime's CPU provider."""
        return ProviderReport(CPU.runtime_name, {}, ())


def open_lowered(path: Path, description: Description) -> LoweredFile | None:
    """Open a copy of an exported file that takes every score above 0; None where its threshold cannot be told apart."""
    model = onnx.load(path)
    if not lower_threshold(model, description.thresholds):
        return None
    session = open_session(model.SerializeToString(), threads=torch.get_num_threads())
    return LoweredFile(path, without_threshold(description), session)


def lower_threshold(model: onnx.ModelProto, limits: Thresholds) -> bool:
    """Lower the score thresholds of a graph to 0, in place; False where they cannot be told from other numbers."""
    scalars = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if not tensor.dims}
    found: list[onnx.NodeProto] = []
    for is_strict, threshold, number in comparisons(limits):
        same = {name for name, value in scalars.items() if value == np.float32(threshold)}
        operator = "Greater" if is_strict else "GreaterOrEqual"
        nodes = [node for node in model.graph.node if node.op_type == operator and node.input[1] in same]
        if len(nodes) != number:
            return False
        found += nodes
    replaced = {node.input[1] for node in found}
    for node in found:
        node.input[1] = LOWERED
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in replaced - used]:
        model.graph.initializer.remove(tensor)  # ONNX Runtime warns of what nothing uses
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.0, np.float32), LOWERED))
    return True

"""Runs an .onnx on the inputs of an .npz, a batch at a time, where only NumPy and ONNX Runtime are installed.

python plain_runtime.py MODEL.onnx INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main(model: str, inputs: str, outputs: str) -> None:
    """Inputs and outputs are stacked: one more axis than the graph's, of the runs."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    with np.load(inputs) as file:
        feeds = dict(file)
    runs = [
        session.run(names, {name: array[i] for name, array in feeds.items()})
        for i in range(len(next(iter(feeds.values()))))
    ]
    np.savez(outputs, **{name: np.stack(parts) for name, parts in zip(names, zip(*runs))})  # noqa: B905  # Python 3.8
    print(onnxruntime.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])

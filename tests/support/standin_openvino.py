"""A stand-in for the package openvino, which computes with ONNX Runtime: the surface that gfl/runtime uses.

Where the package is installed, tests/test_providers.py runs it too.
"""

from __future__ import annotations

import types
from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray


class StandinOpenvino(types.ModuleType):
    """The module; `capabilities` are what its CPU computes in, `settings` those of each compiled model."""

    def __init__(self, *capabilities: str) -> None:
        super().__init__("openvino")
        self.capabilities = capabilities
        self.settings: list[Mapping[str, str]] = []
        self.requests = 0

    def Core(self) -> Core:  # noqa: N802  # its name there
        return Core(self)


class Core:
    def __init__(self, module: StandinOpenvino) -> None:
        self.module = module

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return list(self.module.capabilities)

    def read_model(self, path: str) -> ReadModel:
        try:
            return ReadModel(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))
        except Exception:
            raise RuntimeError(f"Exception from src/core.cpp:84:\nUnable to read {path}\n") from None

    def compile_model(self, model: ReadModel, device: str, settings: Mapping[str, str]) -> CompiledModel:
        assert device == "CPU"
        self.module.settings.append(settings)
        return CompiledModel(self.module, model.session)


class ReadModel:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.outputs = [types.SimpleNamespace(get_names=lambda name=o.name: {name}) for o in session.get_outputs()]


class CompiledModel:
    def __init__(self, module: StandinOpenvino, session: onnxruntime.InferenceSession) -> None:
        self.module, self.session = module, session

    def create_infer_request(self) -> InferRequest:
        self.module.requests += 1
        return InferRequest(self.session)


class InferRequest:
    """Keeps the memory of its outputs, as OpenVINO does: each run overwrites what the last one gave."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.memory: list[NDArray[np.generic]] = []

    def infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        outputs = self.session.run(None, dict(inputs))
        self.memory = self.memory or [np.empty_like(array) for array in outputs]
        for mine, array in zip(self.memory, outputs, strict=True):
            mine[...] = array

    def get_output_tensor(self, index: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(data=self.memory[index])

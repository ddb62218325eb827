"""How many graphs torch.compile makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo.backends.registry import lookup_backend


class GraphCounter:
    """A backend of torch.compile that keeps the graphs it was given and hands them on."""

    def __init__(self, backend: str) -> None:
        self.backend = lookup_backend(backend)
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        self.graphs.append(graph)
        compiled_graph: Callable[..., object] = self.backend(graph, inputs)
        return compiled_graph

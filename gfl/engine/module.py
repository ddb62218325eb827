"""The adapters to nn.Module: leaves of the variables tree under their own names, and a function bound to `forward`.

DDP, torch.compile, fused optimisers, Apex and torch.export work on modules; nothing else here does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from gfl.model import detector
from gfl.model.anchors import Grid, make_grid
from gfl.model.detector import DetectorConfig
from gfl.model.structures import Batch
from gfl.tensors.precision import FP32, Policy
from gfl.tensors.variables import Variables, flatten, unflatten

Loss: TypeAlias = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]  # of `DetectorModule.forward`


class DetectorModule(nn.Module):
    """Variables on a device, with the constants and the grids that never change."""

    def __init__(
        self,
        variables: Variables,
        cfg: DetectorConfig,
        canvases: Sequence[tuple[int, int]],
        device: torch.device,
        policy: Policy = FP32,
        reduce: Callable[[Tensor], Tensor] = detector.identity,
    ) -> None:
        super().__init__()
        self.cfg, self.policy, self.reduce = cfg, policy, reduce
        # Convolutions on CPU and CUDA run faster with channels last; the NPU keeps a format of its own.
        self.memory_format = torch.contiguous_format if device.type == "npu" else torch.channels_last
        for path, tensor in flatten(variables).items():
            placed = tensor.detach().to(device, copy=True)
            if placed.ndim == 4:
                placed = placed.contiguous(memory_format=self.memory_format)
            _register(self, path, placed, frozen=detector.is_frozen(path, cfg))
        self.device = device
        self.grids: dict[tuple[int, int], Grid] = {canvas: make_grid(canvas, device) for canvas in canvases}
        self.freeze()

    def freeze(self) -> None:
        """Compute the constants; again whenever other variables were put in place of the first."""
        self.constants = detector.freeze(self.variables(), self.cfg)

    def variables(self) -> Variables:
        """The live tree: these tensors are the parameters and buffers themselves."""
        return unflatten(self.leaves())

    def leaves(self) -> dict[str, Tensor]:
        """{dotted path: parameter or buffer}."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its detached parts."""
        canvas = (batch.images.shape[2], batch.images.shape[3])
        prepared = detector.prepare(self.variables(), self.constants, self.policy)
        if canvas not in self.grids:  # only with a canvas a picture; a run's own canvases are there from the start
            self.grids[canvas] = make_grid(canvas, self.device)
        return detector.loss(prepared, batch, self.grids[canvas], self.cfg, self.reduce)


def compiled(module: DetectorModule, backend: str = "inductor") -> Loss:
    """The module's forward as one compiled graph a canvas; whatever would break the graph is an error."""
    # In DDP the graph would end where its buckets do, so that gradients are exchanged meanwhile. All our parameters
    # enter at the start, in `prepare`: nothing would be gained.
    torch._dynamo.config.optimize_ddp = False
    return torch.compile(module, backend=backend, fullgraph=True, dynamic=False)


class FunctionModule(nn.Module):
    """A pure function of a tree and some tensors, with the tree as buffers: what torch.export takes."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], tree: Variables) -> None:
        super().__init__()
        self.function = function
        for path, tensor in flatten(tree).items():
            _register(self, path, tensor.detach(), frozen=True)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """function(tree, *inputs)."""
        return self.function(unflatten(dict(self.named_buffers())), *inputs)


def _register(module: nn.Module, path: str, tensor: Tensor, *, frozen: bool) -> None:
    """Put a tensor at its dotted path below the module: a buffer when frozen, else a parameter."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(module, parent):
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    if frozen:
        module.register_buffer(name, tensor)
    else:
        module.register_parameter(name, nn.Parameter(tensor))

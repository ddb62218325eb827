"""The adapters to nn.Module, for what works on modules alone: DDP, torch.compile, fused optimisers, Apex, torch.export.

The leaves of the tree of variables become parameters and buffers of the same names; `forward` calls a pure function.
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
from gfl.tensors.memory_format import convolution_format
from gfl.tensors.precision import FP32, Policy
from gfl.tensors.variables import Variables, flatten, unflatten

Loss: TypeAlias = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]  # of `DetectorModule.forward`


class DetectorModule(nn.Module):
    """The detector's loss as a module: its variables on a device, with the constants and grids that never change.

    canvases: (height, width) in px whose grids are made in advance; reduce: mean over ranks of the loss's normalisers;
    recompute: as of `detector.forward`.
    """

    def __init__(
        self,
        variables: Variables,
        cfg: DetectorConfig,
        canvases: Sequence[tuple[int, int]],
        device: torch.device,
        *,
        policy: Policy = FP32,
        reduce: Callable[[Tensor], Tensor] = detector.identity,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.cfg, self.policy, self.reduce, self.recompute = cfg, policy, reduce, recompute
        memory_format = convolution_format(device, canvases)
        for path, tensor in flatten(variables).items():
            leaf = tensor.detach().to(device, copy=True)
            if leaf.ndim == 4:
                leaf = leaf.contiguous(memory_format=memory_format)
            _register(self, path, leaf, frozen=detector.is_frozen(path, cfg))
        self.device = device
        self.grids: dict[tuple[int, int], Grid] = {canvas: make_grid(canvas, device) for canvas in canvases}
        self.freeze()

    def freeze(self) -> None:
        """Compute the constants from the variables; to be called again whenever their values were replaced."""
        self.constants = detector.freeze(self.variables(), self.cfg)

    def variables(self) -> Variables:
        """The tree of variables; its tensors are the parameters and buffers themselves, not copies."""
        return unflatten(self.leaves())

    def leaves(self) -> dict[str, Tensor]:
        """{dotted path: parameter or buffer}."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss (a scalar), and {name: detached scalar} of its parts."""
        canvas = (batch.images.shape[2], batch.images.shape[3])
        prepared = detector.prepare(self.variables(), self.constants, self.policy)
        if canvas not in self.grids:  # only with a canvas a picture; a run's own canvases are there from the start
            self.grids[canvas] = make_grid(canvas, self.device)
        return detector.loss(prepared, batch, self.grids[canvas], self.cfg, self.reduce, recompute=self.recompute)


def compiled(module: DetectorModule, backend: str = "inductor", mode: str | None = None) -> Loss:
    """The module's forward, compiled into one graph for each canvas; what would break the graph is an error.

    mode: of torch.compile's own backend; None for its default. CUDA graphs of a mode hold the forward and the backward
    pass; the optimiser's few fused kernels run outside, so that they need neither capturable=True nor a rate on the
    device.
    """
    # By default dynamo splits the graph at DDP's buckets, to exchange gradients during the backward pass. Here all
    # parameters enter at the start, in `prepare`, so a split would gain nothing.
    torch._dynamo.config.optimize_ddp = False
    return torch.compile(module, backend=backend, mode=mode, fullgraph=True, dynamic=False)


class FunctionModule(nn.Module):
    """A pure function of a tree and tensors as a module with the tree as buffers, for torch.export."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], tree: Variables) -> None:
        super().__init__()
        self.function = function
        for path, tensor in flatten(tree).items():
            _register(self, path, tensor.detach(), frozen=True)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """function(tree, *inputs)."""
        return self.function(unflatten(dict(self.named_buffers())), *inputs)


def _register(module: nn.Module, path: str, tensor: Tensor, *, frozen: bool) -> None:
    """Register a tensor under its dotted path below the module: as a buffer when frozen, else as a parameter."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(module, parent):
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    if frozen:
        module.register_buffer(name, tensor)
    else:
        module.register_parameter(name, nn.Parameter(tensor))

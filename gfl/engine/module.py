"""The one nn.Module: leaves of the variables tree as parameters under their own names, forward(batch) = the loss.

DDP, torch.compile, fused optimisers and Apex work on modules; nothing else here does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gfl.model import detector
from gfl.model.anchors import Grid, make_grid
from gfl.model.detector import DetectorConfig
from gfl.model.structures import Batch
from gfl.tensors.precision import FP32, Policy
from gfl.tensors.variables import Variables, flatten, unflatten


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
            self._register(path, placed, frozen=detector.is_frozen(path, cfg))
        self.device = device
        self.grids: dict[tuple[int, int], Grid] = {canvas: make_grid(canvas, device) for canvas in canvases}
        self.constants = detector.freeze(self.variables(), cfg)

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

    def _register(self, path: str, tensor: Tensor, *, frozen: bool) -> None:
        *parents, name = path.split(".")
        node: nn.Module = self
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, nn.Module())
            node = node.get_submodule(parent)
        if frozen:
            node.register_buffer(name, tensor)
        else:
            node.register_parameter(name, nn.Parameter(tensor))

"""The weighted sums of table rows in deformable convolutions, written with operators that ONNX has.

PyTorch's `embedding_bag` does them in one pass; its own translation is a loop over the bags, which CANN does not take.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.export import ExportedProgram

BAG = torch.ops.aten.embedding_bag.padding_idx


def without_bags(program: ExportedProgram) -> ExportedProgram:
    """The same program, each bag a gathering of its rows and a product with their weights."""
    if not any(node.target is BAG for node in program.graph.nodes):
        return program
    taken_apart: ExportedProgram = program.run_decompositions({BAG: gathered_rows})
    return taken_apart


def gathered_rows(
    table: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor,
    include_last_offset: bool,
    padding_idx: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`embedding_bag` of bags of one size: (R,C) table, (N*S,) indices and weights, (N,) offsets -> (N,C), and unused.

    The arguments in between concern gradients, and other modes than sums, of which a detector has none.
    """
    bags = offsets.shape[0]
    size = indices.shape[0] // bags
    rows = table.index_select(0, indices).view(bags, size, -1)
    sums = torch.matmul(per_sample_weights.view(bags, 1, size), rows).squeeze(1)
    return sums, offsets, offsets, offsets

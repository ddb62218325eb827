"""Dtype policies: which dtype the convolutions and matrix products compute in."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Policy:
    """`compute` is the dtype of convolution and matmul weights and inputs; everything else stays float32."""

    compute: torch.dtype = torch.float32
    float32: tuple[str, ...] = ()  # dotted paths of variables below which convolutions and matmuls stay float32 too

    def dtype_of(self, path: str) -> torch.dtype:
        """The compute dtype of the variable at a dotted path."""
        kept = any(path.startswith(f"{root}.") for root in self.float32)
        return torch.float32 if kept else self.compute


FP32 = Policy()
O1 = Policy(torch.float16)  # Apex's O1 recipe, written as explicit dtypes
# NPUs convolve bfloat16 but have no matrix product of it: the two of the DGQP, 1,344 weights, stay float32.
BF16 = Policy(torch.bfloat16, float32=("bbox_head.reg_conf",))


def policy_of(precision: str, *, apex: bool = False) -> Policy:
    """The policy of a run's PRECISION: 'fp32', 'o1' or 'bf16'. Under Apex the tree stays float32 and Apex casts."""
    return FP32 if apex else {"fp32": FP32, "o1": O1, "bf16": BF16}[precision]

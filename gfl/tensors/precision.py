"""Precision policies: which dtype convolutions and matrix products compute in."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Policy:
    """The dtype of the weights and inputs of convolutions and matrix products; everything else stays float32."""

    compute: torch.dtype = torch.float32
    float32: tuple[str, ...] = ()  # dotted paths of subtrees of variables that stay float32 throughout

    def dtype_of(self, path: str) -> torch.dtype:
        """The dtype to compute in with the weight at a dotted path."""
        kept = any(path.startswith(f"{root}.") for root in self.float32)
        return torch.float32 if kept else self.compute


FP32 = Policy()
O1 = Policy(torch.float16)  # what Apex's O1 does by patching functions, written as explicit dtypes
# NPUs convolve bfloat16 but have no matrix product of it: the two of the DGQP, 1,344 weights, stay float32.
BF16 = Policy(torch.bfloat16, float32=("bbox_head.reg_conf",))


def policy_of(precision: str, *, apex: bool = False) -> Policy:
    """The policy for PRECISION: 'fp32', 'o1' or 'bf16'. With Apex the variables stay float32: it casts by itself."""
    return FP32 if apex else {"fp32": FP32, "o1": O1, "bf16": BF16}[precision]

"""Dtype policies: which dtype the convolutions and matrix products compute in."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Policy:
    """`compute` is the dtype of convolution and matmul weights and inputs; everything else stays float32."""

    compute: torch.dtype = torch.float32


FP32 = Policy()
O1 = Policy(torch.float16)  # Apex's O1 recipe, written as explicit dtypes
BF16 = Policy(torch.bfloat16)

"""What `--precision` means: the dtypes of the weights, and how much of the AP each may cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gfl.tensors.precision import FP32, O1, Policy

DGQP = "bbox_head.reg_conf"  # reads the distribution, which stays float32 in every export
HALF = replace(O1, float32=(DGQP,))
POLICIES: dict[str, Policy] = {"fp32": FP32, "fp16": HALF, "int8": FP32}  # int8 is made of the float32 graph

SAMPLES = 4  # pictures that float32 is compared on
COUNTED_SAMPLES = 64  # pictures that an AP is counted on, and that int8 takes its ranges from


@dataclass(frozen=True)
class LossLimits:
    """The most that a precision may lose."""

    ap: float  # of the AP on true boxes
    agreement: float  # of the AP where PyTorch's own detections stand in for true boxes
    score: float  # of a score, where no AP can be counted


# The trained blood cell model lost 0.0001 AP and 0.0003 of a score in fp16; in int8 no AP, 0.007 of the agreement and
# 0.04 of a score.
LARGEST_LOSS = {
    "fp16": LossLimits(ap=0.005, agreement=0.02, score=0.02),
    "int8": LossLimits(ap=0.02, agreement=0.1, score=0.1),
}

# As shares of a tensor's largest value: the first tensor beyond names where a graph that lost too much parts.
PARTING_TOLERANCES = {"fp16": 0.05, "int8": 0.5}

REMARKS = {
    "fp32": (),
    "fp16": (
        "float16 in the convolutions; on a CPU ONNX Runtime computes them in float32, so that this mostly shows the "
        "rounding of the weights",
    ),
    "int8": (
        "for ONNX Runtime on CPU and CUDA, not for CANN",
        "the activations' ranges were taken from the same pictures",
    ),
}

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
    share: float  # of the AP on true boxes, as a share of PyTorch's
    agreement: float  # of the AP where PyTorch's own detections stand in for true boxes
    score: float  # of a score, where no AP can be counted
    score_share: float  # of a score, as a share of PyTorch's best one
    error: float  # of outputs without detections: the root of the mean square, as a share of that of the values
    std_error: float  # the same, of the edge_std of detections
    score_error: float  # the same, of their scores
    complete: float  # share of the pictures whose `complete` may differ


# The trained blood cell model lost 0.0001 AP and 0.0003 of a score in fp16; in int8 no AP, 0.007 of the agreement and
# 0.04 of a score.
LARGEST_LOSS = {
    # Compared number by number, too: what is left to lose is what rounding decides.
    "fp32": LossLimits(0.001, 0.01, 0.01, 1e-3, 0.01, error=1e-2, std_error=1e-2, score_error=1e-2, complete=0.02),
    "bf16": LossLimits(0.005, 0.05, 0.05, 0.05, 0.1, error=0.05, std_error=0.1, score_error=0.1, complete=0.05),
    "fp16": LossLimits(0.005, 0.05, 0.02, 0.02, 0.1, error=0.02, std_error=0.1, score_error=0.05, complete=0.05),
    "int8": LossLimits(0.005, 0.05, 0.1, 0.1, 0.4, error=0.2, std_error=0.3, score_error=0.15, complete=0.2),
}
LEFT_OVER = 0.5  # share of PyTorch's AP that a file has at least, whatever --max_ap_drop says

# As shares of a tensor's largest value: the first tensor beyond names where a graph that lost too much parts.
PARTING_TOLERANCES = {"fp16": 0.05, "int8": 0.5}

# What a user can do where a file loses more than that.
WAYS_OUT = {
    "fp32": "",
    "bf16": "what helps: --precision fp32",
    "fp16": "what helps: --precision fp32; or more pictures to compare on, so that one of them weighs less (--images)",
    "int8": "what helps: another --precision; or ranges from more pictures, of the kind that the model will see "
    "(--calibration, --samples); or --max_ap_drop, where that much may be lost",
}

REMARKS = {
    "fp32": (),
    "bf16": ("computed in bfloat16 where the CPU has it; the weights in the file are float32",),
    "fp16": (
        "float16 in the convolutions, which ONNX Runtime computes in float32 on a CPU: so the same weights also ran in "
        "PyTorch with every convolution rounded to float16",
    ),
    "int8": ("for ONNX Runtime on CPU and CUDA, not for CANN",),
}

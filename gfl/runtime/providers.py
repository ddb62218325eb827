"""Which of ONNX Runtime's execution providers is to run a file, and which did. Standard library only.

A provider is its code for one kind of device; CANN is that of Ascend NPUs. OpenVINO, a runtime of its own, is chosen in
the same way. Sources: the providers' option tables in ONNX Runtime 1.24, for CANN onnxruntime/core/providers/cann.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError

PROVIDERS = ("auto", "cpu", "cuda", "cann", "openvino")
OPENVINO = "openvino"  # not ONNX Runtime's: see openvino_file.py; never taken by 'auto'
RUNTIME_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "cann": "CANNExecutionProvider"}
PROVIDER_OF_DEVICE = {"gpu": "cuda", "npu": "cann", "ascend": "cann"}  # for people who name the device instead
BEST_FIRST = ("cann", "cuda", "cpu")
OM_CACHE = "om_cache"  # this project's own option: the folder where CANN keeps compiled graphs for the next start

SWITCH = ("0", "1")
NUMBER = ("number",)
FREE = ()  # any text
ARENA = ("kNextPowerOfTwo", "kSameAsRequested")
# Provider -> option -> the values that it takes; all but OM_CACHE are handed to ONNX Runtime.
OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {},
    "cuda": {"device_id": NUMBER, "gpu_mem_limit": NUMBER},
    "cann": {
        "device_id": NUMBER,
        "npu_mem_limit": NUMBER,
        "arena_extend_strategy": ARENA,
        "enable_cann_graph": SWITCH,
        "enable_cann_subgraph": SWITCH,
        "dump_graphs": SWITCH,
        "dump_om_model": SWITCH,
        "precision_mode": (
            "force_fp32",
            "force_fp16",
            "allow_fp32_to_fp16",
            "must_keep_origin_dtype",
            "allow_mix_precision",
        ),
        "op_select_impl_mode": ("high_precision", "high_performance"),
        "optypelist_for_implmode": FREE,
        OM_CACHE: FREE,
    },
    OPENVINO: {"precision": ("f32", "bf16")},
}
# What 'auto' may be given: the options of all that it tries.
OPTIONS["auto"] = {name: values for provider in BEST_FIRST for name, values in OPTIONS[provider].items()}

NEEDS = {
    "cuda": "the package onnxruntime-gpu in place of onnxruntime, and the CUDA and cuDNN that it was built for",
    "cann": "the package onnxruntime-cann in place of onnxruntime, numpy<2, and the CANN toolkit with its set_env.sh "
    "sourced",
    OPENVINO: "the package openvino (pip install 'gflv2[openvino]')",
}
INT8_ON_CANN = "its operator list has no QuantizeLinear and DequantizeLinear, so it takes no int8 file"


@dataclass(frozen=True)
class ProviderChoice:
    """What is to run a file. Raises InputError for an unknown provider, option or value."""

    name: str = "auto"  # 'auto': the first of CANN, CUDA and CPU that is installed and runs the graph
    allow_fallback: bool = False  # let the CPU run what the provider does not; otherwise that is an error
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(
                f"got the provider {self.name!r}, expected one of {', '.join(PROVIDERS)}; omit it for auto"
            )
        if not isinstance(self.allow_fallback, bool):
            raise InputError(f"got allow_fallback={self.allow_fallback!r}, expected True or False; give one of them")
        if not isinstance(self.options, Mapping) or not all(
            isinstance(text, str) for entry in self.options.items() for text in entry
        ):
            raise InputError(
                f"got the provider options {self.options!r}, expected names and values as text; give them as "
                "{'device_id': '0'}"
            )
        if self.name not in PROVIDERS:
            raise InputError(_unknown("provider", self.name, PROVIDERS))
        known = OPTIONS[self.name]
        for option, value in self.options.items():
            if option not in known:
                raise InputError(_unknown(f"option of the provider {self.name}", option, tuple(known)))
            _check_value(option, value, known[option])
        if self.name == OPENVINO and self.allow_fallback:
            raise InputError(
                "got allow_fallback for the provider openvino, which runs a whole file or none of it; omit it, or give "
                "the provider auto"
            )


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """'device_id=1' -> {'device_id': '1'}; InputError for anything else."""
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise InputError(f"got --provider_options {text}, expected KEY=VALUE, e.g. device_id=0")
    return {text.partition("=")[0]: text.partition("=")[2] for text in texts}


class ProviderReport(NamedTuple):
    """What ran a file, as counted and not as promised."""

    provider: str  # ONNX Runtime's name of the one that ran the convolutions
    nodes_by_provider: dict[str, int]  # as counted in the first run; empty before it, and where it left no profile
    notes: tuple[str, ...]  # what a person should know, e.g. that the CPU stood in


class Target(NamedTuple):
    """A provider as a session is opened with it."""

    name: str  # 'cpu', 'cuda' or 'cann'
    options: dict[str, str]

    @property
    def runtime_name(self) -> str:
        """ONNX Runtime's name of the provider."""
        return RUNTIME_NAMES[self.name]

    @property
    def om_cache(self) -> Path | None:
        """The folder of CANN's compiled graphs, where one was given."""
        return Path(self.options[OM_CACHE]) if OM_CACHE in self.options else None

    @property
    def runtime_options(self) -> dict[str, str]:
        """The options that ONNX Runtime gets."""
        others = {name: value for name, value in self.options.items() if name != OM_CACHE}
        return {"dump_om_model": "1", **others} if OM_CACHE in self.options else others


CPU = Target("cpu", {})


class NodeCounts(NamedTuple):
    """How many nodes of a graph each provider ran, by ONNX Runtime's names."""

    by_provider: dict[str, int]
    convolutions_by_provider: dict[str, int]


def targets(choice: ProviderChoice, listed: Sequence[str]) -> list[Target]:
    """The providers to try, in order; `listed` is what ONNX Runtime calls available."""
    if choice.name == "auto":
        names = [name for name in BEST_FIRST if RUNTIME_NAMES[name] in listed]
    else:
        names = list(dict.fromkeys((choice.name, "cpu"))) if choice.allow_fallback else [choice.name]
    return [
        Target(name, {option: value for option, value in choice.options.items() if option in OPTIONS[name]})
        for name in names
    ]


def read_profile(path: Path) -> NodeCounts:
    """Count the nodes in ONNX Runtime's profile of a run."""
    events = json.loads(path.read_text(encoding="utf-8"))
    ran = [
        (event["args"]["provider"], event["args"].get("op_name", ""))
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    # Conv, FusedConv, QLinearConv, ConvInteger, NhwcFusedConv: all have it in their names.
    return NodeCounts(
        dict(Counter(provider for provider, _ in ran)),
        dict(Counter(provider for provider, operator in ran if "Conv" in operator)),
    )


def refusal(name: str, nodes: NodeCounts) -> str | None:
    """Why a provider cannot be said to have run the graph, as a clause; None where it can.

    It may leave small nodes to the CPU, but must have run every convolution, and at least one node.
    """
    runtime_name = RUNTIME_NAMES[name]
    total = sum(nodes.by_provider.values())
    if nodes.by_provider.get(runtime_name, 0) == 0:
        return f"{runtime_name} ran none of the {total} nodes"
    convolutions = sum(nodes.convolutions_by_provider.values())
    elsewhere = convolutions - nodes.convolutions_by_provider.get(runtime_name, 0)
    if elsewhere:
        return f"{elsewhere} of the {convolutions} convolutions ran elsewhere than on {runtime_name}"
    return None


def node_counts_text(nodes_by_provider: Mapping[str, int]) -> str:
    """'308 nodes ran on CUDAExecutionProvider, 4 nodes ran on CPUExecutionProvider'."""
    counts = sorted(nodes_by_provider.items(), key=lambda entry: -entry[1])
    return ", ".join(f"{count} nodes ran on {provider}" for provider, count in counts)


def _unknown(kind: str, got: str, known: Sequence[str]) -> str:
    near = [PROVIDER_OF_DEVICE[got]] if got in PROVIDER_OF_DEVICE else difflib.get_close_matches(got, known, n=1)
    expected = f"expected one of {', '.join(known)}" if known else "expected none"
    mend = f"did you mean {near[0]}?" if near else "omit it or give another" if known else "omit it"
    return f"got the {kind} {got!r}, {expected}; {mend}"


def _check_value(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if allowed == NUMBER:
        if not (value.isascii() and value.isdigit()):
            raise InputError(f"got {option}={value}, expected a whole number of at least 0; give one")
    elif allowed and value not in allowed:
        raise InputError(_unknown(f"value of {option}", value, allowed))
    elif not value:
        raise InputError(f"got an empty {option}, expected a value; omit it or give one")

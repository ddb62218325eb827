"""Which of PyTorch's operators an Ascend NPU runs itself, by the table npu_operators.txt. No torch is imported."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

KERNEL = "kernel"
COMPOSITE = "made of other operators"
FALLS_BACK = "falls back to the CPU"
CALLS_HOST = "kernel calls the host"
UNKNOWN = "not in the table"

_SECTIONS = {"[kernel]": KERNEL, "[composite]": COMPOSITE, "[cpu]": FALLS_BACK, "[host]": CALLS_HOST}


def npu_support(operator: str) -> str:
    """What an NPU does with an operator, by torch's name, e.g. 'aten::add.Tensor': one of the five texts above."""
    namespace, _, name = operator.partition("::")
    if namespace == "npu":
        return KERNEL  # torch_npu's own: nothing else offers it
    if namespace != "aten":
        return UNKNOWN
    packet, _, overload = name.partition(".")
    if packet.removesuffix("_") in _packets_that_call_the_host():
        return CALLS_HOST
    table = npu_table()
    support = table.get(name, UNKNOWN)
    if support != COMPOSITE:
        return support
    # A structured operator runs the kernel of its out form: 'lgamma' is composite, but 'lgamma.out' has no kernel.
    functional = packet.removesuffix("_")
    for out in (f"{functional}.{overload}_out", f"{functional}.out"):
        if table.get(out, COMPOSITE) != COMPOSITE:
            return table[out]
    return COMPOSITE


@lru_cache(maxsize=1)
def npu_table() -> dict[str, str]:
    """{operator with its overload, e.g. 'add.Tensor' or 'relu': KERNEL, COMPOSITE, FALLS_BACK or CALLS_HOST}."""
    table: dict[str, str] = {}
    support = UNKNOWN
    text = resources.files(__package__).joinpath("npu_operators.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line in _SECTIONS:
            support = _SECTIONS[line]
        elif not line.startswith("#"):
            packet, *overloads = line.split()
            for overload in overloads:  # an operator in two sections counts in the later one
                table[packet if overload == "-" else f"{packet}.{overload}"] = support
    return table


@lru_cache(maxsize=1)
def _packets_that_call_the_host() -> frozenset[str]:
    """Names of operators without their overload, all of whose overloads and in-place forms call the host."""
    return frozenset(name.partition(".")[0] for name, support in npu_table().items() if support == CALLS_HOST)

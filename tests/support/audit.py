"""The auditor: finds the operators of a training step that an NPU cannot run well, and the line that called each.

`with Auditor() as audit: step(...)`, then `audit.violations` has a sentence for each, with the project's line in it.
The rules are those of docs/ascend.md; gfl/operators/npu_operators.txt says which operators have a kernel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gfl.operators.npu import CALLS_HOST, COMPOSITE, KERNEL, npu_support
from gfl.operators.trace import Op, OpTrace, Shaped, shaped

ROOT = Path(__file__).resolve().parents[2]
OURS = ("gfl", "export", "infer", "benchmarks", "tests")
MACHINERY = (__file__, sys.modules[OpTrace.__module__].__file__)  # on the stack of every operator

MASKS = (torch.bool, torch.uint8)
INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put", "_index_put_impl_")
SHAPED_BY_VALUES = (
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "masked_select",
    "unique",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "bincount",
)
READING = ("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose")
BELOW_DISPATCH = ("tolist", "numpy", "__array__", "cpu")  # of a tensor on the CPU these dispatch nothing
ORDERING = ("sort", "argsort", "topk", "kthvalue", "median", "msort")
SUMMING = ("sum", "nansum", "prod", "mean", "cumsum", "cumsum_", "cumprod", "cumprod_", "logcumsumexp")
EXTREMES = ("max", "min", "amax", "amin", "aminmax", "argmax", "argmin", "cummax", "cummin")
WITHOUT_BF16 = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "matmul", "linear", "mv", "dot", "gather")


class Call(NamedTuple):
    """A call of an operator: its arguments and its result, which is None while it runs."""

    func: OpOverload
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    result: object

    @property
    def packet(self) -> str:
        """The operator's name without namespace and overload."""
        return self.func.overloadpacket.__name__

    def argument(self, name: str) -> object:
        """The value of an argument by its name in the schema, given or its default; None where there is none."""
        for position, expected in enumerate(self.func._schema.arguments):
            if expected.name == name:
                if name in self.kwargs:
                    return self.kwargs[name]
                return self.args[position] if position < len(self.args) else expected.default_value
        return None

    @property
    def given(self) -> list[Tensor]:
        return [x for x in tree_leaves((self.args, dict(self.kwargs))) if isinstance(x, Tensor)]

    @property
    def results(self) -> list[Tensor]:
        return [x for x in tree_leaves(self.result) if isinstance(x, Tensor)]


Rule = Callable[[Call], str | None]  # what is wrong, or None


def dynamic_shape(call: Call) -> str | None:
    tagged = torch.Tag.dynamic_output_shape in call.func.tags and call.packet not in INDEXING
    if tagged or call.packet in SHAPED_BY_VALUES:
        return "the shape of its result depends on values"
    return None


def boolean_mask(call: Call) -> str | None:
    # index.Tensor carries torch's tag of a dynamic shape for integers too: the dtype of the indices decides.
    if call.packet in INDEXING:
        masks = [x for x in tree_leaves(call.argument("indices")) if isinstance(x, Tensor) and x.dtype in MASKS]
        if masks:
            return "it indexes by a mask, which takes a nonzero"
    return None


def host_read(call: Call) -> str | None:
    if call.packet in READING or torch.Tag.data_dependent_output in call.func.tags:
        return "the host waits for a value"
    if any(x.device.type != "cpu" for x in call.given) and copies_to_the_host(call):
        return "the host waits for a copy"
    return None


def host_constant(call: Call) -> str | None:
    if call.packet in ("lift_fresh", "lift_fresh_copy", "lift"):  # what torch.tensor ends in
        return "the device waits for numbers from the host; fill them on the device (torch.full)"
    return None


def copies_to_the_host(call: Call) -> bool:
    if call.packet == "copy_":
        target, source = call.argument("self"), call.argument("src")
        both = isinstance(target, Tensor) and isinstance(source, Tensor)
        return both and target.device.type == "cpu" != source.device.type
    device = call.argument("device")
    return call.packet in ("_to_copy", "to") and device is not None and torch.device(device).type == "cpu"


def double_precision(call: Call) -> str | None:
    wide = (torch.float64, torch.complex128)
    return "float64" if any(x.dtype in wide for x in [*call.given, *call.results]) else None


def integer_reduction(call: Call) -> str | None:
    given = [x.dtype for x in call.given]
    results = [x.dtype for x in call.results]
    if call.packet in SUMMING and torch.int64 in (*given, *results):
        return "a sum in int64; sum float32"
    if call.packet in (*ORDERING, *EXTREMES) and torch.int64 in given:
        return "it compares int64; give float32 or int32"
    if call.packet in EXTREMES and call.packet not in ("argmax", "argmin") and torch.int32 in given:
        return "an extreme of int32; take amax or amin of float32"
    return None


def without_kernel(call: Call) -> str | None:
    support = npu_support(call.func.name())
    if support in (KERNEL, COMPOSITE):
        return None
    return "its kernel calls the CPU inside" if support == CALLS_HOST else f"no NPU kernel: {support}"


def corrected_deviation(call: Call) -> str | None:
    if call.packet in ("std", "var") and call.func._overloadname == "correction":
        correction = call.argument("correction")
        if correction is None or float(correction) != 0.0:
            return "a correction, which the CPU computes; write sqrt(sum of squares / (n - 1))"
    return None


def argument_trap(call: Call) -> str | None:
    if call.packet == "topk" and call.argument("sorted") is False:
        return "sorted=False is not supported; leave it True"
    if call.packet.startswith("upsample_") and any(scale is not None for scale in scale_factors(call)):
        return "a scale factor rounds differently there; give size="
    if call.packet in SUMMING and call.argument("dtype") is not None:
        return "dtype= of a sum; cast before it"
    if call.packet.startswith("max_pool2d") and any(d != 1 for d in pair(call.argument("dilation"))):
        return "dilation other than 1 is not supported"
    return None


def scale_factors(call: Call) -> Iterator[object]:
    for name in ("scales_h", "scales_w", "scales", "scale_factors"):
        value = call.argument(name)
        yield from value if isinstance(value, Sequence) else [value]


def pair(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) else [] if value is None else [value]


def bfloat16(call: Call) -> str | None:
    listed = call.packet in WITHOUT_BF16 or "batch_norm" in call.packet
    if listed and any(x.dtype == torch.bfloat16 for x in call.given):
        return "it has no bfloat16 kernel; compute it in float32"
    return None


RULES: tuple[Rule, ...] = (
    dynamic_shape,
    boolean_mask,
    host_read,
    host_constant,
    double_precision,
    integer_reduction,
    without_kernel,
    corrected_deviation,
    argument_trap,
    bfloat16,
)


class Auditor(OpTrace):
    """Traces as `OpTrace` does and keeps a sentence for every breach of a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.violations: list[str] = []
        self.broken: set[Rule] = set()
        self._reads = _ReadsBelowDispatch(self)

    def __enter__(self) -> Auditor:
        self._reads.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._reads.__exit__(kind, error, trace)

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        call = Call(func, args, kwargs or {}, None)
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        except Exception:
            self.check(call)  # what a fake tensor refuses to do is a breach too
            raise
        self.check(call._replace(result=result))
        return result

    def check(self, call: Call) -> None:
        if call.func.namespace == "aten":
            for rule in RULES:
                reason = rule(call)
                if reason is not None:
                    self.note(rule, f"{call.func.name()}({described((call.args, dict(call.kwargs)))})", reason)

    def note(self, rule: Rule, what: str, reason: str) -> None:
        self.broken.add(rule)
        self.violations.append(f"{what} {caller()}: {reason}")


class _ReadsBelowDispatch(TorchFunctionMode):
    """Tells the auditor of reads that a tensor on the CPU answers without any operator."""

    def __init__(self, auditor: Auditor) -> None:
        super().__init__()
        self.auditor = auditor

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = getattr(func, "__name__", "")
        if name in BELOW_DISPATCH and args and isinstance(args[0], Tensor):
            self.auditor.note(host_read, f"Tensor.{name}({described(args[0])})", "the host waits for a value")
        return func(*args, **(kwargs or {}))


def described(arguments: object) -> str:
    """The tensors among some arguments by dtype and shape, the other values as they are."""
    leaves = tree_leaves(shaped(arguments))
    return ", ".join(str(leaf) for leaf in leaves if isinstance(leaf, Shaped) or leaf is not None)


def caller() -> str:
    """'at gfl/model/assign.py:87, in assign': the project's innermost line; in backward, the node too."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    location = "outside the project"
    if frame is not None:
        path = Path(frame.f_code.co_filename).resolve().relative_to(ROOT).as_posix()
        location = f"at {path}:{frame.f_lineno}, in {frame.f_code.co_name}"
    node = torch._C._current_autograd_node()
    return location if node is None else f"in backward of {node.name()}, called {location}"


def is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS and filename not in MACHINERY


def first_difference(trace: Sequence[Op], other: Sequence[Op]) -> str | None:
    """The first difference between two traces, as a sentence; None when they are equal."""
    for index, (one, two) in enumerate(zip(trace, other, strict=False)):
        if one != two:
            calls = (f"{op.name}({described(op.arguments)})" for op in (one, two))
            return f"operator {index} is {' in one trace and '.join(calls)} in the other"
    return None if len(trace) == len(other) else f"{len(trace)} operators in one trace and {len(other)} in the other"

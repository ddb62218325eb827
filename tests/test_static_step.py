"""A step does the same operations whatever the batch holds, few of them, and never asks the device for a value.

Traced on fake tensors: nothing is computed, so a whole R50 step takes seconds, and whoever reads a value gets an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfl.model import detector
from gfl.model.anchors import Grid, make_grid, padded_sizes
from gfl.model.detector import DetectorConfig
from gfl.model.structures import Batch
from gfl.tensors.variables import flatten

R50 = DetectorConfig()
CANVAS_HW = (256, 320)

STEP_OPS = 1500  # forward + loss + backward; the reference takes 1,691 for one picture and 3,880 for 8 x 40 boxes
LOSS_OPS = 300  # assignment + losses, forward
ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
HOST_READS = (  # the output's shape or a Python number depends on values
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "unique",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
)
INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")


class Op(NamedTuple):
    """One operation, as far as it is fixed before the batch is known."""

    name: str  # e.g. 'aten.add.Tensor'
    dtypes: tuple[torch.dtype, ...]  # of the tensors that go in and come out


class OpRecorder(TorchDispatchMode):
    """Writes down every operation below autograd that computes something: no view, no detach, no bare allocation."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.host_reads: list[str] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__
        if name in HOST_READS or (name in INDEXING and indexes_by_mask(args)):
            self.host_reads.append(str(func))
        result = func(*args, **(kwargs or {}))
        computes = func.namespace == "aten" and not func.is_view  # prim.device asks a fake tensor for its device
        if computes and name not in (*ALLOCATIONS, "detach", "_unsafe_view"):
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.ops.append(Op(str(func), tuple(x.dtype for x in tensors)))
        return result


def indexes_by_mask(args: tuple[object, ...]) -> bool:
    """Whether an index or index_put takes a boolean mask."""
    return any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in tree_leaves(args[1]))


def empty_batch(pictures: int, slots: int, ignored: int = 1) -> Batch:
    """A batch of these shapes; under a fake mode there are no values."""
    return Batch(
        torch.empty((pictures, 3, *CANVAS_HW), dtype=torch.uint8),
        torch.empty((pictures, 2), dtype=torch.int32),
        torch.empty((pictures, slots, 4)),
        torch.empty((pictures, slots), dtype=torch.int32),
        torch.empty((pictures, slots), dtype=torch.bool),
        torch.empty((pictures, ignored, 4)),
        torch.empty((pictures, ignored), dtype=torch.bool),
        torch.empty((pictures,)),
    )


class FakeModel(NamedTuple):
    """The R50 of the paper as fake tensors, ready for a step."""

    mode: FakeTensorMode
    variables: detector.Variables
    constants: detector.Constants
    grid: Grid


@pytest.fixture(scope="module")
def model() -> FakeModel:
    with FakeTensorMode() as mode:
        variables = detector.init(R50)
        for path, leaf in flatten(variables).items():
            leaf.requires_grad_(not detector.is_frozen(path, R50))
        constants = detector.freeze(variables, R50)
        grid = make_grid(CANVAS_HW)
    return FakeModel(mode, variables, constants, grid)


def record_step(model: FakeModel, pictures: int, slots: int) -> OpRecorder:
    """prepare, forward, loss and backward of one batch."""
    with model.mode:
        batch = empty_batch(pictures, slots)
        for leaf in flatten(model.variables).values():
            leaf.grad = None
        with OpRecorder() as recorder:
            prepared = detector.prepare(model.variables, model.constants)
            total, _ = detector.loss(prepared, batch, model.grid, R50)
            total.backward()
    return recorder


@pytest.fixture(scope="module")
def steps(model: FakeModel) -> dict[str, OpRecorder]:
    """Batches from small to large."""
    sizes = {"1 image, 3 boxes": (1, 8), "2 images, 7 boxes": (2, 8), "8 images, 40 boxes": (8, 40)}
    return {name: record_step(model, *size) for name, size in sizes.items()}


def commonest(ops: Sequence[Op]) -> str:
    """The largest groups of operations, for a message."""
    return ", ".join(f"{name} {count}" for name, count in Counter(op.name for op in ops).most_common(12))


def test_a_step_takes_the_same_operations_for_any_batch(steps: dict[str, OpRecorder]) -> None:
    counts = {name: len(step.ops) for name, step in steps.items()}
    first, *others = steps.values()
    for other in others:
        assert other.ops == first.ops, counts


def test_a_step_takes_few_operations(steps: dict[str, OpRecorder]) -> None:
    for name, step in steps.items():
        assert len(step.ops) <= STEP_OPS, f"{name}: {len(step.ops)} operations: {commonest(step.ops)}"


@pytest.mark.parametrize("slots", [8, 40])
def test_assignment_and_losses_take_few_operations(model: FakeModel, slots: int) -> None:
    with model.mode:
        batch = empty_batch(2, slots)
        scores = torch.empty((2, model.grid.num_anchors, 81), requires_grad=True)
        edges = torch.empty((2, model.grid.num_anchors, 4, 17), requires_grad=True)
        with OpRecorder() as recorder:
            padded_hw = padded_sizes(batch.image_sizes)
            detector.loss_of_outputs(detector.Outputs(scores, edges), batch, padded_hw, model.grid, R50)
    assert len(recorder.ops) <= LOSS_OPS, f"{len(recorder.ops)} operations: {commonest(recorder.ops)}"
    assert recorder.host_reads == []


def record_predict(model: FakeModel, pictures: int) -> OpRecorder:
    """prepare and predict of one batch."""
    with model.mode, torch.no_grad(), OpRecorder() as recorder:
        batch = empty_batch(pictures, 1)
        prepared = detector.prepare(model.variables, model.constants)
        detector.predict(prepared, batch.images, batch.image_sizes, model.grid, R50)
    return recorder


@pytest.fixture(scope="module")
def predictions(model: FakeModel) -> list[OpRecorder]:
    return [record_predict(model, pictures) for pictures in (1, 8)]


def test_predict_takes_the_same_operations_for_any_batch(predictions: list[OpRecorder]) -> None:
    one, eight = predictions
    assert one.ops == eight.ops, (len(one.ops), len(eight.ops))


def test_nothing_is_read_from_the_device(steps: dict[str, OpRecorder], predictions: list[OpRecorder]) -> None:
    for recorder in (*steps.values(), *predictions):
        assert recorder.host_reads == []


def test_no_tensor_is_float64(steps: dict[str, OpRecorder], predictions: list[OpRecorder]) -> None:
    for recorder in (*steps.values(), *predictions):
        assert [op for op in recorder.ops if torch.float64 in op.dtypes] == []


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum() > 0),
    "nonzero": lambda x: torch.nonzero(x),
    "where with one argument": lambda x: torch.where(x > 0),
    "boolean index": lambda x: x[x > 0],
    "boolean assignment": lambda x: x.index_put_((x > 0,), torch.zeros(())),
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "unique": lambda x: torch.unique(x),
    "repeat_interleave": lambda x: torch.repeat_interleave(x.int()),
}


@pytest.mark.parametrize("name", READS)
def test_the_recorder_sees_a_host_read(name: str) -> None:
    with OpRecorder() as recorder:
        READS[name](torch.ones(3))
    assert recorder.host_reads


@pytest.mark.parametrize("read", [lambda x: x.tolist(), lambda x: float(x[0]), lambda x: x.numpy()])
def test_a_fake_tensor_has_no_values_to_read(read: Callable[[Tensor], object]) -> None:
    """What a CPU tensor gives away below the dispatcher, a fake one does not have."""
    with FakeTensorMode():
        x = torch.ones(3)
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(x)


def test_the_recorder_counts_what_computes_and_nothing_else() -> None:
    x = torch.ones(2, 3)
    with OpRecorder() as recorder:
        torch.empty_like(x).detach().view(6)
        x.t().unsqueeze(0).expand(4, 3, 2)[0]
    assert recorder.ops == []
    with OpRecorder() as recorder:
        (x + 1).double()
    assert [op.name for op in recorder.ops] == ["aten.add.Tensor", "aten._to_copy.default"]
    assert torch.float64 in recorder.ops[1].dtypes

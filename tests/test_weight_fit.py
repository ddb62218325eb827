"""Weights of a file put into a model's tree, and the report of what was kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from weight_states import SHAPES, assert_same, random_state

from gfl.engine.weight_fit import compare, fit
from gfl.errors import InputError
from gfl.tensors.variables import Variables, flatten, unflatten


def model() -> Variables:
    return unflatten(random_state(0))


def test_every_leaf_takes_the_value_of_the_file() -> None:
    state = random_state(1)
    fitted, report = fit(model(), state)
    assert_same(flatten(fitted), state)
    assert report.kept == tuple(SHAPES)
    assert (report.reinitialised, report.missing, report.left_over) == ((), (), ())


def test_fitted_tree_shares_no_memory_with_the_file() -> None:
    state = random_state(1)
    fitted, _ = fit(model(), state)
    for path, leaf in flatten(fitted).items():
        leaf.fill_(7.0)
        assert not (state[path] == 7.0).any()


def test_leaf_keeps_dtype_and_memory_format() -> None:
    tree = model()
    head = tree["bbox_head"]
    assert isinstance(head, dict)
    layer = head["gfl_cls"]
    assert isinstance(layer, dict)
    assert isinstance(layer["weight"], Tensor)
    layer["weight"] = layer["weight"].contiguous(memory_format=torch.channels_last)
    halves = {path: tensor.half() for path, tensor in random_state(1).items()}
    fitted = flatten(fit(tree, halves)[0])
    assert all(leaf.dtype == torch.float32 for leaf in fitted.values())
    assert fitted["bbox_head.gfl_cls.weight"].is_contiguous(memory_format=torch.channels_last)


def test_other_class_count_reinitialises_the_class_layer_only() -> None:
    state = random_state(1, SHAPES | {"bbox_head.gfl_cls.weight": (81, 8, 3, 3), "bbox_head.gfl_cls.bias": (81,)})
    own = model()
    fitted, report = fit(own, state)
    for path, leaf in flatten(fitted).items():
        assert torch.equal(leaf, flatten(own)[path] if ".gfl_cls." in path else state[path])
    assert report.table().splitlines() == [
        "backbone                  4 kept",
        "neck                      1 kept",
        "bbox_head                 1 kept",
        "bbox_head.gfl_cls.weight  re-initialised 81 -> 4",
        "bbox_head.gfl_cls.bias    re-initialised 81 -> 4",
    ]


def test_missing_and_left_over_weights_are_reported_by_group() -> None:
    state = random_state(1)
    del state["neck.lateral_convs.0.conv.bias"]
    state["head.conv.weight"] = state["head.conv.bias"] = torch.ones(1)
    _, report = fit(model(), state)
    assert report.missing == ("neck.lateral_convs.0.conv.bias",)
    assert report.left_over == ("head.conv.weight", "head.conv.bias")
    assert report.table().splitlines()[-2:] == [
        "neck.lateral_convs  1 missing in the file, as initialised",
        "head.conv           2 left over, not in the model",
    ]


def test_many_misfits_of_a_group_share_a_row() -> None:
    own = {f"neck.convs.{i}": torch.ones(2, 3) for i in range(5)} | {"neck.a.weight": torch.ones(2, 3)}
    state = {path: torch.ones(2, 4) for path in own}
    assert compare(own, state).table().split("\n") == [
        "neck.convs     5 re-initialised (other shapes)",
        "neck.a.weight  re-initialised (2, 4) -> (2, 3)",
    ]


@pytest.mark.parametrize("in_model", [True, False])
@pytest.mark.parametrize("in_file", [True, False])
def test_batch_counter_is_never_missing_and_never_left_over(in_model: bool, in_file: bool) -> None:
    counter = {"backbone.bn1.num_batches_tracked": torch.tensor(9)}
    own = random_state(0) | ({path: torch.zeros_like(n) for path, n in counter.items()} if in_model else {})
    fitted, report = fit(unflatten(own), random_state(1) | (counter if in_file else {}), require_all=True)
    assert (report.missing, report.left_over) == ((), ())
    assert set(flatten(fitted)) == set(own)
    if in_model:
        assert flatten(fitted)["backbone.bn1.num_batches_tracked"] == (9 if in_file else 0)


@pytest.mark.parametrize(
    "state", [{}, {"encoder.weight": torch.ones(2)}, {"backbone.conv1.weight": torch.ones(1, 1, 1, 1)}]
)
def test_file_of_another_model_is_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match=r"other\.pth has none of the model's 8 weights"):
        fit(model(), state, source="other.pth")


def test_evaluation_refuses_another_class_count() -> None:
    state = random_state(1, SHAPES | {"bbox_head.gfl_cls.weight": (81, 8, 3, 3), "bbox_head.gfl_cls.bias": (81,)})
    with pytest.raises(InputError, match=r"a\.pth has 81 class channels, expected 4"):
        fit(model(), state, require_all=True, source="a.pth")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"neck.lateral_convs.0.conv.bias": torch.ones(9)}, r"1 of another shape \(first: neck.* 9 -> 8\)"),
        ({"neck.lateral_convs.0.conv.bias": None}, r"1 missing in it \(first: neck"),
        ({"backbone.layer3.22.conv1.weight": torch.ones(1)}, r"1 that the model lacks \(first: backbone\.layer3\.22"),
    ],
)
def test_evaluation_refuses_another_model(changes: dict[str, Tensor | None], what: str) -> None:
    state = {path: tensor for path, tensor in (random_state(1) | changes).items() if tensor is not None}
    with pytest.raises(InputError, match=what):
        fit(model(), state, require_all=True)
    fit(model(), state)  # training goes on

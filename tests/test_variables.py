"""The tree of variables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gfl.tensors.variables import Variables, child, flatten, generator_for, leaf, map_leaves, unflatten


def tree() -> Variables:
    return {
        "neck": {"convs": {"0": {"weight": torch.zeros(2), "bias": torch.ones(2)}, "1": {"weight": torch.ones(1)}}},
        "scale": torch.tensor(3.0),
    }


def test_paths_are_dotted_and_in_the_trees_own_order() -> None:
    assert list(flatten(tree())) == ["neck.convs.0.weight", "neck.convs.0.bias", "neck.convs.1.weight", "scale"]


def test_flatten_and_unflatten_are_inverse_and_copy_no_tensor() -> None:
    original = tree()
    back = unflatten(flatten(original))
    assert list(flatten(back)) == list(flatten(original))
    assert all(a is b for a, b in zip(flatten(back).values(), flatten(original).values(), strict=True))
    assert flatten(unflatten({})) == {}


def test_flatten_puts_a_prefix_before_every_path() -> None:
    assert list(flatten({"weight": torch.zeros(1)}, "backbone.")) == ["backbone.weight"]


def test_a_path_through_a_tensor_is_refused() -> None:
    with pytest.raises(KeyError, match="already a tensor"):
        unflatten({"a": torch.zeros(1), "a.b": torch.zeros(1)})


def test_child_is_the_subtree_at_a_path() -> None:
    assert list(child(tree(), "neck.convs.0")) == ["weight", "bias"]


@pytest.mark.parametrize("path", ["scale", "neck.convs.0.weight", "neck.convs.0.weight.x", "neck.absent"])
def test_child_refuses_tensors_and_absent_paths(path: str) -> None:
    with pytest.raises(KeyError):
        child(tree(), path)


def test_leaf_refuses_subtrees_and_absent_names() -> None:
    assert float(leaf(tree(), "scale")) == 3.0
    with pytest.raises(KeyError, match="subtree"):
        leaf(tree(), "neck")
    with pytest.raises(KeyError):
        leaf(tree(), "absent")


def test_map_leaves_keeps_the_paths_and_leaves_the_original_alone() -> None:
    original = tree()
    doubled = flatten(map_leaves(lambda tensor: tensor * 2, original))
    assert list(doubled) == list(flatten(original))
    assert float(doubled["scale"]) == 6.0
    assert float(leaf(original, "scale")) == 3.0


def numbers(seed: int, path: str) -> Tensor:
    return torch.randn(8, generator=generator_for(seed, path))


def test_a_leafs_random_numbers_depend_on_its_seed_and_path_alone() -> None:
    assert torch.equal(numbers(0, "a.weight"), numbers(0, "a.weight"))
    for other in (numbers(1, "a.weight"), numbers(0, "b.weight"), numbers(0, "a.weigh")):
        assert not torch.equal(numbers(0, "a.weight"), other)


def test_random_numbers_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    numbers(0, "a.weight")
    assert torch.equal(torch.random.get_rng_state(), before)

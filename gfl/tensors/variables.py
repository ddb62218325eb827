"""The tree of variables: a nested dict of tensors whose paths are mmdetection's state-dict keys."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Variables: TypeAlias = dict[str, "Tensor | Variables"]


def child(tree: Variables, path: str) -> Variables:
    """The subtree at a dotted path, e.g. `child(variables, "layer2.0")`; KeyError when absent."""
    node: Tensor | Variables = tree
    for name in path.split("."):
        if isinstance(node, Tensor):
            raise KeyError(f"{path}: {name} lies below a tensor")
        node = node[name]
    if isinstance(node, Tensor):
        raise KeyError(f"{path}: a tensor, expected a subtree")
    return node


def leaf(tree: Variables, name: str) -> Tensor:
    """The tensor directly below a node; KeyError when absent or when it is a subtree."""
    node = tree[name]
    if not isinstance(node, Tensor):
        raise KeyError(f"{name}: a subtree, expected a tensor")
    return node


def flatten(tree: Variables, prefix: str = "") -> dict[str, Tensor]:
    """Nested dict -> {dotted path: tensor}, in the tree's own order."""
    flat: dict[str, Tensor] = {}
    for name, node in tree.items():
        if isinstance(node, Tensor):
            flat[prefix + name] = node
        else:
            flat.update(flatten(node, f"{prefix}{name}."))
    return flat


def unflatten(flat: Mapping[str, Tensor]) -> Variables:
    """{dotted path: tensor} -> nested dict; the inverse of `flatten`."""
    tree: Variables = {}
    for path, tensor in flat.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            below = node.setdefault(parent, {})
            if isinstance(below, Tensor):
                raise KeyError(f"{path}: {parent} is already a tensor")
            node = below
        node[name] = tensor
    return tree


def map_leaves(function: Callable[[Tensor], Tensor], tree: Variables) -> Variables:
    """A new tree of the same paths, `function` applied to every tensor."""
    return {
        name: function(node) if isinstance(node, Tensor) else map_leaves(function, node) for name, node in tree.items()
    }


def generator_for(seed: int, path: str) -> torch.Generator:
    """The random generator of the leaf at a path: each has its own, so that a new layer changes no other's numbers."""
    # The seed goes into the 32-bit checksum, because the CPU's generator ignores all but the low 32 bits of its seed.
    return torch.Generator().manual_seed(zlib.crc32(path.encode(), seed))

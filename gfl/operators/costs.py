"""What one picture costs a model, layer by layer: counted on tensors without values, so that any size takes seconds.

Letters: B pictures, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gfl.model import detector
from gfl.model.detector import DetectorConfig
from gfl.shapes import Canvas
from gfl.tensors.variables import flatten

aten = torch.ops.aten
SAMPLING = (aten._embedding_bag.default, aten._embedding_bag_forward_only.default)  # gfl/tensors/deform.py


class Layer(NamedTuple):
    """One call of a convolution or matrix product; a layer that the pyramid's levels share is called once a level."""

    path: str  # of its variables, e.g. 'backbone.layer1.0.conv1'
    output: tuple[int, ...]  # (B,C,H,W), or of a matrix product (rows, C)
    macs: int  # multiply-accumulates, of all pictures
    field_px: int  # receptive field: the side of the square of the picture that one of its outputs can depend on

    @property
    def numbers(self) -> int:
        """How many it puts out."""
        return math.prod(self.output)


class Span(NamedTuple):
    """From the first to the last value of one map that a value is computed from."""

    step_px: int = 1  # the map's values are so far apart; of one that was enlarged: those before
    reach_px: int = 0


class Way(NamedTuple):
    """A way from the picture to a value through maps that are enlarged: the last span is in the map of the value."""

    spans: tuple[Span, ...] = (Span(),)

    @property
    def field_px(self) -> int:
        """The side of all that the value can see. Neighbours in an enlarged map may see the same, or one step more."""
        reach_px = 0
        for span in reversed(self.spans):
            reach_px = -(-(span.reach_px + reach_px) // span.step_px) * span.step_px
        return reach_px + 1

    def farther(self, reach_px: int) -> Way:
        """The way to a value that is computed from others of this map, so far apart."""
        *before, last = self.spans
        return Way((*before, last._replace(reach_px=last.reach_px + reach_px)))


class View(NamedTuple):
    """What a value of a feature map sees of the picture, along one axis."""

    ways: frozenset[Way] = frozenset({Way()})
    apart_px: int = 1  # between what two neighbours see
    points_px: int = 0  # in what a deformable layer sampled: between the points of a window, without their offsets

    @property
    def field_px(self) -> int:
        """The side of all that it can see."""
        return max(way.field_px for way in self.ways)


class CostTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its __init_subclass__ untyped
    """A context that lists the layers called within it, and what each of them sees.

    A deformable layer sees what it would with offsets of zero. What a group norm's mean adds, a little of everything,
    is no part of a receptive field.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """weights: by path; only products with these are layers."""
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.layers: list[Layer] = []
        # By id: a tensor is kept beside what is known of it, so that no other one gets its id.
        self._paths = {id(tensor): (tensor, path.removesuffix(".weight")) for path, tensor in weights.items()}
        self._views: dict[int, tuple[Tensor, View]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves((args, dict(kwargs or {}))) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        seen = self._seen(func, args, inputs)
        path = next((self._paths[id(tensor)][1] for tensor in inputs if id(tensor) in self._paths), None)
        for output in outputs:
            self._views[id(output)] = (output, seen)
            if path is not None and func.is_view:
                self._paths[id(output)] = (output, path)
        if path is not None and func in (aten.convolution.default, aten.addmm.default, aten.mm.default):
            self.layers.append(Layer(path, tuple(outputs[0].shape), macs_of(func, inputs, outputs[0]), seen.field_px))
        return result

    def _seen(self, func: OpOverload, args: Sequence[object], inputs: Sequence[Tensor]) -> View:
        """What an output of an operator sees."""
        views = [self._views[id(tensor)][1] for tensor in inputs if id(tensor) in self._views]
        ways = _farthest(way for view in views for way in view.ways) or View().ways
        before = View(
            ways, max((view.apart_px for view in views), default=1), max((view.points_px for view in views), default=0)
        )
        sizes = cast(Sequence[Sequence[int]], args)  # the arguments after the tensors
        if func is aten.upsample_nearest2d.default:
            apart_px = before.apart_px * inputs[0].shape[-1] // sizes[1][1]  # the new width
            return View(frozenset(Way((*way.spans, Span(before.apart_px))) for way in ways), apart_px)
        if func in SAMPLING:
            pixels = self._views[id(args[0])][1]  # where the offsets come from lies within the window, if they are zero
            return View(pixels.ways, before.apart_px, pixels.apart_px)
        if func is aten.convolution.default:
            kernel, stride = inputs[1].shape[-1], sizes[3][0]
            if before.points_px:  # its window is what was sampled for it, and its stride was taken there
                return View(frozenset(way.farther((kernel - 1) * before.points_px) for way in ways), before.apart_px)
        elif func is aten.max_pool2d_with_indices.default:
            kernel, stride = sizes[1][0], sizes[2][0]
        else:
            return before
        reach_px = (kernel - 1) * before.apart_px
        return View(frozenset(way.farther(reach_px) for way in ways), before.apart_px * stride)


def _farthest(ways: Iterable[Way]) -> frozenset[Way]:
    """Of ways through the same maps, the one that goes farthest in the last."""
    found: dict[tuple[Span, ...], Way] = {}
    for way in ways:
        *before, last = way.spans
        maps = (*before, Span(last.step_px))
        found[maps] = max(found.get(maps, way), way, key=lambda each: each.spans[-1].reach_px)
    return frozenset(found.values())


def macs_of(func: OpOverload, inputs: Sequence[Tensor], output: Tensor) -> int:
    """Multiply-accumulates of a convolution (inputs: x, weight, ...) or a matrix product."""
    if func is aten.convolution.default:
        return output.numel() * math.prod(inputs[1].shape[1:])
    first = inputs[-2]  # addmm has the bias before the matrices
    return first.shape[0] * first.shape[1] * output.shape[1]


def layers_of(cfg: DetectorConfig, canvas: Canvas, pictures: int = 1) -> list[Layer]:
    """The layers of a forward pass from normalised pictures to the head's outputs, in order."""
    with FakeTensorMode(), torch.no_grad():
        variables = detector.init(cfg)
        prepared = detector.prepare(variables, detector.freeze(variables, cfg))
        images = torch.empty(pictures, 3, *canvas)
        weights = {path: leaf for path, leaf in flatten(prepared.tree).items() if path.endswith("weight")}
        trace = CostTrace(weights)
        with trace:
            detector.forward(prepared, images, cfg)
    return trace.layers

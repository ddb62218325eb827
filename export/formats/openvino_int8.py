"""OpenVINO's int8 by NNCF: the convolutions that `export.quantise` makes int8, and what lies between them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

import onnx

from export.formats.interface import Conversion
from export.formats.quiet import quiet
from export.quantise import quantised_nodes
from export.samples import read_feeds
from gfl.packages import import_package

WITH_BIAS = "/WithoutBiases"  # behind the name of a convolution whose bias is added after it, by the name itself


class Operation(Protocol):
    """One of a model of OpenVINO's."""

    def get_friendly_name(self) -> str: ...


class Model(Protocol):
    """The part of OpenVINO's model that is used here."""

    def get_ops(self) -> Iterable[Operation]: ...
    def set_rt_info(self, value: str, path: list[str]) -> None: ...


def quantised(model: Model, job: Conversion) -> Model:
    """A copy of a model that OpenVINO made of the job's .onnx, with ranges seen on the job's pictures."""
    nncf = import_package("nncf", "int8 of OpenVINO needs the package nncf, which", "install it again")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # it names each node that stays in float32
    chosen = set(quantised_nodes(onnx.load(job.source)))
    names = [operation.get_friendly_name() for operation in model.get_ops()]
    others = [name for name in names if name.removesuffix(WITH_BIAS) not in chosen]
    feeds = list(read_feeds(job.calibration, job.description))
    with quiet():
        copy: Model = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            preset=nncf.QuantizationPreset.MIXED,  # two-sided ranges for weights, one-sided for what follows a ReLU
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),  # it knows no constants and no results
        )
    return copy

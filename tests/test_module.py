"""The nn.Module: every leaf under its own name, forward = the loss, one graph for torch.compile."""

from __future__ import annotations

import pytest
import torch
from tiny import CANVAS, detector_config, make_batch

from gfl.engine.module import DetectorModule
from gfl.model import detector
from gfl.model.anchors import make_grid
from gfl.model.backbones import resnet
from gfl.model.detector import DetectorConfig
from gfl.settings import RunConfig
from gfl.tensors.precision import O1
from gfl.tensors.variables import child, flatten, map_leaves

CPU = torch.device("cpu")
NORMS = ("gn", "frozen_bn")


def module_of(cfg: DetectorConfig, seed: int = 0) -> DetectorModule:
    return DetectorModule(detector.init(cfg, seed), cfg, [CANVAS], CPU)


@pytest.mark.parametrize("norm", NORMS)
def test_leaves_are_registered_under_their_own_names(norm: str) -> None:
    cfg = detector_config(norm)
    variables, module = flatten(detector.init(cfg)), module_of(cfg)
    assert module.state_dict().keys() == variables.keys()
    assert {path: tensor.shape for path, tensor in module.leaves().items()} == {
        path: tensor.shape for path, tensor in variables.items()
    }
    assert all(torch.equal(module.leaves()[path], tensor) for path, tensor in variables.items())


def test_frozen_leaves_are_buffers_and_the_others_parameters() -> None:
    cfg = detector_config("frozen_bn")
    module = module_of(cfg)
    buffers = {path for path, _ in module.named_buffers()}
    assert buffers == {path for path in module.leaves() if detector.is_frozen(path, cfg)}
    assert {"backbone.conv1.weight", "backbone.layer1.0.conv1.weight", "backbone.layer2.0.bn1.running_mean"} <= buffers
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("norm", NORMS)
def test_frozen_backbone_has_no_parameter_and_builds_no_graph(norm: str) -> None:
    cfg = RunConfig(detector=detector_config(norm), freeze="backbone").for_classes(3).detector
    module = module_of(cfg)
    assert {path.partition(".")[0] for path, _ in module.named_parameters()} == {"neck", "bbox_head"}
    prepared = detector.prepare(module.variables(), module.constants)
    features = resnet.apply(child(prepared.tree, "backbone"), torch.ones(1, 3, *CANVAS), cfg.backbone)
    assert not any(feature.requires_grad for feature in features)
    module(make_batch())[0].backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_without_frozen_stages_everything_is_a_parameter() -> None:
    assert list(module_of(detector_config("gn")).buffers()) == []


def test_variables_are_the_parameters_themselves() -> None:
    module = module_of(detector_config())
    live = flatten(module.variables())
    assert all(live[path] is parameter for path, parameter in module.named_parameters())


def test_module_shares_no_memory_with_the_variables_it_was_made_of() -> None:
    cfg = detector_config()
    variables = detector.init(cfg)
    module = DetectorModule(variables, cfg, [CANVAS], CPU)
    with torch.no_grad():
        for tensor in flatten(variables).values():
            tensor.fill_(7.0)
    assert not any((leaf == 7.0).all() for leaf in module.leaves().values())


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_filters_and_their_gradients_lie_in_the_format_of_the_device(
    memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gfl.engine.module.convolution_format", lambda *_: memory_format)
    module = module_of(detector_config())
    module(make_batch())[0].backward()
    weight = module.leaves()["backbone.layer2.0.conv1.weight"]
    assert weight.is_contiguous(memory_format=memory_format)
    assert weight.grad is not None
    assert weight.grad.stride() == weight.stride()  # torch's fused optimisers for CPUs are wrong where they differ


@pytest.mark.parametrize("norm", NORMS)
def test_forward_is_the_pure_loss(norm: str) -> None:
    cfg = detector_config(norm)
    variables, batch = detector.init(cfg), make_batch()
    total, parts = module_of(cfg)(batch)
    prepared = detector.prepare(variables, detector.freeze(variables, cfg))
    expected, expected_parts = detector.loss(prepared, batch, make_grid(CANVAS), cfg)
    torch.testing.assert_close(total, expected)  # another memory format: other kernels
    torch.testing.assert_close(parts, expected_parts)


def test_forward_computes_in_the_dtype_of_the_policy() -> None:
    cfg = detector_config()
    variables = map_leaves(lambda leaf: leaf.clone(), detector.init(cfg))
    half = DetectorModule(variables, cfg, [CANVAS], CPU, policy=O1)(make_batch())[0]
    full = module_of(cfg)(make_batch())[0]
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs() < 0.05 * full


def test_canvas_met_for_the_first_time_gets_its_grid() -> None:
    cfg = detector_config()
    module = DetectorModule(detector.init(cfg), cfg, [], CPU)
    module(make_batch())
    assert list(module.grids) == [CANVAS]


def test_normalisers_go_through_reduce() -> None:
    """Twice the normalisers over all ranks: half the loss."""
    cfg = detector_config()
    doubled = DetectorModule(detector.init(cfg), cfg, [CANVAS], CPU, reduce=lambda normalisers: normalisers * 2)
    torch.testing.assert_close(2 * doubled(make_batch())[0], module_of(cfg)(make_batch())[0])


def test_constants_follow_the_weights_put_in_place_of_the_first() -> None:
    cfg = detector_config("frozen_bn")
    module, other = module_of(cfg), module_of(cfg, seed=1)
    module.load_state_dict(other.state_dict())
    assert not torch.equal(module(make_batch())[0], other(make_batch())[0])
    module.freeze()
    assert torch.equal(module(make_batch())[0], other(make_batch())[0])

"""A stand-in for Apex, which cannot be installed here: the documented surface of `apex.amp` at O1. It is not Apex.

It does on the CPU what Apex does on its devices: attributes of torch, torch.nn.functional and torch.Tensor are replaced
by functions that cast what they are given (float16 for convolutions and products, float32 for softmax, norms, sums and
powers, the widest type for sequences), the half copy of a Parameter is kept until the loss has gone backward, a static
scale steps over no overflow, a dynamic one puts a step that does nothing in the optimiser's place.
`fault=True` looks for the owner of a kept copy where torch 1.x had it; `combine_grad=True` is Ascend's.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Cast = Callable[[object], object]

HALF = {F: ("conv2d", "linear"), torch: ("conv2d", "mm", "matmul", "addmm", "bmm"), Tensor: ("__matmul__", "bmm", "mm")}
FLOAT = {
    F: ("interpolate", "softmax", "log_softmax", "group_norm"),
    torch: ("exp", "log", "pow", "rsqrt", "sum", "norm"),
    Tensor: ("__pow__", "exp", "log", "pow", "rsqrt", "sum", "norm"),
}
SEQUENCES = {torch: ("cat", "stack")}


def to_half(x: object) -> object:
    return x.half() if isinstance(x, Tensor) and x.dtype == torch.float32 else x


def to_float(x: object) -> object:
    return x.float() if isinstance(x, Tensor) and x.dtype == torch.float16 else x


class Amp(types.ModuleType):
    """`apex.amp`, and notes of what was asked of it."""

    def __init__(self, *, fault: bool = False, casts: bool = True, refuses: str = "") -> None:
        super().__init__("apex.amp")
        self.fault, self.casts, self.refuses = fault, casts, refuses
        self.asked: dict[str, object] = {}  # of initialize
        self.seen: dict[str, set[torch.dtype]] = {}  # dtypes that the functions behind the patches computed in
        self.active = False
        self.cache: dict[Tensor, Tensor] = {}
        self.combined: Tensor | None = None

    # ---- the documented surface ----

    def initialize(
        self,
        models: nn.Module,
        optimizers: torch.optim.Optimizer,
        opt_level: str = "O1",
        loss_scale: float | str | None = None,
        verbosity: int = 1,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        self.asked = {"models": models, "optimizers": optimizers, "opt_level": opt_level, "loss_scale": loss_scale}
        if self.refuses:
            raise RuntimeError(self.refuses)
        if isinstance(models, DistributedDataParallel):
            raise RuntimeError("Parallel wrappers should only be applied to the model AFTER amp.initialize.")
        self.dynamic = loss_scale in (None, "dynamic")
        self.loss_scale = 2.0**16 if self.dynamic else float(loss_scale)  # type: ignore[arg-type]  # not None here
        self.unskipped = 0
        self.active = self.casts
        self.parameters = [p for group in optimizers.param_groups for p in group["params"]]
        self.stash: list[Tensor | None] = [None] * len(self.parameters)
        self.have_scaled = False
        usual = optimizers.step

        def step(_: torch.optim.Optimizer, *args: object) -> object:
            with self.disable_casts():
                return usual(*args)

        optimizers.step = types.MethodType(step, optimizers)  # type: ignore[method-assign]  # as Apex does
        return models, optimizers

    @contextmanager
    def scale_loss(
        self, loss: Tensor, optimizers: torch.optim.Optimizer, delay_unscale: bool = False
    ) -> Iterator[Tensor]:
        if not delay_unscale and not self.have_scaled:
            self._set_aside()
        yield loss.float() * self.loss_scale
        self.have_scaled = delay_unscale
        if not delay_unscale and self._unscale():
            self._skip_next(optimizers)
        self.cache.clear()

    @contextmanager
    def disable_casts(self) -> Iterator[None]:
        was, self.active = self.active, False
        yield
        self.active = was

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"loss_scaler0": {"loss_scale": self.loss_scale, "unskipped": self.unskipped}}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        self.loss_scale = state["loss_scaler0"]["loss_scale"]
        self.unskipped = int(state["loss_scaler0"]["unskipped"])

    # ---- gradients ----

    def _set_aside(self) -> None:
        for index, parameter in enumerate(self.parameters):
            self.stash[index], parameter.grad = parameter.grad, None

    def _unscale(self) -> bool:
        """Divide the gradients and add those set aside; whether the step is to be skipped."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        overflow = self.dynamic and not all(bool(gradient.isfinite().all()) for gradient in gradients)
        for gradient in gradients:
            gradient.mul_(1.0 / self.loss_scale)
        for index, (parameter, before) in enumerate(zip(self.parameters, self.stash, strict=True)):
            if before is not None:
                parameter.grad = before if parameter.grad is None else parameter.grad + before
            self.stash[index] = None
        if overflow:
            self.loss_scale, self.unskipped = self.loss_scale / 2, 0
        else:
            self.unskipped += 1
        return overflow

    def _skip_next(self, optimiser: torch.optim.Optimizer) -> None:
        usual = optimiser.step

        def skip_step(closure: None = None) -> None:
            optimiser.step = usual  # type: ignore[method-assign]  # as Apex does

        optimiser.step = skip_step  # type: ignore[assignment,method-assign]  # as Apex does

    # ---- casts ----

    def kept_half(self, x: object) -> object:
        """The half copy of a Parameter, made once; of other tensors a new one."""
        if not isinstance(x, nn.Parameter) or x.dtype != torch.float32:
            return to_half(x)
        if x in self.cache:
            kept = self.cache[x]
            if x.requires_grad and kept.requires_grad:
                index = 1 if self.fault else 0
                if kept.grad_fn.next_functions[index][0].variable is not x:  # type: ignore[union-attr]  # a cast has one
                    raise RuntimeError("x and cache[x] both require grad, but x is not cache[x]'s parent.")
            if not torch.is_grad_enabled() or x.requires_grad == kept.requires_grad:
                return kept
        self.cache[x] = x.half()
        return self.cache[x]

    def patched(self, original: Callable[..., object], cast: Cast) -> Callable[..., object]:
        @functools.wraps(original)
        def wrapper(*args: object, **kwargs: object) -> object:
            if self.active:
                args = tuple(cast(x) for x in args)
                kwargs = {name: cast(x) for name, x in kwargs.items()}
            dtypes = {x.dtype for x in args if isinstance(x, Tensor)}
            self.seen.setdefault(original.__name__, set()).update(dtypes)
            return original(*args, **kwargs)

        return wrapper

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owners, cast in ((HALF, self.kept_half), (FLOAT, to_float)):
            for owner, names in owners.items():
                for name in names:
                    monkeypatch.setattr(owner, name, self.patched(getattr(owner, name), cast))
        for owner, names in SEQUENCES.items():
            for name in names:
                monkeypatch.setattr(owner, name, widest(getattr(owner, name)))
        monkeypatch.setattr(F, "binary_cross_entropy", banned(F.binary_cross_entropy))


class AscendAmp(Amp):
    """With Ascend's addition: all gradients lie in one tensor, which stays where it is from step to step."""

    def initialize(  # type: ignore[override]  # with an argument more
        self,
        models: nn.Module,
        optimizers: torch.optim.Optimizer,
        opt_level: str = "O1",
        loss_scale: float | str | None = None,
        verbosity: int = 1,
        combine_grad: bool | None = None,
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        found = super().initialize(models, optimizers, opt_level, loss_scale, verbosity)
        self.asked["combine_grad"] = combine_grad
        self._patch_zero_grad(optimizers)
        return found

    def _patch_zero_grad(self, optimizers: torch.optim.Optimizer) -> None:
        usual = optimizers.zero_grad

        def zero_grad(_: torch.optim.Optimizer) -> None:  # takes no set_to_none, as Ascend's
            if self.combined is None:
                usual()
            else:
                self.combined.zero_()

        optimizers.zero_grad = types.MethodType(zero_grad, optimizers)  # type: ignore[method-assign]  # as Apex does

    def _set_aside(self) -> None:
        """They are zero: the run calls zero_grad after a step, and delays the unscaling within one."""
        if self.combined is not None and bool(self.combined.any()):
            raise RuntimeError("gradients are left from the last step")

    def _unscale(self) -> bool:
        if self.combined is None:
            self._combine()
        elif not all(self._is_combined(parameter) for parameter in self.parameters):
            raise RuntimeError("a gradient has left the combined tensor")
        return super()._unscale()

    def _combine(self) -> None:
        """Each gradient keeps a storage of its own, whose address lies within the combined tensor's memory."""
        self.combined = torch.zeros(sum(parameter.numel() for parameter in self.parameters))
        memory, start = self.combined.numpy(), 0
        for parameter in self.parameters:
            part = torch.from_numpy(memory[start : start + parameter.numel()])
            part = part.as_strided(parameter.shape, parameter.stride())
            part.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
            parameter.grad = part
            start += parameter.numel()

    def _is_combined(self, parameter: Tensor) -> bool:
        gradient, combined = parameter.grad, self.combined
        if gradient is None or combined is None:
            return False
        offset = gradient.data_ptr() - combined.data_ptr()
        return 0 <= offset < combined.numel() * combined.element_size()


class ForgetfulAmp(AscendAmp):
    """As AscendAmp, but zero_grad is the optimiser's own, and what is unscaled is the combined tensor wherever the
    gradients are: as we read an older one, which we have not run.
    """

    def _patch_zero_grad(self, optimizers: torch.optim.Optimizer) -> None:
        pass

    def _set_aside(self) -> None:
        pass

    def _is_combined(self, parameter: Tensor) -> bool:
        return True


def widest(original: Callable[..., object]) -> Callable[..., object]:
    """torch.cat and torch.stack: all halves become float32 as soon as one tensor is."""

    @functools.wraps(original)
    def wrapper(sequence: list[Tensor], *args: object, **kwargs: object) -> object:
        if {torch.float16, torch.float32} <= {x.dtype for x in sequence}:
            sequence = [x.float() for x in sequence]
        return original(sequence, *args, **kwargs)

    return wrapper


def banned(original: Callable[..., object]) -> Callable[..., object]:
    """F.binary_cross_entropy: never on half."""

    @functools.wraps(original)
    def wrapper(*args: object, **kwargs: object) -> object:
        if any(isinstance(x, Tensor) and x.dtype == torch.float16 for x in (*args, *kwargs.values())):
            raise NotImplementedError("amp does not work out-of-the-box with `F.binary_cross_entropy`")
        return original(*args, **kwargs)

    return wrapper


def install(monkeypatch: pytest.MonkeyPatch, amp: Amp) -> Amp:
    """Make it what `import apex.amp` finds, with its patches in place, until the test is over."""
    package = types.ModuleType("apex")
    package.__spec__ = ModuleSpec("apex", None, is_package=True)
    package.__path__ = []
    package.amp = amp  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.amp", amp)
    amp.patch(monkeypatch)
    return amp

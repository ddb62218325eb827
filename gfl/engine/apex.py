"""O1 by an installed Apex (APEX = True). The one file that names apex.

`apex.amp` is that of Ascend, or of NVIDIA up to tag 25.06; PyPI's package called apex is another program. Apex patches
functions of torch and torch.nn.functional to cast their arguments, so the prepared weights stay float32.
With a static loss scale neither Apex looks for overflow: the gradients are checked here, as without Apex.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfl.engine.optim import LossScale, Reduce
from gfl.errors import InputError, first_line
from gfl.model.detector import identity

REQUIRED = ("initialize", "scale_loss", "state_dict", "load_state_dict", "disable_casts")  # of apex.amp
# Passed to `amp.initialize` where it has them: Ascend's then unscales all gradients as one tensor; nothing is printed.
OPTIONS: dict[str, object] = {"combine_grad": True, "verbosity": 0}


class ApexLossScale(LossScale):
    """The loss scale that Apex keeps, behind the methods of `LossScale`.

    combines: whether Apex holds all gradients as one tensor. Each rank has a dynamic scale of its own; they stay
    equal, because the gradients in which Apex looks for overflow are the ranks' mean.
    """

    def __init__(
        self,
        amp: ModuleType,
        optimiser: torch.optim.Optimizer,
        setting: float | str,
        device: torch.device,
        reduce_overflow: Reduce = identity,
        *,
        combines: bool = False,
    ) -> None:
        super().__init__(setting, device, reduce_overflow)
        self.amp, self.optimiser = amp, optimiser
        self.usual_step = optimiser.step  # as `initialize` left it; Apex replaces it for a step that it skips
        self.one = torch.ones((), device=device)
        self.combines = combines
        self.addresses: list[int] = []  # where the gradients lie in memory, if Apex combines them

    def backward(self, total: Tensor, *, last: bool = True) -> None:
        """Add the gradients of the scaled loss to `.grad`, and divide them by the scale after the last batch.

        If Apex unscaled after each batch, it would move the earlier gradients out of `.grad`, where
        DistributedDataParallel averages them.
        """
        with self.amp.scale_loss(total, self.optimiser, delay_unscale=not last) as scaled:
            scaled.backward()

    def unscale(self, gradients: list[Tensor]) -> None:
        """Set `found_inf` to 1 if a gradient is not finite or Apex skips the step; Apex has unscaled them already.

        Raises InputError where the gradients are no longer in the tensor that Apex unscales.
        """
        self._check_combined(gradients)
        self.found_inf.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_inf, self.one)
        if self.optimiser.step != self.usual_step:  # a dynamic scale; Apex has read the device to know
            self.found_inf.fill_(1.0)
        self._count_skipped()

    def update(self) -> None:
        """Nothing: Apex changed its scale at the end of the backward pass."""

    def _check_combined(self, gradients: list[Tensor]) -> None:
        """Ascend's Apex moves the gradients into one tensor at the first step, and from then on unscales that one."""
        if not self.combines:
            return
        addresses = [gradient.data_ptr() for gradient in gradients]
        self.addresses = self.addresses or addresses
        if addresses != self.addresses:
            raise _refusal(
                "the installed Apex combines the gradients into one tensor and does not keep them there (an older one "
                "leaves the optimiser's zero_grad as it is)"
            )

    def state_dict(self) -> dict[str, object]:
        """Apex's own state beside the count of skipped steps."""
        return {"setting": self.setting, "skipped": self.skipped, "apex": self.amp.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Load the count of skipped steps, and Apex's own state where it was saved under the same setting."""
        self._restore(state, ("skipped",))
        if state.get("setting") == self.setting and "apex" in state:
            self.amp.load_state_dict(state["apex"])

    def without_casts(self) -> AbstractContextManager[None]:
        """A context in which the patched functions compute in the dtypes of their arguments."""
        casts: AbstractContextManager[None] = self.amp.disable_casts()
        return casts


def start_apex(
    module: nn.Module, optimiser: torch.optim.Optimizer, setting: float | str, reduce_overflow: Reduce = identity
) -> ApexLossScale:
    """Let Apex patch torch for O1: once in a process, before the module is wrapped in DistributedDataParallel.

    setting: a positive number, or 'dynamic'; reduce_overflow: as in `LossScale`.
    Raises InputError, with the reason and what to do, when the installed Apex, if any, cannot do it.
    """
    amp = _import_amp()
    parameters = inspect.signature(amp.initialize).parameters
    options = {name: value for name, value in OPTIONS.items() if name in parameters}
    try:
        amp.initialize(module, optimiser, opt_level="O1", loss_scale=setting, **options)
    except RuntimeError as error:  # Apex's own checks: of the device, say
        raise _refusal(f"Apex refuses ({first_line(error)})") from error
    device = next(module.parameters()).device
    _try_casts(device)
    return ApexLossScale(amp, optimiser, setting, device, reduce_overflow, combines="combine_grad" in options)


def _import_amp() -> ModuleType:
    """The module apex.amp; InputError when it is missing, or another program's."""
    if importlib.util.find_spec("apex") is None:
        raise _refusal("no Apex is installed")
    try:
        amp = importlib.import_module("apex.amp")
    except ImportError as error:
        reason = f"cannot be imported ({first_line(error)})"
        if isinstance(error, ModuleNotFoundError) and error.name == "apex.amp":
            reason = "has no amp (PyPI's apex is another program, and NVIDIA's lost it after 25.06)"
        raise _refusal(f"the installed package apex {reason}") from error
    if missing := [name for name in REQUIRED if not hasattr(amp, name)]:
        raise _refusal(f"the installed apex.amp has no {', '.join(missing)}")
    return amp


def _try_casts(device: torch.device) -> None:
    """Use one weight twice, as the head does on its five levels; InputError when Apex fails at it.

    Apex caches the float16 copy of a weight for the iteration. On the second use it checks which weight the copy is
    of by `grad_fn.next_functions[1]`, as in torch 1.x; in later versions that is `next_functions[0]`, and there is
    no second.
    """
    weight = nn.Parameter(torch.ones((1, 1, 1, 1), device=device))
    x = torch.ones((1, 1, 1, 1), device=device)
    try:
        outputs = [F.conv2d(x, weight) for _ in range(2)]
        torch.autograd.backward(outputs[0].float() + outputs[1].float())
    except (IndexError, AttributeError, RuntimeError) as error:
        raise _refusal(
            f"the installed Apex fails at the second use of one weight ({type(error).__name__}: {first_line(error)}), "
            f"a fault of its cache under torch {torch.__version__}"
        ) from error
    if {output.dtype for output in outputs} != {torch.float16}:
        raise _refusal(f"the installed Apex casts no convolution on {device.type}")
    if weight.grad is None or float(weight.grad) != 2.0:
        raise _refusal(f"the installed Apex gives a weight used twice the gradient {weight.grad}, expected 2")


def _refusal(reason: str) -> InputError:
    """The error for an Apex that the run cannot use: why, and the way out."""
    way_out = "give APEX = False, and PRECISION = 'o1' runs the same recipe without Apex"
    return InputError(f"APEX = True: {reason}; {way_out}")

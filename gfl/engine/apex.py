"""O1 by an installed Apex (APEX = True). The one file that names apex.

`apex.amp` is that of Ascend, or of NVIDIA up to tag 25.06; PyPI's package of the name is something else. Apex patches
functions of torch and torch.nn.functional to cast what they are given, so the prepared tree stays float32 meanwhile.
Under a static scale neither Apex looks for an overflow: the gradients are checked here, as they are without Apex.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gfl.engine.optim import LossScale, own
from gfl.errors import InputError, first_line

USED = ("initialize", "scale_loss", "state_dict", "load_state_dict", "disable_casts")  # of apex.amp
WAY_OUT = "give APEX = False, and PRECISION = 'o1' runs the same recipe without Apex"
# Of `amp.initialize`, where it takes them: Ascend's unscales all gradients as one tensor; nothing is printed.
OPTIONS: dict[str, object] = {"combine_grad": True, "verbosity": 0}


class ApexLossScale(LossScale):
    """The loss scale as Apex keeps it; what is asked of it is what `LossScale` offers.

    A dynamic scale is each rank's own, and they stay equal: the gradients that Apex looks at are the ranks' mean.
    """

    def __init__(
        self,
        amp: ModuleType,
        optimiser: torch.optim.Optimizer,
        setting: float | str,
        device: torch.device,
        share: Callable[[Tensor], Tensor] = own,
        *,
        combines: bool = False,
    ) -> None:
        super().__init__(setting, device, share)
        self.amp, self.optimiser = amp, optimiser
        self.usual_step = optimiser.step  # as Apex left it; it stands another in its place to skip a step
        self.one = torch.ones((), device=device)
        self.combines = combines
        self.addresses: list[int] = []  # of the gradients in memory, where Apex holds them as one tensor

    def backward(self, total: Tensor, *, last: bool = True) -> None:
        """Add the gradients of the scaled loss to those that are there, and divide all by the scale after the last.

        Unscaled after each, Apex would set those before aside, out of sight of what averages them over the ranks.
        """
        with self.amp.scale_loss(total, self.optimiser, delay_unscale=not last) as scaled:
            scaled.backward()

    def unscale(self, gradients: list[Tensor]) -> None:
        """found_inf becomes 1 where a gradient is not finite or Apex skips the step; the gradients stay.

        Raises InputError where Apex unscales other gradients than these.
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
        """Ascend's Apex points the gradients into one tensor at the first step, and unscales that one ever after."""
        if not self.combines:
            return
        addresses = [gradient.data_ptr() for gradient in gradients]
        self.addresses = self.addresses or addresses
        if addresses != self.addresses:
            raise InputError(
                "APEX = True: the installed Apex combines the gradients into one tensor and does not keep them there "
                f"(an older one leaves the optimiser's zero_grad as it is); {WAY_OUT}"
            )

    def state_dict(self) -> dict[str, object]:
        """Apex's own state beside the count of skipped steps."""
        return {"setting": self.setting, "skipped": self.skipped, "apex": self.amp.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a saved state: the count, and Apex's own state where it was saved under the same setting."""
        self._restore(state, ("skipped",))
        if state.get("setting") == self.setting and "apex" in state:
            self.amp.load_state_dict(state["apex"])

    def without_casts(self) -> AbstractContextManager[None]:
        """Within it the patched functions compute in the dtypes that they are given."""
        casts: AbstractContextManager[None] = self.amp.disable_casts()
        return casts


def start_apex(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    setting: float | str,
    share: Callable[[Tensor], Tensor] = own,
) -> ApexLossScale:
    """Let Apex patch torch for O1, once in a process and before DistributedDataParallel.

    Raises InputError, with the reason and the way out, when there is no Apex that can do it.
    """
    amp = _import_amp()
    taken = inspect.signature(amp.initialize).parameters
    options = {name: value for name, value in OPTIONS.items() if name in taken}
    try:
        amp.initialize(module, optimiser, opt_level="O1", loss_scale=setting, **options)
    except RuntimeError as error:  # Apex's own checks: of the device, say
        raise InputError(f"APEX = True: Apex refuses ({first_line(error)}); {WAY_OUT}") from error
    device = next(module.parameters()).device
    _try_casts(device)
    return ApexLossScale(amp, optimiser, setting, device, share, combines="combine_grad" in options)


def _import_amp() -> ModuleType:
    """apex.amp; InputError when it is missing, or not the one that is meant."""
    if importlib.util.find_spec("apex") is None:
        raise InputError(f"APEX = True: no Apex is installed; {WAY_OUT}")
    try:
        amp = importlib.import_module("apex.amp")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "apex.amp":
            raise InputError(
                "APEX = True: the installed package apex has no amp (PyPI's apex is another program, and NVIDIA's "
                f"lost it after 25.06); {WAY_OUT}"
            ) from error
        raise InputError(
            f"APEX = True: the installed package apex cannot be imported ({first_line(error)}); {WAY_OUT}"
        ) from error
    if missing := [name for name in USED if not hasattr(amp, name)]:
        raise InputError(f"APEX = True: the installed apex.amp has no {', '.join(missing)}; {WAY_OUT}")
    return amp


def _try_casts(device: torch.device) -> None:
    """Use one weight twice, as the head does on its levels; InputError when Apex fails at it.

    Apex keeps the half copy of a weight for the iteration, and on its second use looks up whose copy it is where
    torch up to 1.x had that: `grad_fn.next_functions[1]`. In later versions it is the first, and there is no second.
    """
    weight = nn.Parameter(torch.ones((1, 1, 1, 1), device=device))
    x = torch.ones((1, 1, 1, 1), device=device)
    try:
        outputs = [F.conv2d(x, weight) for _ in range(2)]
        torch.autograd.backward(outputs[0].float() + outputs[1].float())
    except (IndexError, AttributeError, RuntimeError) as error:
        raise InputError(
            "APEX = True: the installed Apex fails at the second use of one weight "
            f"({type(error).__name__}: {first_line(error)}), a fault of its cache under torch {torch.__version__}; "
            f"{WAY_OUT}"
        ) from error
    if {output.dtype for output in outputs} != {torch.float16}:
        raise InputError(f"APEX = True: the installed Apex casts no convolution on {device.type}; {WAY_OUT}")
    if weight.grad is None or float(weight.grad) != 2.0:
        raise InputError(
            f"APEX = True: the installed Apex gives a weight used twice the gradient {weight.grad}, expected 2; "
            f"{WAY_OUT}"
        )

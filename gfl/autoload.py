"""torch loads an installed torch_npu by itself as it is imported, and ends in a traceback where that cannot work.

`import gfl` then keeps torch from it, so that gfl.engine.device, asked for the device, says what is missing.
Nothing is imported here: what tells is the packages' metadata and the environment.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

SWITCH = "TORCH_DEVICE_BACKEND_AUTOLOAD"  # torch's own
CANN = "ASCEND_HOME_PATH"  # set by CANN's set_env.sh


def leave_out_torch_npu() -> None:
    """Keep torch, not imported so far, from a torch_npu of another version or without CANN."""
    if "torch" in sys.modules or find_spec("torch_npu") is None:
        return
    if CANN not in os.environ or not same_version("torch_npu", "torch"):
        os.environ.setdefault(SWITCH, "0")


def same_version(*packages: str) -> bool:
    """Whether installed packages agree in the three numbers of their versions."""
    from importlib.metadata import PackageNotFoundError, version  # late: few machines ask, and it is half of `--help`

    try:
        return len({tuple(version(package).split("+")[0].split(".")[:3]) for package in packages}) == 1
    except PackageNotFoundError:
        return False

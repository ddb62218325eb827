"""torch imports an installed torch_npu by itself, and ends in a traceback where that fails: without CANN, say.

`import gfl`, if it comes first, leaves that to gfl.engine.device, which imports torch_npu for the devices 'npu' and
'auto', after the variables that it reads are set, and says what is missing.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

SWITCH = "TORCH_DEVICE_BACKEND_AUTOLOAD"  # torch's own; what a person has set stays


def leave_out_torch_npu() -> None:
    """Keep torch, where it is not imported yet, from an installed torch_npu."""
    if "torch" not in sys.modules and find_spec("torch_npu") is not None:
        os.environ.setdefault(SWITCH, "0")

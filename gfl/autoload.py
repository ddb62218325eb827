"""When torch_npu is imported, and the environment that it is imported in. No torch is imported here.

torch imports an installed torch_npu by itself, and ends in a traceback where that fails, as it does without CANN. If
`import gfl` comes first, torch does not: gfl.engine.device imports torch_npu for DEVICE = 'npu' or 'auto', after it has
set the variables below, and says what is missing.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

SWITCH = "TORCH_DEVICE_BACKEND_AUTOLOAD"  # torch's own; a value that is set already stays
# Read by torch_npu and CANN before they first use the device; values that are set already stay. Kernels are launched
# from a queue of their own, on cores near the device, into memory that can grow.
NPU_ENVIRONMENT = {
    "TASK_QUEUE_ENABLE": "2",
    "CPU_AFFINITY_CONF": "1",
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
}


def leave_out_torch_npu() -> None:
    """Tell torch, if it is not imported yet, not to import an installed torch_npu by itself."""
    if "torch" not in sys.modules and find_spec("torch_npu") is not None:
        os.environ.setdefault(SWITCH, "0")

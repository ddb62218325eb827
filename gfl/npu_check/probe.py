"""What a device offers, as one line of JSON: `python -m gfl.npu_check.probe npu`. A process of its own imports PyTorch.

Exit 2 with one sentence where the device is not there.
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    """Look for the device that the command line names."""
    name = sys.argv[1]
    try:
        import torch  # late: an installed torch_npu without CANN breaks this import

        from gfl.engine.device import choose_device, describe
        from gfl.errors import InputError
    except Exception as error:  # whatever the import runs into is what is missing
        reason = str(error).strip().splitlines()[-1]
        mend = "source CANN's set_env.sh, or uninstall torch_npu where there is no CANN"
        print(f"error: PyTorch cannot be imported ({reason}); {mend}", file=sys.stderr)
        return 2
    try:
        device = choose_device(name)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = 1 if device.type == "cpu" else torch.accelerator.device_count()
    print(json.dumps({"device_name": describe(device), "devices": count, "providers": _providers()}))
    return 0


def _providers() -> list[str]:
    """What the installed onnxruntime was built for; nothing where there is none, or a broken one."""
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


if __name__ == "__main__":
    sys.exit(main())

"""Prints a device's name and number as a line of JSON: `python -m gfl.npu_check.probe npu`.

The check itself imports no PyTorch, for an installed torch_npu without CANN would end it. Exits 2 with one sentence
where the device is not there.
"""

from __future__ import annotations

import json
import sys

from gfl.say import say


def main() -> int:
    """Look for the device that the command line names; 0, or 2 where it is not there."""
    name = sys.argv[1]
    try:
        import torch  # late: this import may fail

        from gfl.engine.device import choose_device, describe
        from gfl.errors import InputError
    except Exception as error:  # whatever it is, it is the reason
        reason = str(error).strip().splitlines()[-1]
        mend = "source CANN's set_env.sh, or uninstall torch_npu where there is no CANN"
        say(f"error: PyTorch cannot be imported ({reason}); {mend}", error=True)
        return 2
    try:
        device = choose_device(name)
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    count = 1 if device.type == "cpu" else torch.accelerator.device_count()
    say(json.dumps({"device_name": describe(device), "devices": count, "providers": _providers()}))
    return 0


def _providers() -> list[str]:
    """The providers of the installed onnxruntime; none where it is absent or broken."""
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


if __name__ == "__main__":
    sys.exit(main())

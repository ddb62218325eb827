"""Generalized Focal Loss V2: a dense object detector as pure functions over a tree of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfl.autoload import leave_out_torch_npu
from gfl.version import VERSION

if TYPE_CHECKING:
    from gfl.runtime.detect import load as load

__version__ = VERSION

leave_out_torch_npu()


def __dir__() -> list[str]:
    return [*globals(), "load"]


def __getattr__(name: str) -> object:
    """`gfl.load`, found when it is first asked for: `import gfl` alone loads nothing heavy."""
    if name == "load":
        from gfl.runtime.detect import load

        return load
    raise AttributeError(f"module 'gfl' has no attribute {name!r}")

"""Packages that not every installation has, imported where they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from gfl.errors import InputError


def import_package(module: str, needed: str, mend: str) -> ModuleType:
    """A module; where it is missing or broken InputError: '`needed` cannot be imported (why); `mend`'."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{needed} cannot be imported ({error}); {mend}") from error

"""Generalized Focal Loss V2: a dense object detector as pure functions over a tree of tensors."""

from __future__ import annotations

__version__ = "0.1.0"

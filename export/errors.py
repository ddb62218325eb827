"""The one exception of an export that failed its own checks."""

from __future__ import annotations

from collections.abc import Sequence


class CheckError(Exception):
    """An export that must not be used: what is wrong with it, in a sentence and up to five examples."""

    def __init__(self, sentence: str, findings: Sequence[str]) -> None:
        more = [f"... and {len(findings) - 5} more"] if len(findings) > 5 else []
        super().__init__("\n  ".join([f"{sentence}:", *findings[:5], *more]))

    def add(self, sentence: str) -> None:
        """Say one thing more."""
        self.args = (f"{self}\n  {sentence}",)

"""`python -m gfl.data split`: one COCO file into training and validation."""

from gfl.data.split.command import add_flags, run

__all__ = ["add_flags", "run"]

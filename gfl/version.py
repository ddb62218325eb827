"""The version of the project, for setup.py, which reads this file as text, and for all that states it."""

VERSION = "0.1.0"

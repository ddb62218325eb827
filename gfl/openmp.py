"""How long threads of OpenMP spin at a barrier before they sleep. No torch is imported here.

A training step passes some thousand barriers. libgomp, which torch's wheels of Linux bring, lets a thread that waits
for another spin for milliseconds; where the other one was put aside for another program, that time is lost at every
barrier: beside one busy process on two cores, a step of the small model took 4 to 7 s instead of 0.3 s.
"""

from __future__ import annotations

import os
import sys

SPIN_COUNT = "1000"  # what libgomp itself takes where it has more threads than cores; docs/benchmarks.md compares
SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # a choice that the user has made with either stays


def limit_spinning() -> None:
    """Let threads that wait sleep early, unless the environment says otherwise or torch is imported already.

    libgomp reads the variable when it is loaded, with torch; processes that this one starts inherit it.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in SPINNING):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT

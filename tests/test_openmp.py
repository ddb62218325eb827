"""gfl/openmp.py: what the environment says of spinning when torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gfl import openmp


def spin_count_of(environment: dict[str, str], code: str) -> str:
    """What a new process has in GOMP_SPINCOUNT after `code`."""
    kept = {name: value for name, value in os.environ.items() if name not in openmp.SPINNING}
    code = f"import os\n{code}\nprint(os.environ.get('GOMP_SPINCOUNT'))"
    run = subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_import_of_gfl_lets_waiting_threads_sleep_early() -> None:
    assert spin_count_of({}, "import gfl") == openmp.SPIN_COUNT


@pytest.mark.parametrize(
    ("environment", "left"), [({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_choice_of_the_user_stays(environment: dict[str, str], left: str) -> None:
    assert spin_count_of(environment, "import gfl") == left


def test_nothing_is_set_once_torch_is_loaded() -> None:
    """It would not be read any more, and children would inherit what this process does not have."""
    assert (
        spin_count_of({}, "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); import gfl") == "None"
    )

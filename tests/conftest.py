"""Where the tests find goldens and pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# Before anything imports torch; children inherit it. Workers of pytest-xdist share the cores, so each takes one, unless
# the user chose a number: what they inherit may be what the first process chose here for itself.
CHOSEN_HERE = "GFL_TEST_THREADS_BY_CONFTEST"
if CHOSEN_HERE in os.environ or "OMP_NUM_THREADS" not in os.environ:
    os.environ[CHOSEN_HERE] = "yes"
    os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else str(min(4, os.cpu_count() or 1))


pytest.register_assert_rewrite("family_parity", "golden_checks")  # tests that test_parity.py takes from there


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", metavar="DIR", help="outputs of the authors' code (default tests/goldens)")
    parser.addoption(
        "--checkpoint_goldens",
        metavar="DIR",
        help="a trained checkpoint with its detections and numbers (default $GFL_TEST_DATA/bccd_r18)",
    )


def pytest_configure(config: pytest.Config) -> None:
    for option in ("--goldens", "--checkpoint_goldens"):
        named = config.getoption(option)
        if named is not None and not Path(named).is_dir():
            raise pytest.UsageError(f"{option} {named}: expected a folder that exists")


@pytest.fixture(scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of forward.npz, loss.npz, detect.npz, twin.npz and keys.json."""
    named: str | None = request.config.getoption("--goldens")
    return Path(named).resolve() if named is not None else TESTS / "goldens"


@pytest.fixture(scope="session")
def family_goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of the goldens of the other models: too large to come with the tests."""
    from golden_cases import family_folder  # it imports torch, which must not be imported before OMP_NUM_THREADS is set

    return family_folder(request.config.getoption("--goldens")).resolve()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real pictures named by GFL_TEST_DATA; the test is skipped when it is unset."""
    named = os.environ.get("GFL_TEST_DATA")
    if not named:
        pytest.skip("GFL_TEST_DATA is unset: it names the folder of test pictures")
    folder = Path(named).resolve()
    if not folder.is_dir():
        pytest.fail(f"GFL_TEST_DATA={named}: expected a folder that exists")
    return folder


@pytest.fixture(scope="session")
def checkpoint_goldens(request: pytest.FixtureRequest) -> Path:
    """The folder of model.pth, detections.json and stats.json: a small GFLV2 trained with the authors' modules."""
    named: str | None = request.config.getoption("--checkpoint_goldens")
    if named is not None:
        return Path(named).resolve()
    data: Path = request.getfixturevalue("test_data")
    return data / "bccd_r18"

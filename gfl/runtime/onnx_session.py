"""Sessions of ONNX Runtime, and which providers ran their nodes. NumPy and ONNX Runtime, no PyTorch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfl.data.picture_files import is_utf8
from gfl.errors import InputError, first_line
from gfl.files import make_folder
from gfl.packages import import_package
from gfl.runtime.providers import (
    CPU,
    NEEDS,
    NodeCounts,
    ProviderChoice,
    ProviderReport,
    Target,
    node_counts_text,
    read_profile,
    refusal,
    targets,
)

NO_PROFILE = (
    "it cannot be told which nodes it ran, since no temporary folder took ONNX Runtime's profile; set TMPDIR to a "
    "folder with space"
)
LOG_FATAL, LOG_WARNING = 4, 2  # severities of ONNX Runtime; the second is its default


class SessionOutput(Protocol):
    """An output of a session."""

    name: str


class Session(Protocol):
    """The part of onnxruntime.InferenceSession that is used here."""

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, NDArray[np.generic]]) -> list[object]:
        """Outputs in the order of the names."""

    def get_outputs(self) -> Sequence[SessionOutput]:
        """The model's outputs."""

    def get_providers(self) -> Sequence[str]:
        """Names of the providers that could be started, those tried first for a node first."""

    def end_profiling(self) -> str:
        """Stop counting; the profile's file."""


class ProviderSession:
    """A session with the first provider of a choice that runs the file.

    Some providers show only in the first run that they leave the graph to the CPU. So ONNX Runtime's profiler counts
    the nodes of the first run, and where the provider did not run the graph, the next one is tried. One thread makes
    that first run while others wait for it; after it ONNX Runtime itself takes runs from several threads at once.
    """

    def __init__(self, path: Path, choice: ProviderChoice, threads: int) -> None:
        """Open a file. Raises InputError as `open_onnx`."""
        self._path = path.absolute()  # the working directory may change, see `working_in`
        self._choice = choice
        self._threads = threads
        runtime = import_runtime()
        self._listed = tuple(runtime.get_available_providers())
        self._version = str(runtime.__version__)
        self._untried = targets(choice, self._listed)
        self._refusals: list[str] = []
        self._first = threading.Lock()  # held by the thread that makes the first run
        self._ran: ProviderReport | None = None  # known after the first run
        self._failed: InputError | None = None  # what every run says once no provider was left
        self._profiles = _temporary_folder()
        self._drop_profiles = weakref.finalize(self, _remove_folder, self._profiles)
        self._open_next()

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the file's outputs, in order."""
        return tuple(output.name for output in self._session.get_outputs())

    def run(self, output_names: Sequence[str], feed: Mapping[str, NDArray[np.generic]]) -> list[object]:
        """Outputs in the order of the names; InputError where no provider runs the file."""
        if self._ran is None:
            with self._first:
                if self._failed is not None:
                    raise InputError(str(self._failed)) from self._failed
                if self._ran is None:  # no other thread has made the first run meanwhile
                    return self._first_run(output_names, feed)
        return self._session.run(output_names, feed)

    def provider_report(self) -> ProviderReport:
        """What ran where; before the first run, what is going to be tried."""
        return self._ran or ProviderReport(self._target.runtime_name, {}, tuple(self._refusals))

    def refuse(self, name: str, reason: str) -> None:
        """Go on to the next provider if the session's is `name`; InputError where there is none left."""
        if self._target.name == name:
            self._give_up(reason)

    def _open_next(self) -> None:
        self._target = self._untried.pop(0)
        name, runtime_name = self._target.name, self._target.runtime_name
        if runtime_name not in self._listed:
            self._give_up(f"onnxruntime {self._version} has only {', '.join(self._listed)}; it needs {NEEDS[name]}")
            return
        try:
            with working_in(self._target.om_cache):
                # ONNX Runtime takes no name that is not UTF-8.
                model = str(self._path) if is_utf8(str(self._path)) else self._path.read_bytes()
                self._session = open_session(model, threads=self._threads, target=self._target, profiles=self._profiles)
        except InputError as error:
            if name == "cpu":
                raise
            reason = reason_not_started(name, error.__cause__ or error)
            self._give_up(f"it could not be started ({reason}); it needs {NEEDS[name]}")
            return
        if self._session.get_providers()[0] != runtime_name:  # ONNX Runtime may turn to the CPU in silence
            reason = reason_not_started(name, RuntimeError("onnxruntime does not say why"))
            self._give_up(f"it was not started ({reason}); it needs {NEEDS[name]}")

    def _give_up(self, reason: str) -> None:
        if not self._untried:
            self._failed = InputError(
                f"got the provider {self._target.name} for {self._path.name}, but {reason}; give the provider cpu or "
                "auto, or allow the fallback to the CPU (--allow_fallback)"
            )
            raise self._failed
        self._refusals.append(f"provider {self._target.name}: {reason}")
        self._open_next()

    def _first_run(self, output_names: Sequence[str], feed: Mapping[str, NDArray[np.generic]]) -> list[object]:
        target = self._target
        try:
            with working_in(target.om_cache):
                outputs = self._session.run(output_names, feed)
        except Exception as error:  # ONNX Runtime's own types share no base class
            if target.name == "cpu" or type(error).__name__ == "InvalidArgument":  # of the feed: no provider's fault
                raise
            self._give_up(f"it failed in its first run ({first_line(error)})")
            return self._first_run(output_names, feed)
        nodes = self._count_nodes()
        # The CPU runs all that no other provider takes: nothing can be wrong about it.
        reason = refusal(target.name, nodes) if nodes is not None else NO_PROFILE if target.name != "cpu" else None
        if reason is not None and (not self._untried or self._choice.name == "auto"):
            self._give_up(reason)
            return self._first_run(output_names, feed)
        self._ran = self._provider_report(nodes, reason)
        self._drop_profiles()
        return outputs

    def _count_nodes(self) -> NodeCounts | None:
        """The nodes of the first run; None where no temporary folder took its profile whole."""
        try:
            return read_profile(Path(self._session.end_profiling()))
        except (OSError, ValueError):
            return None

    def _provider_report(self, nodes: NodeCounts | None, reason: str | None) -> ProviderReport:
        refusals = self._refusals if reason is None else [*self._refusals, f"provider {self._target.name}: {reason}"]
        if nodes is None:
            return ProviderReport(self._target.runtime_name, {}, tuple(refusals))
        notes = (*refusals, node_counts_text(nodes.by_provider)) if refusals else ()
        busiest = max(nodes.by_provider, key=lambda provider: nodes.by_provider[provider])
        return ProviderReport(self._target.runtime_name if reason is None else busiest, nodes.by_provider, notes)


def open_session(
    model: str | bytes, *, threads: int = 0, target: Target = CPU, profiles: Path | None = None
) -> Session:
    """A session on a file's path or content; InputError where ONNX Runtime is missing or refuses it.

    profiles: a folder; where it is given, the session's profiler is on until its `end_profiling`.
    """
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    if profiles is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profiles / "run")
    provider = (target.runtime_name, target.runtime_options)
    if target.name != "cpu":
        runtime.set_default_logger_severity(LOG_FATAL)  # `reason_not_started` says in fewer words what it would log
    try:
        # Without its own fallback, which prints to stdout and opens the file again on the CPU.
        session: Session = runtime.InferenceSession(model, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own types, one a cause, share no base class
        name = model if isinstance(model, str) else "the model"
        raise InputError(
            f"{name} cannot be opened by ONNX Runtime ({first_line(error)}); export or copy it again"
        ) from error
    finally:
        if target.name != "cpu":
            runtime.set_default_logger_severity(LOG_WARNING)
    return session


def import_runtime() -> ModuleType:
    """The module onnxruntime; InputError where it is missing or broken."""
    return import_package(
        "onnxruntime", "an .onnx needs onnxruntime, which", "install it (onnxruntime-cann also needs numpy<2)"
    )


def reason_not_started(name: str, error: BaseException) -> str:
    """Why a provider was not started: the shared library that its own one misses, else what the error says."""
    library = Path(str(import_runtime().__file__)).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    if library.is_file():
        try:
            ctypes.CDLL(str(library))
        except OSError as missing:
            return first_line(missing)
    return first_line(error)


def _temporary_folder() -> Path | None:
    """A new one; None where the machine has no place for it: a container may be read-only, or its disk full."""
    try:
        return Path(tempfile.mkdtemp(prefix="gfl_profile_"))
    except OSError:
        return None


def _remove_folder(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def working_in(folder: Path | None) -> Iterator[None]:
    """Make a folder, where one is given, the working directory of the block: CANN keeps its compiled graphs there."""
    if folder is None:
        yield
        return
    make_folder(folder)
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)

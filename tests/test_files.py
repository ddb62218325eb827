"""Files that are whole or not there, lines that are whole or not there, and what a full disk says."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gfl import files
from gfl.errors import InputError
from gfl.files import append_text, atomic_file, draft_path, new_folder, to_json, write_atomic


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- whole files ----


def test_a_whole_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    write_atomic(path, "new ü")
    assert path.read_text(encoding="utf-8") == "new ü"
    assert names_in(tmp_path) == ["a.json"]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def stop_halfway() -> None:
        with atomic_file(path) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert path.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["a.json"]


def test_a_draft_has_a_name_of_its_own_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"{'ü' * 120}.json"
    assert len({draft_path(path) for _ in range(100)}) == 100
    victim = tmp_path / "victim"
    victim.write_text("kept")
    draft = draft_path(path)
    monkeypatch.setattr(files, "draft_path", lambda _: draft)
    draft.symlink_to(victim)
    with pytest.raises(InputError, match="File exists"):
        write_atomic(path, "new")
    draft.symlink_to(victim)
    with pytest.raises(InputError, match="File exists"), new_folder(tmp_path / "folder"):
        pass
    assert victim.read_text() == "kept"


@pytest.mark.skipif(sys.platform == "win32", reason="modes and links are of Unix")
def test_a_whole_file_has_the_usual_mode_and_takes_the_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    path = tmp_path / "a.json"
    path.symlink_to(tmp_path / "target")
    before = os.umask(0o027)
    try:
        write_atomic(path, "new")
        with new_folder(tmp_path / "folder") as draft:
            assert draft.parent == tmp_path
    finally:
        os.umask(before)
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "target").read_text() == "kept"


@pytest.mark.parametrize(
    ("number", "mend"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "may write"), (errno.EIO, "check the path")]
)
def test_a_full_disk_is_an_input_error_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, mend: str
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match=rf"cannot write .*metrics\.json: {os.strerror(number)}; .*{mend}"):
        write_atomic(tmp_path / "metrics.json", "{}")
    assert names_in(tmp_path) == []


def test_a_full_disk_that_a_library_hides_in_a_runtime_error_is_an_input_error(tmp_path: Path) -> None:
    def save_as_torch_does() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(InputError, match="No space left"), atomic_file(tmp_path / "last.pt"):
        save_as_torch_does()
    with pytest.raises(RuntimeError, match="a bug"), atomic_file(tmp_path / "last.pt"):
        raise RuntimeError("a bug")
    assert names_in(tmp_path) == []


def test_a_missing_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*none"):
        write_atomic(tmp_path / "none" / "a.json", "{}")


def test_json_has_no_nan_and_takes_numpy_and_paths() -> None:
    value = {"a": math.nan, "b": [np.float32("inf"), np.int64(3)], "c": np.array([1.5, math.nan]), "d": Path("x")}
    assert json.loads(to_json(value)) == {"a": None, "b": [None, 3], "c": [1.5, None], "d": "x"}
    assert json.loads(to_json({"a": np.float32(0.5), "b": (1, True), "c": "猫"})) == {
        "a": 0.5,
        "b": [1, True],
        "c": "猫",
    }
    with pytest.raises(TypeError, match="set has no JSON form"):
        to_json({"a": {1}})


def test_names_that_are_no_unicode_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    write_atomic(tmp_path / "a.json", to_json({"file": name}))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"file": name}


# ---- lines ----


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_an_input_error() -> None:
    with pytest.raises(InputError, match="cannot write /dev/full: No space left on device"):
        append_text(Path("/dev/full"), "{}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are of Unix")
def test_a_line_that_does_not_fit_leaves_no_half_line(tmp_path: Path) -> None:
    program = (
        "import resource, signal; from pathlib import Path\n"
        "from gfl import files; from gfl.errors import InputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))\n"
        "files.append_text(Path('log'), 'first line of 21 byte\\n')\n"
        "try: files.append_text(Path('log'), 'this one does not fit\\n')\n"
        "except InputError as error: print(error)\n"
    )
    root = Path(files.__file__).resolve().parents[1]
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot write log: File too large" in shown.stdout
    assert (tmp_path / "log").read_text(encoding="utf-8") == "first line of 21 byte\n"

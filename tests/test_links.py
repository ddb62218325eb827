"""Pictures put into another folder: linked where that is possible, else copied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pictures import assert_told

from gfl.data.links import link_picture


def refuse(source: object, target: object) -> None:
    raise OSError("this file system has none")


def write(path: Path) -> Path:
    path.write_bytes(b"pixels")
    return path


def test_a_link_survives_when_its_folder_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    link_picture(Path("a.jpg"), Path("draft/train/b.jpg"))
    os.rename("draft", "out")
    assert (tmp_path / "out/train/b.jpg").is_symlink()
    assert (tmp_path / "out/train/b.jpg").read_bytes() == b"pixels"


def test_a_link_to_a_link_leads_to_the_real_file(tmp_path: Path) -> None:
    link_picture(write(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    link_picture(tmp_path / "b.jpg", tmp_path / "c.jpg")
    (tmp_path / "b.jpg").unlink()
    assert (tmp_path / "c.jpg").read_bytes() == b"pixels"


def test_without_symbolic_links_it_is_a_hard_link_and_without_both_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "a.jpg")
    monkeypatch.setattr(os, "symlink", refuse)
    link_picture(source, tmp_path / "b.jpg")
    assert not (tmp_path / "b.jpg").is_symlink()
    assert (tmp_path / "b.jpg").samefile(source)
    monkeypatch.setattr(os, "link", refuse)
    link_picture(source, tmp_path / "c.jpg")
    assert not (tmp_path / "c.jpg").samefile(source)
    assert (tmp_path / "c.jpg").read_bytes() == b"pixels"


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jpg")
    link_picture(source, tmp_path / "b.jpg", copy=True)
    assert not (tmp_path / "b.jpg").is_symlink()
    assert not (tmp_path / "b.jpg").samefile(source)


def test_what_is_there_is_not_overwritten_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jpg")
    assert_told(lambda: link_picture(source, source), [str(source), "already there"])
    assert_told(lambda: link_picture(tmp_path / "none.jpg", tmp_path / "b.jpg"), ["none.jpg", "no picture"])
    write(tmp_path / "file")
    assert_told(lambda: link_picture(source, tmp_path / "file" / "b.jpg"), ["cannot write"])

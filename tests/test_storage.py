"""Files by path or by URI, and what is said where a storage does not give them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pictures import assert_told

from gfl.errors import InputError
from gfl.storage import file_system, is_uri, storage_told


def test_uris_have_a_protocol() -> None:
    assert [is_uri(text) for text in ("s3://bucket/a.tar", "file:///a", "gs://b")] == [True] * 3
    assert [is_uri(text) for text in ("a.tar", "/a/b", "C://a", "~/a", "data/s3://a")] == [False] * 5


def test_one_file_system_gives_paths_and_uris_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    for name in (str(tmp_path / "a"), f"file://{tmp_path}/a"):
        storage, path = file_system(name)
        assert storage.cat_file(path, start=2, end=5) == b"234"
        assert file_system(name)[0] is storage
    assert file_system("~/a")[1] == os.path.expanduser("~/a")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError("a"), ["s3://b/a: no such file"]),
        (ImportError("Install s3fs to access S3"), ["s3://b/a", "Install s3fs", "gflv2[storage]"]),
        (RuntimeError("no\nway"), ["s3://b/a", "RuntimeError: no)", "credentials"]),
        (InputError("as it was"), ["as it was"]),
    ],
    ids=["missing", "package", "other", "told"],
)
def test_errors_of_a_storage_are_told_with_the_file(error: Exception, words: list[str]) -> None:
    def fail() -> None:
        with storage_told("s3://b/a"):
            raise error

    assert_told(fail, words)

"""Files by name, wherever they are: a path of this machine, or a URI of what pyarrow or fsspec opens.

pyarrow's own file systems come first (s3, gs, hdfs, ...), then fsspec's (az, http, memory, ...), of which each may need
a package of its own. Their credentials and addresses are found as these libraries document it.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pyarrow import ArrowInvalid
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

from gfl.errors import InputError, first_line
from gfl.storage import file_system

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # of at least two letters: C:\ begins a path of Windows


class Located(NamedTuple):
    """A file or a folder."""

    filesystem: FileSystem
    path: str  # as the file system calls it
    start: str = ""  # what stands before the path in its URI; empty on this machine
    end: str = ""  # what stands after it: a query

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return not self.start

    @property
    def uri(self) -> str:
        """What `locate` takes for it, on any machine of a cluster."""
        return f"{self.start}{self.path}{self.end}"

    def at(self, path: str) -> Located:
        """Another path of the same file system."""
        return self._replace(path=path)

    def below(self, name: str) -> Located:
        """What has this name in the folder."""
        return self.at(f"{self.path.rstrip('/')}/{name}")


def locate(text: str) -> Located:
    """Where a path or a URI leads; InputError where no library knows it, or it cannot be reached."""
    text = re.sub("^file:(//|(?=/))", "", text)  # Spark writes file:/path
    scheme = SCHEME.match(text)
    if scheme is None:
        return Located(_local(), Path(text).absolute().as_posix())
    rest, mark, query = text[scheme.end() :].rpartition("?")
    if "=" not in query:  # a name with a question mark, or without one
        rest, mark, query = text[scheme.end() :], "", ""
    host, _, name = rest.partition("/")
    filesystem, base = _remote(scheme[0], host, mark + query)
    in_path = base.strip("/") == host  # a bucket is the first part of the path; a server is none
    return Located(filesystem, f"{base}{name}", scheme[0] if in_path else f"{scheme[0]}{host}", mark + query)


@lru_cache(maxsize=1)
def _local() -> FileSystem:
    return LocalFileSystem()


@lru_cache(maxsize=64)  # opening one may ask a server, and pictures come by the million
def _remote(scheme: str, host: str, query: str) -> tuple[FileSystem, str]:
    """A file system, and what stands before the rest of a URI in its paths."""
    try:
        try:
            filesystem, base = FileSystem.from_uri(f"{scheme}{host}/{query}")
        except ArrowInvalid:  # a scheme that it does not know
            remote, base = file_system(f"{scheme}{host}/")
            filesystem = PyFileSystem(FSSpecHandler(remote))
    except (OSError, ValueError, ImportError) as error:  # pyarrow's own are of these types
        raise InputError(
            f"{scheme}{host} cannot be opened ({first_line(error)}), expected a path, or a URI that pyarrow or fsspec "
            "opens; check it, its credentials and that the package for it is installed"
        ) from error
    return filesystem, f"{base.rstrip('/')}/"


def shown(located: Located) -> str:
    """What messages call a file."""
    return os.path.normpath(located.path) if located.is_local else located.uri

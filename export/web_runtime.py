"""The files of npm's onnxruntime-web that a page needs, from a folder or by the npm client."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gfl.errors import InputError
from gfl.files import write_atomic, write_errors

NAME = "onnxruntime-web"
TRIED = "1.30.0"  # the version that npm is asked for
SIDES = ("", ".asyncify")  # of the WebAssembly: for the CPU, and with WebGPU
FILES = (
    "ort.wasm.min.mjs",
    "ort.webgpu.min.mjs",
    *(f"ort-wasm-simd-threaded{side}.{kind}" for side in SIDES for kind in ("mjs", "wasm")),
)
NOTICES = ("licen[cs]e*", "*notice*")  # files of a package, in letters of any size
# The package says that it is under the MIT licence, which asks that this text goes with it, and holds no copy of it.
MIT = """Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


@contextmanager
def runtime_package(given: Path | None) -> Iterator[Path]:
    """The folder of the package: the one that was given, or what npm fetches; InputError where there is none."""
    if given is not None:
        yield given
        return
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"got no --runtime and no `npm` on the PATH, expected one of them; give --runtime the folder of {NAME} "
            f"(on any machine: npm pack {NAME}@{TRIED}, and unpack it)"
        )
    with TemporaryDirectory(prefix="gfl_web_") as name:
        folder = Path(name)
        command = [npm, "pack", f"{NAME}@{TRIED}", "--silent", "--pack-destination", name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        archives = list(folder.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[0]
            raise InputError(
                f"npm could not fetch {NAME} ({reason}), expected its package; try again, or give --runtime its folder"
            )
        unpack(archives[0], folder)
        yield folder / "package"


def unpack(archive: Path, folder: Path) -> None:
    """The files of npm's archive that are wanted, and no other: it names where each of them goes."""
    wanted = {f"package/dist/{name}" for name in FILES}
    with tarfile.open(archive) as package:
        for member in package:
            content = package.extractfile(member) if member.isfile() and is_wanted(member.name, wanted) else None
            if content is not None:
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as stream:
                    shutil.copyfileobj(content, stream)


def is_wanted(name: str, wanted: set[str]) -> bool:
    """Whether a file of the archive is one of those, or lies beside package.json."""
    parts = name.split("/")
    return name in wanted or (len(parts) == 2 and parts[0] == "package" and parts[1] not in ("", "..", "."))


def read_version(package: Path) -> str:
    """The version of the package in a folder; InputError where there is another, or a file is missing."""
    expected = f"expected the folder of npm's {NAME}; give the one that holds its package.json and dist"
    try:
        about = json.loads((package / "package.json").read_text(encoding="utf-8"))
        name, version = about["name"], str(about["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"got --runtime {package}, whose package.json cannot be read ({error!r}), {expected}"
        ) from None
    if name != NAME:
        raise InputError(f"got --runtime {package}, which is {name}, {expected}")
    missing = [each for each in FILES if not (package / "dist" / each).is_file()]
    if missing:
        raise InputError(f"{package} (version {version}) has no dist/{missing[0]}, expected it; take version {TRIED}")
    return version


def copy_runtime(package: Path, folder: Path) -> None:
    """Copy the files of the package and its licence into a folder that exists."""
    with write_errors(folder):
        for name in FILES:
            shutil.copyfile(package / "dist" / name, folder / name)
        notices = [file for file in sorted(package.iterdir()) if file.is_file() and is_notice(file)]
        for file in notices:
            shutil.copyfile(file, folder / file.name)
    if not notices:
        write_atomic(folder / "LICENSE.txt", f"ONNX Runtime Web ({NAME}), https://onnxruntime.ai\n\n{MIT}")


def is_notice(file: Path) -> bool:
    """Whether a file's name says that it is a licence or a notice."""
    lower = Path(file.name.lower())
    return any(lower.match(pattern) for pattern in NOTICES)

"""`python -m export.web`: what the folder holds, what it takes, and the sentences of its refusals."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from export import web, web_runtime
from gfl.runtime import onnx_header
from tests.support.tiny_export import lying_exports

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lying_exports(tmp_path_factory)


def fake_runtime(folder: Path, name: str = web_runtime.NAME, leave_out: str = "") -> Path:
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": "1.30.0"}))
    for file in set(web_runtime.FILES) - {leave_out}:
        (folder / "dist" / file).write_text(file)
    return folder


def run(*arguments: object) -> int:
    return web.main([str(each) for each in arguments])


def test_the_folder_holds_page_model_and_runtime_and_is_written_again(model: Path, tmp_path: Path) -> None:
    runtime, output = fake_runtime(tmp_path / "npm"), tmp_path / "site"
    assert run("--model", model, "--output", output, "--runtime", runtime) == 0
    about = json.loads((output / "model.json").read_text())
    (file,) = sorted(model.glob("*.onnx"))
    metadata = onnx_header.read_metadata(file)
    assert about["canvases"] == [json.loads(metadata["size"])]
    assert about["digest"] == metadata["digest"]
    assert about["names"] == json.loads(metadata["names"])
    assert (output / about["files"][0]).read_bytes() == file.read_bytes()
    assert {each.name for each in (output / "runtime").iterdir()} == {*web_runtime.FILES, "LICENSE.txt"}
    assert "Cross-Origin-Embedder-Policy" in (output / "_headers").read_text()
    page = {each.name for each in web.PAGE.iterdir()}
    assert page <= {each.name for each in output.iterdir()}

    (output / "1x1.onnx").touch()  # of a former model
    (output / "CNAME").touch()  # a person's own
    assert run("--model", model, "--output", output, "--runtime", runtime) == 0
    assert not (output / "1x1.onnx").exists()
    assert (output / "CNAME").exists()


def test_the_page_reads_its_own_description_in_a_folder_and_the_servers_elsewhere(model: Path, tmp_path: Path) -> None:
    run("--model", model, "--output", tmp_path / "site", "--runtime", fake_runtime(tmp_path / "npm"))
    assert (web.PAGE / "index.html").read_text().count(web.ADDRESS) == 1
    assert web.OWN_ADDRESS in (tmp_path / "site" / "index.html").read_text()


def test_the_page_names_no_other_origin_and_has_no_inline_code() -> None:
    for file in web.PAGE.iterdir():
        assert not re.search(r"(https?|wss?)://", file.read_text()), file
    index = (web.PAGE / "index.html").read_text()
    assert "style=" not in index
    assert re.findall(r"<script(?! type=\"module\" src=\"page.js\">)", index) == []


def test_the_modules_of_the_page_import_files_that_ship() -> None:
    shipped = {file.name for file in web.PAGE.iterdir()}
    for file in web.PAGE.glob("*.js"):
        assert set(re.findall(r'from "\./(\S+)"', file.read_text())) <= shipped


def test_npms_archive_is_unpacked_without_what_it_would_put_elsewhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        names = (
            f"package/dist/{web_runtime.FILES[0]}",
            "package/package.json",
            "package/..",
            "../out",
            "package/dist/x",
        )
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    web_runtime.unpack(tmp_path / "a.tgz", tmp_path / "in")
    found = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert found == {"a.tgz", "in/package/package.json", f"in/package/dist/{web_runtime.FILES[0]}"}


def test_a_licence_of_the_package_is_taken_before_ours(tmp_path: Path) -> None:
    package = fake_runtime(tmp_path / "npm")
    (package / "ThirdPartyNotices.txt").write_text("theirs")
    (tmp_path / "out").mkdir()
    web_runtime.copy_runtime(package, tmp_path / "out")
    assert (tmp_path / "out" / "ThirdPartyNotices.txt").read_text() == "theirs"


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ("foreign", "was not written by this program"),
        ("no npm", "no `npm` on the PATH"),
        ("other package", "which is left-pad"),
        ("old package", "has no dist/ort.wasm.min.mjs"),
        ("no package", "whose package.json cannot be read"),
        ("size", "omit it, or give a .pt"),
        ("other form", "(.pt2)"),
    ],
)
def test_mistakes_end_in_one_sentence(
    mistake: str,
    sentence: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runtime, output, more = fake_runtime(tmp_path / "npm"), tmp_path / "site", []
    flags = ["--runtime", str(runtime)]
    if mistake == "foreign":
        output.mkdir()
        (output / "thesis.txt").touch()
    elif mistake == "no npm":
        monkeypatch.setenv("PATH", str(tmp_path))
        flags = []
    elif mistake == "other package":
        flags = ["--runtime", str(fake_runtime(tmp_path / "other", "left-pad"))]
    elif mistake == "old package":
        flags = ["--runtime", str(fake_runtime(tmp_path / "old", leave_out="ort.wasm.min.mjs"))]
    elif mistake == "no package":
        flags = ["--runtime", str(tmp_path)]
    elif mistake == "size":
        more = ["--size", "32x32"]
    else:
        model = tmp_path / "a.pt2"
        model.touch()
    before = sorted(output.iterdir()) if output.exists() else None
    assert run("--model", model, "--output", output, *flags, *more) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert (sorted(output.iterdir()) if output.exists() else None) == before


def test_a_file_that_takes_several_pictures_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    (file,) = sorted(model.glob("*.onnx"))
    several = onnx.load(file)
    for entry in several.metadata_props:
        entry.value = "2" if entry.key == "batch" else entry.value
    for value in several.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(several, tmp_path / "two.onnx")
    runtime = fake_runtime(tmp_path / "npm")
    assert run("--model", tmp_path / "two.onnx", "--output", tmp_path / "site", "--runtime", runtime) == 2
    assert "takes 2 pictures at a time, expected 1" in capsys.readouterr().err

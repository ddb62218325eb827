"""The command line of the exports: what is taken where it says nothing, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from tiny_export import BINDINGS, NAMES, flags_of, write_model

from export import onnx as program
from export.request import name_files, read_request
from gfl.errors import InputError

H, W = tiny.CANVAS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "best.pt")


def test_without_flags_the_newest_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = (write_model(tmp_path / f"runs/tiny/{name}/best.pt") for name in ("b", "a"))
    os.utime(older, (1, 1))
    monkeypatch.chdir(tmp_path)
    request = read_request(flags_of([]))
    here = newer.relative_to(tmp_path)
    assert request.checkpoint == here
    folder = here.parent / "best_onnx"
    assert request.files == {(H, W): folder / f"best_{H}x{W}.onnx", (W, H): folder / f"best_{W}x{H}.onnx"}
    said = " ".join(request.notes)
    for part in (str(here), f"{H}x{W}, {W}x{H}", str(folder)):
        assert part in said


def test_canvases_that_are_bound_take_the_place_of_the_runs(checkpoint: Path) -> None:
    flags = ["--checkpoint", str(checkpoint), "--gin_bindings", "CANVASES = [(96, 96)]"]
    assert list(read_request(flags_of(flags)).files) == [(96, 96)]


def test_without_flags_and_without_a_run_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "runs/*/*/best.pt" in tiny.refusal(program.main, [], capsys)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--size", "100x200"], "(128, 224)"),
        (["--size", "0x32"], "multiples of 32"),
        (["--size", "64"], "HEIGHTxWIDTH"),
        (["--size", "3200000x32"], "sides of at most 65536"),
        (["--batch", "0"], "--batch 0"),
        (["--batch", "1000000000"], "--batch 1000000000, expected at most 65536"),
        (["--size", "64x96", "32x32", "--output", "one.onnx"], "expected a folder"),
        (["--images", "nowhere"], "no such folder"),
        (["--precision", "int8"], "give --calibration DIR"),
        (["--calibration", "pictures"], "omit it, or give both"),
        (["--precision", "int8", "--skip_parity"], "--images DIR"),
        (["--precision", "int8", "--images", "nowhere"], "no such folder"),
        (["--precision", "fp16", "--max_ap_drop", "2"], "--max_ap_drop 2"),
        (["--max_ap_drop", "0.1"], "--precision fp32"),
        (["--annotations", "nowhere.json"], "no such annotation file"),
        (["--checkpoint", "nowhere.pt"], "no such file"),
    ],
)
def test_a_wrong_flag_is_told_in_one_sentence(
    flags: list[str],
    part: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = ["--checkpoint", str(checkpoint), *(() if "--size" in flags else ("--size", f"{H}x{W}"))]
    assert part in tiny.refusal(program.main, [*usual, *flags], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_canvases_is_asked_for_sizes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.pth"
    state = torch.load(checkpoint, weights_only=True)["variables"]
    torch.save({"state_dict": state, "meta": {"CLASSES": NAMES}}, bare)
    flags = ["--checkpoint", str(bare), "--gin_file", tiny.GIN_FILE, "--gin_bindings", *BINDINGS]
    assert "--size 64x96 --size 96x64" in tiny.refusal(program.main, flags, capsys)


def test_class_names_and_ids_come_from_annotations_when_asked(checkpoint: Path, tmp_path: Path) -> None:
    categories = [{"id": 10 * i, "name": name.upper()} for i, name in reversed(list(enumerate(NAMES, start=1)))]
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"categories": categories}))
    flags = ["--checkpoint", str(checkpoint), "--annotations", str(file)]
    loaded = read_request(flags_of(flags)).model
    assert loaded.names == tuple(name.upper() for name in NAMES)
    assert loaded.category_ids == (10, 20, 30, 40, 50)
    turned = [{**row, "id": 60 - int(str(row["id"]))} for row in categories]
    file.write_text(json.dumps({"categories": turned}))
    assert read_request(flags_of(flags)).model.names == loaded.names
    assert read_request(flags_of(flags)).model.category_ids == (50, 40, 30, 20, 10)
    file.write_text(json.dumps({"categories": categories[:2]}))
    with pytest.raises(InputError, match="2 classes"):
        read_request(flags_of(flags))


def test_classes_that_a_file_does_not_name_are_taken_on_trust(checkpoint: Path, tmp_path: Path) -> None:
    torch.save(torch.load(checkpoint, weights_only=True)["variables"], tmp_path / "bare.pth")
    categories = [{"id": i, "name": f"class {i}"} for i in range(5)]
    (tmp_path / "classes.json").write_text(json.dumps({"categories": categories}))
    source = ["--checkpoint", str(tmp_path / "bare.pth"), "--annotations", str(tmp_path / "classes.json")]
    size = ["--size", "64x96", "--gin_file", tiny.GIN_FILE, "--gin_bindings", *BINDINGS]
    request = read_request(flags_of([*source, *size]))
    assert request.model.names == tuple(f"class {i}" for i in range(5))
    assert any("bare.pth does not name its classes" in note for note in request.notes)


def test_pictures_are_those_that_the_annotations_list(checkpoint: Path, tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data")
    listed = tiny.annotations(data, "val")
    content = json.loads(listed.read_text())
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps({**content, "images": content["images"][1:], "annotations": []}))
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"categories": content["categories"]}))
    usual = ["--checkpoint", str(checkpoint), "--precision", "int8", "--images", str(data / "val2017")]
    for file, count in ((listed, 3), (fewer, 2)):
        request = read_request(flags_of([*usual, "--annotations", str(file)]))
        assert len(request.pictures) == count
        assert request.truth is not None
        assert request.truth.image_ids == tuple(row["id"] for row in content["images"][3 - count :])
        assert request.truth.boxes.path == file
    request = read_request(flags_of([*usual, "--annotations", str(classes)]))
    assert (len(request.pictures), request.truth, request.samples) == (3, None, 64)


def test_a_canvas_of_the_run_that_is_left_out_is_named_with_its_price(checkpoint: Path) -> None:
    both = read_request(flags_of(["--checkpoint", str(checkpoint)]))
    assert [note for note in both.notes if note.startswith("warning")] == []
    alone = read_request(flags_of(["--checkpoint", str(checkpoint), "--size", f"{H}x{W}"]))
    warnings = [note for note in alone.notes if note.startswith("warning")]
    assert len(warnings) == 1
    assert f"leaves out {W}x{H} (sides shrunk to 67%)" in warnings[0]
    larger = ["--checkpoint", str(checkpoint), "--size", f"{W}x{W}"]
    assert not any(note.startswith("warning") for note in read_request(flags_of(larger)).notes)


def test_pictures_and_prices_are_those_of_the_runs_validation_set_where_it_is_there(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data")
    checkpoint = write_model(tmp_path / "best.pt", (*BINDINGS, f"DATA_ROOT = {str(data)!r}"))
    request = read_request(flags_of(["--checkpoint", str(checkpoint), "--size", "32x32"]))
    assert request.pictures == tuple(sorted((data / "val2017").iterdir()))
    assert any("no --images given: comparing on 3 pictures" in note for note in request.notes)
    assert any("instances_val2017.json: 3 of 3 pictures are shrunk" in note for note in request.notes)
    assert read_request(flags_of(["--checkpoint", str(checkpoint), "--skip_parity"])).pictures == ()
    request.pictures[1].write_bytes(request.pictures[1].read_bytes()[:100])  # nobody asked for this one
    again = read_request(flags_of(["--checkpoint", str(checkpoint), "--size", "32x32"]))
    assert again.pictures == request.pictures[::2]
    assert any("comparing on 2 pictures of" in note and ", 1 more cannot be read" in note for note in again.notes)
    shutil.rmtree(data)
    assert read_request(flags_of(["--checkpoint", str(checkpoint), "--size", "32x32"])).pictures == ()


@pytest.mark.parametrize("name", ["onnx", "torch", "om"])
@pytest.mark.parametrize("prefix", ["", "export/"], ids=["inside", "outside"])
def test_started_as_a_script_it_names_the_right_form(name: str, prefix: str) -> None:
    folder = Path(program.__file__).parent
    command, start = [sys.executable, f"{prefix}{name}.py"], folder.parent if prefix else folder
    done = subprocess.run(command, cwd=start, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"expected `python -m export.{name}` from elsewhere" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "kinds", "names"),
    [
        (None, ("detections", "fp32"), ["runs/best.onnx"]),
        (None, ("raw", "fp32"), ["runs/best_raw.onnx"]),
        (None, ("detections", "int8"), ["runs/best_int8.onnx"]),
        (None, ("raw", "fp16"), ["runs/best_raw_fp16.onnx"]),
        (Path("out"), ("detections", "fp32"), ["out/best_64x96.onnx"]),
        (Path("out"), ("decoded", "fp32"), ["out/best_decoded_64x96.onnx", "out/best_decoded_96x64.onnx"]),
    ],
)
def test_output_is_a_file_for_one_size_and_a_folder_for_several(
    output: Path | None, kinds: tuple[str, str], names: list[str]
) -> None:
    sizes = [(64, 96), (96, 64)][: len(names)]
    files = name_files(Path("runs/best.pt"), output, sizes, kinds, ".onnx")
    assert files == dict(zip(sizes, map(Path, names), strict=True))

"""This project's .pt: written whole or not at all, enough by itself to rebuild the model, refused when foreign."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from tiny import BINDINGS, GIN_FILE, assert_equal_bits

from gfl.config import ParsedRun, read_run
from gfl.engine.checkpoints import load_trained, read_state, stored_settings, write_checkpoint
from gfl.engine.weights import FORMAT
from gfl.errors import InputError
from gfl.model import detector
from gfl.runtime.on_torch.pt_file import describe
from gfl.tensors.variables import Variables, flatten
from gfl.version import VERSION

NAMES = ("cat", "dog", "fox")


@pytest.fixture(scope="module")
def parsed() -> ParsedRun:
    return read_run([GIN_FILE], BINDINGS)


def variables_of(parsed: ParsedRun, seed: int, classes: int = len(NAMES)) -> Variables:
    return detector.init(replace(parsed.run.detector, num_classes=classes), seed)


def write(path: Path, parsed: ParsedRun, *leave_out: str, **more: object) -> Path:
    """A checkpoint like those of a run, without some of its fields."""
    tree = {
        "variables": flatten(variables_of(parsed, 1)),
        "ema": {},
        "optimiser": {},
        "loss_scale": {},
        "cursor": {"epoch": 1, "batch": 0, "step": 4},
        "best": 0.5,
        "config": parsed.config_text,
        "names": list(NAMES),
        "category_ids": [2, 3, 7],
        "canvases": [[64, 96], [96, 64]],
    }
    write_checkpoint(path, {key: value for key, value in (tree | more).items() if key not in leave_out})
    return path


# ---- writing and reading ----


def test_state_comes_back_with_the_version_that_wrote_it(tmp_path: Path, parsed: ParsedRun) -> None:
    state = read_state(write(tmp_path / "last.pt", parsed))
    assert state["gfl_version"] == VERSION
    assert state["cursor"] == {"epoch": 1, "batch": 0, "step": 4}
    assert_equal_bits(state["variables"], flatten(variables_of(parsed, 1)))


def test_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, parsed: ParsedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "last.pt", parsed)
    before = path.read_bytes()

    def full(tree: object, stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"last\.pt: No space left on device; free some space"):
        write(path, parsed)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- its format ----


def with_format(path: Path, number: object) -> Path:
    """The file with another number for its format; None leaves it out, as before there was one."""
    tree = torch.load(path, weights_only=True) | {"format": number}
    torch.save({key: value for key, value in tree.items() if (key, value) != ("format", None)}, path)
    return path


def test_checkpoint_from_before_formats_had_numbers_still_opens(tmp_path: Path, parsed: ParsedRun) -> None:
    path = with_format(write(tmp_path / "last.pt", parsed), None)
    assert "format" not in read_state(path)
    assert load_trained(path).names == NAMES
    assert stored_settings(str(path)) == parsed.config_text


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_checkpoint_of_every_known_format_opens(tmp_path: Path, parsed: ParsedRun, number: int) -> None:
    path = with_format(write(tmp_path / "last.pt", parsed), number)
    assert read_state(path)["format"] == number
    assert load_trained(path).names == NAMES


@pytest.mark.parametrize("read", [read_state, load_trained, lambda path: stored_settings(str(path))])
def test_checkpoint_of_a_newer_format_is_one_sentence(
    tmp_path: Path, parsed: ParsedRun, read: Callable[[Path], object]
) -> None:
    newer = with_format(write(tmp_path / "last.pt", parsed), FORMAT + 1)
    expected = f"is of format {FORMAT + 1}, written by gfl {VERSION}, expected at most {FORMAT}, .*; install a newer"
    with pytest.raises(InputError, match=expected):
        read(newer)


@pytest.mark.parametrize("number", ["2", 2.0, True, 0, -1, [2]])
def test_format_that_is_no_number_is_one_sentence(tmp_path: Path, parsed: ParsedRun, number: object) -> None:
    with pytest.raises(InputError, match=r"says wrongly which format it is of .*; get it again"):
        load_trained(with_format(write(tmp_path / "a.pt", parsed), number))


def test_page_on_checkpoints_has_every_key_that_a_run_writes_and_no_other(tmp_path: Path) -> None:
    run = tiny.run_training(tiny.write_data(tmp_path / "data"), tmp_path / "run")
    page = (Path(__file__).parents[1] / "docs" / "checkpoint.md").read_text(encoding="utf-8")
    listed = re.findall(r"(?m)^\| `(\w+)` \|", page)
    assert len(listed) == len(set(listed))
    for name in ("last.pt", "best.pt"):
        tree = read_state(run / name)
        assert set(tree) == set(listed) - {"averaged_from"}  # of `gfl.average`, not of a run
        assert tree["format"] == FORMAT
    facts = tree["trained_on"]
    assert isinstance(facts, dict)
    assert facts["pictures"] == tiny.TRAIN_PICTURES
    assert len(facts["boxes"]) == len(tree["names"])  # type: ignore[arg-type]  # a list
    assert facts["val"]["pictures"] == tiny.VAL_PICTURES


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "missing"])
def test_state_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "last.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"last\.pt .*(cannot be opened|expected the last\.pt of a run)"):
        read_state(path)


def test_checkpoint_cut_short_is_one_sentence(tmp_path: Path, parsed: ParsedRun) -> None:
    path = write(tmp_path / "last.pt", parsed)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        read_state(path)
    with pytest.raises(InputError, match="cut short"):
        load_trained(path)


@pytest.mark.parametrize("missing", ["cursor", "config", "variables", "optimiser"])
def test_weights_without_a_run_cannot_be_gone_on_with(tmp_path: Path, parsed: ParsedRun, missing: str) -> None:
    path = write(tmp_path / "last.pt", parsed, missing)
    with pytest.raises(InputError, match="holds no run to go on with"):
        read_state(path)


# ---- a trained model ----


def test_model_is_rebuilt_from_the_file_alone(tmp_path: Path, parsed: ParsedRun) -> None:
    model = load_trained(write(tmp_path / "best.pt", parsed))
    assert model.run.detector.num_classes == 3
    assert model.run.detector.backbone == parsed.run.detector.backbone
    assert model.run.data == parsed.run.data
    assert (model.names, model.category_ids) == (NAMES, (2, 3, 7))
    assert model.canvases == ((64, 96), (96, 64))
    assert_equal_bits(flatten(model.variables), flatten(variables_of(parsed, 1)))


def test_averaged_weights_are_preferred(tmp_path: Path, parsed: ParsedRun) -> None:
    averages = flatten(variables_of(parsed, 2))
    model = load_trained(write(tmp_path / "best.pt", parsed, ema=averages))
    assert_equal_bits(flatten(model.variables), averages)


def test_model_of_a_run_with_a_canvas_a_picture_has_none(tmp_path: Path, parsed: ParsedRun) -> None:
    assert load_trained(write(tmp_path / "best.pt", parsed, canvases=None)).canvases is None


def test_bindings_change_the_settings_in_the_file(tmp_path: Path, parsed: ParsedRun) -> None:
    bindings = ["postprocess.PredictConfig.nms_iou = 0.5", "SHORT_SIDE = 80"]
    run = load_trained(write(tmp_path / "best.pt", parsed), bindings=bindings).run
    assert (run.detector.predict.nms_iou, run.data.short_side) == (0.5, 80)


def test_file_without_settings_needs_them(tmp_path: Path, parsed: ParsedRun) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": flatten(variables_of(parsed, 1)), "meta": {"CLASSES": NAMES}}, path)
    with pytest.raises(InputError, match="does not say which model it is; give --gin_file"):
        load_trained(path)
    model = load_trained(path, parsed.run)
    assert (model.names, model.category_ids, model.canvases) == (NAMES, (1, 2, 3), None)


def test_file_without_class_names_takes_those_of_the_data(tmp_path: Path, parsed: ParsedRun) -> None:
    path = tmp_path / "model.pth"
    torch.save(flatten(variables_of(parsed, 1)), path)
    with pytest.raises(InputError, match="does not name its classes; give --annotations"):
        load_trained(path, parsed.run)
    assert load_trained(path, parsed.run, NAMES).names == NAMES


def test_settings_of_another_model_are_refused(tmp_path: Path, parsed: ParsedRun) -> None:
    other = read_run([GIN_FILE], [*BINDINGS, "head.HeadConfig.convs = 2"]).run
    with pytest.raises(InputError, match="is not of this model: got weights"):
        load_trained(write(tmp_path / "best.pt", parsed), other)


def test_class_count_that_contradicts_the_weights_is_refused(tmp_path: Path, parsed: ParsedRun) -> None:
    path = tmp_path / "model.pth"
    torch.save(flatten(variables_of(parsed, 1)), path)
    with pytest.raises(InputError, match="has 3 class channels, expected 2 for this data set"):
        load_trained(path, parsed.run, NAMES[:2])


def test_settings_of_a_model_far_larger_than_the_file_are_refused_before_it_is_made(
    tmp_path: Path, parsed: ParsedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.pt", parsed)
    monkeypatch.setattr(detector, "init", None)
    for setting in ("HeadConfig.channels = 4096", "FPNConfig.channels = 4096", "ResNetConfig.base_width = 512"):
        with pytest.raises(InputError, match=r"is not of this model: got \d+ weights, expected at least \d+"):
            load_trained(path, bindings=[setting])


def test_more_class_names_than_the_weights_can_be_of_are_refused_before_a_model_is_made(
    tmp_path: Path, parsed: ParsedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.pt", parsed, names=[str(i) for i in range(100_000)])
    monkeypatch.setattr(detector, "init", None)
    with pytest.raises(InputError, match=r"is not of this model: got \d+ weights, expected at least \d+"):
        load_trained(path)


def test_canvases_beyond_every_picture_are_refused(tmp_path: Path, parsed: ParsedRun) -> None:
    with pytest.raises(InputError, match=r"names the canvases .* expected at most 180000000 pixels each"):
        load_trained(write(tmp_path / "a.pt", parsed, canvases=[[64, 96], [10**6, 10**6]]))


@pytest.mark.parametrize(
    "values",
    [
        {"category_ids": ["a", "b", "c"]},
        {"score_thresholds": [None] * 3},
        {"score_thresholds": [float("nan")] * 3},
        {"score_thresholds": [0.3, 0.3, 7]},
        {"canvases": [3]},
        {"canvases": [["a", "b"]]},
    ],
)
def test_values_of_another_kind_are_one_sentence(tmp_path: Path, parsed: ParsedRun, values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"a\.pt has [\w ]+ that cannot be read"):
        load_trained(write(tmp_path / "a.pt", parsed, **values))


def test_an_export_says_nothing_of_the_folders_of_this_machine(tmp_path: Path, parsed: ParsedRun) -> None:
    trained = load_trained(write(tmp_path / "a.pt", parsed), bindings=["DATA_ROOT = '/home/me'", "LR = 0.25"])
    described = describe(trained, size=(64, 96), batch=1)
    assert "/home/me" in trained.config_text
    assert "/home/me" not in "".join(described.to_metadata().values())
    assert "LR = 0.25" in described.config

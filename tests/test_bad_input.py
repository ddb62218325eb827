"""Bad input to the programs: one sentence on stderr, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny
import torch
from tiny import refusal, run_training, train_arguments

from gfl import evaluate, train
from gfl.data import paths
from gfl.engine.state import TrainState
from gfl.record.run_folder import open_run

ROOT = Path(__file__).resolve().parents[1]
Content = dict[str, list[dict[str, object]]]


@pytest.fixture(scope="module")
def whole_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("bad_input") / "data")


@pytest.fixture
def data(whole_data: Path, tmp_path: Path) -> Path:
    """A data set that a test may damage."""
    shutil.copytree(whole_data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def trained(whole_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, not to be changed."""
    return run_training(whole_data, tmp_path_factory.mktemp("bad_input") / "run", "EVAL_EVERY = 0", "MAX_STEPS = 1")


@pytest.fixture
def refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What training on `data` is refused with; it must leave no folder behind."""

    def refuse(*bindings: str, flags: tuple[str, ...] = ()) -> str:
        said = refusal(train.main, train_arguments(data, tmp_path / "run", *bindings, flags=flags), capsys)
        assert not (tmp_path / "run").exists()
        return said

    return refuse


def evaluation(checkpoint: Path, data: Path, *more: str) -> list[str]:
    files = ["--annotations", str(tiny.annotations(data, "val")), "--images", str(data / "val2017")]
    return ["--checkpoint", str(checkpoint), *files, "--workers", "0", "--device", "cpu", *more]


# ---- the data set ----


def test_missing_annotation_file(refused: Callable[..., str], data: Path) -> None:
    said = refused("TRAIN_JSON = 'nowhere.json'", f"TRAIN_IMAGES = {str(data / 'train2017')!r}")
    assert "nowhere.json: no such annotation file" in said


def test_root_that_is_no_data_set(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused(f"DATA_ROOT = {str(tmp_path / 'nowhere')!r}")
    assert "nowhere: no such folder" in said


def test_missing_validation_data(refused: Callable[..., str], data: Path) -> None:
    tiny.annotations(data, "val").unlink()
    assert "give VAL_JSON and VAL_IMAGES" in refused()


def test_missing_folder_of_pictures(refused: Callable[..., str], data: Path) -> None:
    shutil.rmtree(data / "train2017")
    assert "train2017: no such images folder" in refused()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "not JSON at line 1"),
        ("[]", "expected COCO annotations"),
        ('{"shapes": [], "version": "5"}', "got the keys ['shapes', 'version'], expected COCO annotations"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "an empty list of images"),
    ],
    ids=["text", "list", "labelme", "no_pictures"],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_that_are_not_coco(
    refused: Callable[..., str], data: Path, split: str, text: str, said: str
) -> None:
    tiny.annotations(data, split).write_text(text)
    assert said in refused()


def test_category_that_the_file_does_not_name(refused: Callable[..., str], data: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][3]["category_id"] = 77

    tiny.change_annotations(data, change, "train")
    said = refused()
    assert "annotation 4 has category_id 77, which is not among the file's categories" in said


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_box_that_is_no_number(refused: Callable[..., str], data: Path, number: float) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["bbox"] = [1.0, 2.0, number, 4.0]

    tiny.change_annotations(data, change, "train")
    assert "expected four finite numbers" in refused()


def test_box_outside(refused: Callable[..., str], data: Path) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["bbox"] = [1000.0, 10.0, 20.0, 20.0]

    tiny.change_annotations(data, change, "train")
    assert "annotation 1 has the box [1000.0, 10.0, 20.0, 20.0] wholly outside its picture" in refused()


def test_boxes_over_the_border_and_without_area_are_told(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: Content) -> None:
        content["annotations"][0]["bbox"] = [10.0, 10.0, 0.0, 20.0]
        content["annotations"][1]["bbox"] = [-10.0, 10.0, 30.0, 20.0]

    tiny.change_annotations(data, change, "train")
    run_training(data, tmp_path / "run", "MAX_STEPS = 1", "EVAL_EVERY = 0")
    head = capsys.readouterr().out
    assert "1 boxes clipped, 1 dropped" in head


def test_more_boxes_than_the_padding(refused: Callable[..., str]) -> None:
    assert "got MAX_BOXES = 1, expected at least" in refused("MAX_BOXES = 1")


def test_validation_of_other_classes(refused: Callable[..., str], data: Path) -> None:
    def change(content: Content) -> None:
        content["categories"][0]["name"] = "disc"

    tiny.change_annotations(data, change, "val")
    assert "give training and validation the same categories" in refused()


@pytest.mark.parametrize("damage", ["missing", "truncated", "no_picture"])
def test_picture_that_cannot_be_read_is_named_counted_and_passed_over(
    damage: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = sorted((data / "train2017").iterdir())[:2]
    for path in bad:
        content = path.read_bytes()
        path.unlink()
        if damage != "missing":
            path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"no picture")
    run = run_training(data, tmp_path / "run", "EPOCHS = 2", "EVAL_EVERY = 0")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("passed over")]
    assert [line.split(":")[0] for line in told] == ["passed over (1 so far)", "passed over (2 so far)"]
    assert all(any(path.name in line for line in told) for path in bad)
    losses = [line["loss"] for line in tiny.log_lines(run)]
    assert len(losses) == 2 * tiny.STEPS_AN_EPOCH
    assert all(isinstance(loss, float) for loss in losses)


def test_pictures_of_which_most_cannot_be_read(refused: Callable[..., str], data: Path) -> None:
    for path in sorted((data / "train2017").iterdir())[:4]:
        path.write_bytes(b"no picture")
    said = refused()
    assert "2 of 6 pictures can be read" in said
    assert "gfl.data check --read_pictures" in said


def test_boxes_that_no_anchor_would_learn(refused: Callable[..., str], data: Path) -> None:
    def shrink(content: dict[str, list[dict[str, object]]]) -> None:
        for row in content["annotations"]:
            row["bbox"] = [10, 10, 1, 1]

    tiny.change_annotations(data, shrink, "train")
    said = refused()
    assert "(100.0%) are too small or too crowded to be learnt at these sizes" in said
    assert "nothing would be learnt" in said


def test_picture_without_a_canvas(refused: Callable[..., str]) -> None:
    assert "fit no canvas of [(64, 64)]" in refused("CANVASES = ((64, 64),)")


# ---- settings ----


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("EPOCS = 2", "EPOCS is no knob (--gin_bindings 'EPOCS = 2'); did you mean EPOCHS?"),
        ("ResNetConfig.deph = 50", "ResNetConfig has no field deph; did you mean depth?"),
        ("EPOCHS = 'two'", "EPOCHS = 'two': expected int"),
        ("BATCH_SIZE = 3.5", "BATCH_SIZE = 3.5: expected int"),
        ("EPOCHS 2", "expected NAME = value"),
        ("OPTIMIZER = 'adam'", "OPTIMIZER = 'adam': expected 'sgd' | 'adamw'"),
        ("ACCUMULATE = 3", "expected a positive multiple of ACCUMULATE=3"),
        ("resnet.ResNetConfig.depth = 52", "ResNetConfig.depth = 52: expected 18 | 34 | 50 | 101"),
        ("CANVASES = 'some'", "expected 'auto' | 'own' | tuple[tuple[int, int], ...]"),
        ("CANVASES = ((100, 100),)", "expected (H, W) in positive multiples of 32; use (128, 128)"),
        ("CLIP = -1.0", "CLIP=-1.0: expected at least 0"),
        ("EVAL_SHORT_SIDE = 0", "EVAL_SHORT_SIDE=0: expected at least 32"),
        ("EMA = 1.0", "EMA=1.0: expected a number from 0 to 0.99999"),
        ("FLIP = 50.0", "FLIP=50.0: expected a number from 0 to 1"),
        ("SAVE_EVERY = -1", "SAVE_EVERY=-1: expected at least 0"),
        ("EVAL_EVERY = -1", "EVAL_EVERY=-1: expected at least 0"),
        ("WORKERS = -1", "WORKERS=-1: expected a number from 0 to 1024"),
        ("DEVICE = 'tpu'", "DEVICE = 'tpu': expected 'auto' | 'cpu' | 'cuda' | 'npu'"),
        ("CHECKPOINT = 'nowhere.pth'", "checkpoint nowhere.pth: no such file"),
    ],
)
def test_setting_that_cannot_be(refused: Callable[..., str], binding: str, said: str) -> None:
    assert said in refused(binding)


def test_loss_scale_that_cannot_be(refused: Callable[..., str]) -> None:
    assert "LOSS_SCALE = 'dynamik': expected float | 'dynamic'" in refused("LOSS_SCALE = 'dynamik'")


def test_apex_that_is_not_installed(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apex", None)
    assert "APEX = True: no Apex is installed; give APEX = False" in refused("PRECISION = 'o1'", "APEX = True")


@pytest.mark.parametrize(
    "canvases", ["'own'", tuple((64, 32 * columns) for columns in range(3, 12))], ids=["own", "nine"]
)
def test_compiling_for_more_canvases_than_torch_keeps(refused: Callable[..., str], canvases: object) -> None:
    assert "expected at most 8 canvases" in refused("COMPILE = True", f"CANVASES = {canvases}")


def test_npu_without_torch_npu(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    assert "DEVICE='npu': torch_npu cannot be imported" in refused("DEVICE = 'npu'")


# ---- the command line ----


def test_no_run_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "got no --gin_file; give one" in refusal(train.main, [], capsys)


def test_run_file_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(train.main, ["--gin_file", "r5.gin"], capsys)
    assert "gin file 'r5.gin' does not exist" in said
    assert "r50.gin" in said


def test_resume_without_workdir(capsys: pytest.CaptureFixture[str]) -> None:
    assert "got --resume without --workdir" in refusal(train.main, ["--resume"], capsys)


def test_resume_with_a_checkpoint(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--resume", "--workdir", str(trained), "--checkpoint", "best.pt"]
    assert "got --resume with --checkpoint best.pt, expected one of them" in refusal(train.main, arguments, capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no last.pt; give the --workdir of a run that has one"),
        (b"no checkpoint", "cannot be read"),
        ({"weight": torch.ones(1)}, "holds no run to go on with"),
    ],
    ids=["none", "damaged", "foreign"],
)
def test_resume_from_what_is_no_checkpoint_of_a_run(
    content: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = tmp_path / "last.pt"
    if isinstance(content, bytes):
        last.write_bytes(content)
    elif content is not None:
        torch.save(content, last)
    assert said in refusal(train.main, ["--resume", "--workdir", str(tmp_path)], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ([] if content is None else ["last.pt"])


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("head.HeadConfig.convs = 2", "expected (16, 16, 3, 3); --resume keeps the model"),
        ("OPTIMIZER = 'sgd'", "another optimiser than SGD"),
        ("EMA = 0.9", "--resume keeps the model, the classes and EMA of the run"),
    ],
)
def test_resume_as_another_run(
    binding: str, said: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    arguments = ["--resume", "--workdir", str(tmp_path / "run"), "--gin_bindings", "MAX_STEPS = 2", binding]
    assert said in refusal(train.main, arguments, capsys)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_workdir_in_use(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_run(tmp_path / "run", "base"):
        said = refusal(train.main, train_arguments(data, tmp_path / "run"), capsys)
    assert f"the workdir {tmp_path / 'run'} is in use by process" in said


def test_workdir_of_a_finished_run(trained: Path, whole_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in trained.iterdir()}
    said = refusal(train.main, train_arguments(whole_data, trained), capsys)
    assert "holds a run; give --resume or another --workdir" in said
    assert {path: path.read_bytes() for path in trained.iterdir()} == before


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_program_itself_exits_with_2_and_one_sentence(program: str, tmp_path: Path) -> None:
    arguments = {
        "train": ["--gin_file", "r5.gin"],
        "evaluate": ["--checkpoint", "nowhere.pt", "--annotations", "nowhere.json", "--images", "."],
    }[program]
    command = [sys.executable, "-m", f"gfl.{program}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


# ---- during a run ----


def test_loss_that_is_not_a_number_stops_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the checkpoint: what is saved is from before the divergence."""

    def diverging(state: TrainState, *_: object) -> dict[str, torch.Tensor]:
        state.cursor.step += 1
        value = torch.tensor(float("nan") if state.cursor.step == 3 else 1.0)
        return {**dict.fromkeys(("loss", "qfl", "dfl", "giou"), value), "skipped": torch.tensor(0.0)}

    monkeypatch.setattr(train, "step", diverging)
    said = refusal(train.main, train_arguments(data, tmp_path / "run", "SAVE_EVERY = 1"), capsys)
    assert "the loss is not a number at step 3" in said
    assert "lower LR" in said
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["cursor"]["step"] == 2
    assert [line["loss"] for line in tiny.log_lines(tmp_path / "run")] == [1.0, 1.0, None]


@pytest.mark.parametrize("bad_steps", [20, 21])
def test_losses_under_a_loss_scale_may_be_bad_for_a_while(
    bad_steps: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def overflowing(state: TrainState, *_: object) -> dict[str, torch.Tensor]:
        state.cursor.step += 1
        value = torch.tensor(float("nan") if state.cursor.step <= bad_steps else 1.0)
        return {**dict.fromkeys(("loss", "qfl", "dfl", "giou"), value), "skipped": torch.tensor(1.0)}

    monkeypatch.setattr(train, "step", overflowing)
    arguments = train_arguments(data, tmp_path / "run", "PRECISION = 'o1'", "EPOCHS = 6", "EVAL_EVERY = 0")
    if bad_steps == 20:
        assert train.main(arguments) == 0
    else:
        assert "the loss is not a number at step 21" in refusal(train.main, arguments, capsys)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("o1", marks=pytest.mark.slow)])
def test_rate_that_is_far_too_high_is_told_as_such(
    precision: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bindings = ("LR = 1e9", "WARMUP_STEPS = 0", "CLIP = 0.0", "EPOCHS = 8", f"PRECISION = {precision!r}")
    said = refusal(train.main, train_arguments(data, tmp_path / "run", *bindings, "EVAL_EVERY = 0"), capsys)
    assert "the loss is not a number" in said


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("APEX = True", "APEX=True with PRECISION='fp32' and COMPILE=False: expected 'o1' and False"),
        ("ACCUMULATE = 0", "ACCUMULATE=0: expected at least 1"),
        ("SEED = -1", "SEED=-1: expected a number from 0 to 9.22337e+18"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(
    binding: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(train.main, train_arguments(data, tmp_path / "run", binding), capsys)


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_space_for_a_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "save", no_space)
    said = refusal(train.main, train_arguments(data, tmp_path / "run", "EVAL_EVERY = 0"), capsys)
    assert f"cannot write {tmp_path / 'run' / 'last.pt'}: No space left on device; free some space" in said
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.gin",
        "env.json",
        "log.jsonl",
        "operative.gin",
        "train.log",
    }


def test_no_space_for_anything(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.fsync", no_space)
    said = refusal(train.main, train_arguments(data, tmp_path / "run"), capsys)
    assert f"cannot write {tmp_path / 'run' / 'config.gin'}: No space left on device" in said
    assert not (tmp_path / "run").exists()


def test_no_space_for_the_generated_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "write_synthetic", no_space)
    said = refusal(train.main, ["--gin_file", "demo.gin", "--gin_bindings", "DEVICE = 'cpu'"], capsys)
    assert f"cannot write {tmp_path / 'data' / 'synthetic'}: No space left on device" in said


# ---- evaluation ----


def test_evaluation_of_a_class_that_the_model_does_not_know(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: Content) -> None:
        content["categories"].append({"id": 99, "name": "cube"})

    tiny.change_annotations(data, change, "val")
    said = refusal(evaluate.main, evaluation(trained / "last.pt", data, "--output", str(tmp_path / "out")), capsys)
    assert "has cube, which the model does not know: it was trained on circle, square, triangle, star, ring" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"no checkpoint", "cannot be read"),
        ({"state_dict": {"fc.weight": torch.ones(3, 3)}}, "does not say which model it is; give --gin_file"),
    ],
    ids=["none", "damaged", "foreign"],
)
def test_evaluation_of_what_is_no_model(
    content: object, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.pth"
    if isinstance(content, bytes):
        model.write_bytes(content)
    elif content is not None:
        torch.save(content, model)
    assert said in refusal(evaluate.main, evaluation(model, data), capsys)
    assert not list(tmp_path.glob("evaluation*"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--gin_bindings", "head.HeadConfig.convs = 2"), "is not of this model: got weights"),
        (("--batch", "0"), "got --batch 0, expected at least 1"),
        (("--batch", "1000000000"), "got --batch 1000000000, expected at most 65536"),
        (("--workers", "-1"), "got --workers -1, expected 0 to 1024"),
    ],
)
def test_evaluation_that_cannot_be(
    flags: Sequence[str], said: str, trained: Path, whole_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(evaluate.main, evaluation(trained / "last.pt", whole_data, *flags), capsys)


def test_no_space_for_the_results(
    trained: Path, whole_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.fsync", no_space)
    arguments = evaluation(trained / "last.pt", whole_data, "--output", str(tmp_path / "out"))
    assert "metrics.json: No space left on device" in refusal(evaluate.main, arguments, capsys)
    assert list((tmp_path / "out").iterdir()) == []


def test_evaluation_of_annotations_that_are_not_coco(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.annotations(data, "val").write_text(json.dumps({"images": []}))
    assert "expected COCO annotations" in refusal(evaluate.main, evaluation(trained / "last.pt", data), capsys)

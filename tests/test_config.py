from __future__ import annotations

import ast
import dataclasses
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import gfl
from gfl import config
from gfl.config import BACKBONE, ParsedRun, config_folder, find_gin_file, read_run, read_text, run_files, without_paths
from gfl.errors import InputError
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.settings import OptimConfig, RunConfig

ROOT = Path(config.__file__).resolve().parents[1]

# What finetune.gin asks the user for.
NEEDED = {"finetune.gin": ("DATA_ROOT = 'mine'", "CHECKPOINT = 'coco.pth'")}

COMPILE = "expected bool | 'reduce-overhead' | 'max-autotune' | 'max-autotune-no-cudagraphs'"
TRACKERS = "expected tuple['tensorboard' | 'mlflow' | 'wandb' | 'trackio', ...]"

# A value for every public knob, none of them any run file's.
BINDINGS = """
DATA_ROOT = 'mine'; TRAIN_JSON = 'a.json'; TRAIN_IMAGES = 'a'; VAL_JSON = 'b.json'; VAL_IMAGES = 'b';
KEEP_EMPTY = True; WORKERS = 7; MAX_BOXES = 99; SHORT_SIDE = (96, 111); LONG_SIDE = 1777; EVAL_SHORT_SIDE = 123;
CANVASES = ((96, 128), (128, 96)); FLIP = 0.25; FLIP_VERTICAL = 0.125; BRIGHTNESS = 0.11; CONTRAST = 0.12;
OPTIMIZER = 'adamw'; LR = 0.123; MOMENTUM = 0.5; WEIGHT_DECAY = 0.77; DECAY_VECTORS = False; SCHEDULE = 'cosine';
DECAY_EPOCHS = (3, 5); FINAL_LR = 0.33; WARMUP_STEPS = 33; WARMUP_START = 0.44; CLIP = 1.5; EMA = 0.999;
BATCH_SIZE = 6; ACCUMULATE = 2; EPOCHS = 31; MAX_STEPS = 17; SEED = 5; CHECKPOINT = 'w.pt'; DEVICE = 'cpu';
PRECISION = 'o1'; LOSS_SCALE = 'dynamic'; APEX = True; COMPILE = False; EVAL_EVERY = 13; SAVE_EVERY = 14; KEEP_LAST = 3;
LOG_EVERY = 15; PATIENCE = 16; FREEZE = 'backbone'; RECOMPUTE = False; SETTINGS_FROM_CHECKPOINT = True;
EVAL_IN_BACKGROUND = False; REPORT = False; TRACKERS = ('wandb', 'mlflow')
"""
KNOBS = {name: ast.literal_eval(value) for name, value in re.findall(r"([A-Z_]+) = (.*?)(?:;|$)", BINDINGS, re.M)}


def read(name: str | Path = "r50.gin", *bindings: str) -> ParsedRun:
    return read_run([name], [*NEEDED.get(str(name), ()), *bindings])


def refusal(*bindings: str) -> str:
    with pytest.raises(InputError) as caught:
        read_run(["r50.gin"], bindings)
    return str(caught.value)


def knobs_of(run: RunConfig) -> dict[str, object]:
    """{the field's name in capitals: its value} of all that is no dataclass in a run, its data and its optimiser."""
    fields = {**vars(run), **vars(run.data), **vars(run.optim)}
    return {
        "DATA_ROOT" if name == "root" else name.upper(): value
        for name, value in fields.items()
        if not dataclasses.is_dataclass(value)
    }


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# ---- run files


def test_without_files_a_run_has_the_defaults_of_the_dataclasses() -> None:
    assert read_run([]).run == RunConfig()


@pytest.mark.parametrize("name", run_files())
def test_every_run_file_takes_every_knob(name: str) -> None:
    assert knobs_of(read(name, *(f"{knob} = {value!r}" for knob, value in KNOBS.items())).run) == KNOBS


def test_every_knob_is_explained_in_base_gin() -> None:
    lines = dict(re.findall(r"^([A-Z_]+) = (.*)$", (config_folder() / "base.gin").read_text(), re.MULTILINE))
    assert set(lines) == set(KNOBS)
    assert {knob for knob, line in lines.items() if "#" not in line} == set()


def test_base_gin_is_read_before_a_run_file_whether_included_or_not(tmp_path: Path) -> None:
    plain, including = (
        write(tmp_path / "a.gin", "EPOCHS = 3"),
        write(tmp_path / "b.gin", "EPOCHS = 3\ninclude 'base.gin'"),
    )
    assert read(plain).run == read(including).run == RunConfig(epochs=3)


def test_r50_is_the_1x_recipe_from_imagenet_weights() -> None:
    assert read("r50.gin").run == RunConfig(checkpoint="torchvision")


def test_r101_ms2x_is_r50_ms2x_with_another_depth() -> None:
    run, r50 = read("r101_ms2x.gin").run, read("r50_ms2x.gin").run
    assert (r50.epochs, r50.optim.decay_epochs, r50.data.short_side) == (24, (16, 22), (480, 960))
    backbone = dataclasses.replace(r50.detector.backbone, depth=101)
    assert run == dataclasses.replace(r50, detector=dataclasses.replace(r50.detector, backbone=backbone))


def test_the_demo_is_the_small_model_on_generated_pictures() -> None:
    run = read("demo.gin").run
    assert run.data.root == "synthetic"
    assert run.detector == read("scratch_small.gin").run.detector
    assert (run.detector.backbone.norm, run.detector.head.background_channel) == ("gn", False)


def test_run_files_use_all_they_bind() -> None:
    assert {name: read(name).unused for name in run_files()} == dict.fromkeys(run_files(), ())


@pytest.mark.parametrize(
    ("bindings", "missing"), [(("CHECKPOINT = 'a.pth'",), "DATA_ROOT"), (("DATA_ROOT = 'mine'",), "CHECKPOINT")]
)
def test_finetune_says_which_binding_it_lacks(bindings: tuple[str, ...], missing: str) -> None:
    with pytest.raises(InputError, match=f"{missing}.*give"):
        read_run(["finetune.gin"], bindings)


# ---- settings from a checkpoint ----


def finetune(*bindings: str, files: Sequence[str | Path] = ("finetune.gin",)) -> ParsedRun:
    """Finetuning from the checkpoint of a demo with settings of its own."""
    stored = read_run(["demo.gin"], ["LR = 0.004", "CLIP = 5.0", "EPOCHS = 99", "SEED = 8"]).config_text
    return read_run(files, [*NEEDED["finetune.gin"], *bindings], lambda path: stored)


def test_finetuning_takes_model_optimiser_and_sizes_from_the_checkpoint() -> None:
    parsed, trained = finetune(), read_run(["demo.gin"]).run
    run = parsed.run
    assert run.detector == trained.detector
    assert (run.optim.optimizer, run.optim.lr, run.optim.clip, run.optim.weight_decay) == ("adamw", 0.004, 5.0, 0.05)
    assert (run.data.short_side, run.data.long_side, run.data.eval_short_side) == ((128, 160), 216, 160)
    assert (run.optim.ema, run.data.flip_vertical, run.data.brightness) == (0.995, 0.0, 0.2)
    assert {"OPTIMIZER = 'adamw'", "LR = 0.004", "resnet.ResNetConfig.depth = 18"} <= set(parsed.taken)
    assert "FLIP = 0.5" not in parsed.taken  # as base.gin has it


def test_finetuning_takes_the_kind_of_backbone_unless_a_run_file_names_another(tmp_path: Path) -> None:
    stored = read_run(["res2net101_dcn_ms2x.gin"], ["Res2NetConfig.depth = 50"])
    needed = NEEDED["finetune.gin"]
    parsed = read_run(["finetune.gin"], needed, lambda path: stored.config_text)
    assert parsed.run.detector == stored.run.detector
    assert f"{BACKBONE} = @res2net.Res2NetConfig()" in parsed.taken
    assert read_text(parsed.config_text).run == parsed.run
    mine = write(tmp_path / "mine.gin", "DetectorConfig.backbone = @ResNetConfig()\nResNetConfig.depth = 34")
    other = read_run([mine, "finetune.gin"], needed, lambda path: stored.config_text)
    assert (other.run.detector.backbone, other.unused) == (ResNetConfig(depth=34), ())
    assert not [text for text in other.taken if "Res2Net" in text]


def test_settings_of_a_backbone_that_the_run_has_not_are_told_of(tmp_path: Path) -> None:
    """On the command line they are a mistake; in a file they may be of use to another run."""
    with pytest.raises(
        InputError, match=r"resnet.ResNetConfig.depth = 18' changes nothing.*@res2net.Res2NetConfig\(\)"
    ):
        read_run(["res2net101_dcn_ms2x.gin"], ["ResNetConfig.depth = 18"])
    mine = write(tmp_path / "mine.gin", "include 'res2net101_dcn_ms2x.gin'\nResNetConfig.groups = 0")
    parsed = read_run([mine])
    assert parsed.unused == (f"resnet.ResNetConfig.groups = 0 ({mine}:2)",)
    assert read_text(parsed.config_text).unused == ()


def test_finetuning_takes_nothing_of_data_machine_and_length() -> None:
    run, plain = finetune().run, read_run(["finetune.gin"], NEEDED["finetune.gin"]).run
    assert (run.epochs, run.seed, run.data.root, run.checkpoint) == (plain.epochs, 0, "mine", "coco.pth")
    assert (run.optim.schedule, run.optim.warmup_steps, run.batch_size) == ("cosine", 100, plain.batch_size)


def test_run_files_and_bindings_win_over_the_checkpoint(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.gin", "CLIP = 1.0\nhead.HeadConfig.topk = 2\nsettings.OptimConfig.ema = 0.5")
    for files in ([mine, "finetune.gin"], ["finetune.gin", mine]):
        run = finetune("LR = 0.002", files=files).run
        assert (run.optim.lr, run.optim.clip, run.optim.ema, run.detector.head.topk) == (0.002, 1.0, 0.5, 2)
        assert (run.optim.optimizer, run.detector.head.channels) == ("adamw", 64)


def test_what_belongs_to_another_setting_is_not_taken_without_it() -> None:
    run = finetune("OPTIMIZER = 'sgd'", "SHORT_SIDE = 200").run
    assert (run.optim.lr, run.optim.weight_decay, run.data.eval_short_side) == (0.01, 0.0001, None)
    assert finetune("OPTIMIZER = 'adamw'").run.optim.lr == 0.004


def test_checkpoint_without_settings_is_finetuned_as_the_file_says() -> None:
    plain = read_run(["finetune.gin"], NEEDED["finetune.gin"])
    assert read_run(["finetune.gin"], NEEDED["finetune.gin"], lambda path: None) == plain
    assert (plain.run.optim.optimizer, plain.run.optim.lr, plain.run.detector.backbone.depth) == ("sgd", 0.01, 50)


def test_settings_that_were_taken_are_in_the_stored_text_and_are_not_taken_again() -> None:
    parsed = finetune("LR = 0.002")
    assert read_text(parsed.config_text).run == parsed.run
    assert read_text(parsed.config_text, ["CLIP = 3.0"]).run.optim.clip == 3.0


@pytest.mark.parametrize("checkpoint", ["None", "'torchvision'"])
def test_settings_are_taken_from_files_alone(checkpoint: str) -> None:
    def refuse(path: str) -> str:
        raise AssertionError(path)

    bindings = ["SETTINGS_FROM_CHECKPOINT = True", f"CHECKPOINT = {checkpoint}"]
    assert read_run(["r50.gin"], bindings, refuse).taken == ()
    read_run(["r50.gin"], ["CHECKPOINT = 'best.pt'"], refuse)


def test_finetune_after_a_run_file_keeps_that_model_and_optimiser() -> None:
    run = read_run(["scratch_small.gin", "finetune.gin"], NEEDED["finetune.gin"]).run
    assert run.detector == read("scratch_small.gin").run.detector
    assert (run.optim.optimizer, run.optim.lr) == ("adamw", 0.008)


# ---- order, state, round trip


def test_later_files_and_bindings_win(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.gin", "include 'r50.gin'\nEPOCHS = 3\nLR = 0.5\n")
    run = read_run(["r50_ms2x.gin", mine], ["LR = 0.25", "LR = 0.125"]).run
    assert (run.epochs, run.optim.lr) == (3, 0.125)
    assert run.data.short_side == (480, 960)  # a second include of r50.gin undoes nothing


def test_one_reading_leaves_nothing_to_the_next() -> None:
    before = read("r50.gin")
    read("demo.gin", "EPOCHS = 99")
    with pytest.raises(InputError):
        read("r50.gin", "EPOCHS = 0.5")
    assert read("r50.gin") == before


@pytest.mark.parametrize("name", ["r50_ms2x.gin", "r101_ms2x.gin", "demo.gin", "finetune.gin"])
def test_stored_texts_give_the_same_run_again(name: str) -> None:
    parsed = read(name, "CANVASES = [[96, 128], [128, 96]]", "PredictConfig.nms_iou = 0.5")
    assert read_text(parsed.config_text)[:3] == parsed[:3]
    assert read_text(parsed.operative_text).run == parsed.run
    assert "\nEPOCHS = " in parsed.config_text  # knobs stay visible
    assert "include" not in parsed.config_text
    assert "head.HeadConfig.topk = 4" in parsed.operative_text  # a default that no file binds


def test_a_stored_text_takes_further_bindings() -> None:
    stored = read("demo.gin").config_text
    again = read_text(stored, ["HeadConfig.convs = 3"])
    assert again.run.detector.head.convs == 3
    assert read_text(again.config_text).run == again.run


def test_the_number_of_classes_is_no_setting_of_a_run_but_may_be_in_a_stored_text(tmp_path: Path) -> None:
    said = "num_classes = 3: the number of classes comes from the categories of the annotation file; remove it"
    assert refusal("DetectorConfig.num_classes = 3").endswith(said)
    with pytest.raises(InputError, match=re.escape(said)):
        read(write(tmp_path / "mine.gin", "import gfl.model.detector\ndetector.DetectorConfig.num_classes = 3\n"))
    before = "from __gin__ import dynamic_registration\nfrom gfl.model import detector\n"
    assert read_text(f"{before}detector.DetectorConfig.num_classes = 3\n").run.detector.num_classes == 3
    operative = read("demo.gin").operative_text
    assert "num_classes" not in operative
    assert read(write(tmp_path / "operative.gin", operative)).run == read("demo.gin").run


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("LR = 1e999", "LR = inf: expected finite numbers"),
        ("DetectorConfig.mean = (-1e999, 1.0, 1.0)", "DetectorConfig.mean = (-inf, 1.0, 1.0): expected finite"),
        ("BATCH_SIZE = 1000000000", "BATCH_SIZE=1000000000: expected a number from 1 to 65536"),
        ("SEED = 9999999999999999999", "SEED=9999999999999999999: expected a number from 0 to"),
        ("SHORT_SIDE = (500, 300)", "SHORT_SIDE=(500, 300): expected a number or (low, high) with 32 <= low <= high"),
        ("SHORT_SIDE = 1000000000", "SHORT_SIDE=1000000000: expected a number or (low, high)"),
        ("CANVASES = ()", "CANVASES=(): expected at least one (H, W)"),
        ("MAX_BOXES = 0", "MAX_BOXES=0: expected a number from 1 to 100000"),
        ("WORKERS = -1", "WORKERS=-1: expected a number from 0 to 1024"),
        ("WORKERS = 1000000", "WORKERS=1000000: expected a number from 0 to 1024"),
        ("DetectorConfig.std = (1.0, 0.0, 1.0)", "DetectorConfig.std=(1.0, 0.0, 1.0): expected positive numbers"),
        ("PredictConfig.nms_iou = -1.0", "PredictConfig.nms_iou=-1.0: expected a number from 0 to 1"),
        ("PredictConfig.max_detections = 0", "PredictConfig.max_detections=0: expected a number from 1 to 100000"),
        (
            "PredictConfig.max_detections = 1000000000",
            "PredictConfig.max_detections=1000000000: expected a number from",
        ),
        (
            "ResNetConfig.deformable_stages = ()",
            "deformable_stages=(): expected stages from 1 to 4; deformable=None is",
        ),
        ("PredictConfig.rounds = 1000000000", "PredictConfig.rounds=1000000000: expected a number from 1 to 1000"),
        ("PredictConfig.nms_pre = -1", "PredictConfig.nms_pre=-1: expected at least 0"),
        ("PredictConfig.nms = 'soft'", "PredictConfig.nms = 'soft': expected 'hard' | 'soft_linear' | 'soft_gaussian'"),
        ("PredictConfig.soft_sigma = 0.0", "PredictConfig.soft_sigma=0.0: expected a number from 0.001 to 1000"),
        ("LossConfig.giou_weight = -1.0", "LossConfig.giou_weight=-1.0: expected at least 0"),
        ("LossConfig.qfl_beta = -1.0", "LossConfig.qfl_beta=-1.0: expected at least 0"),
        ("ATSSConfig.ignore_iof = 2.0", "ATSSConfig.ignore_iof=2.0: expected a number from -1 to 1"),
        ("HeadConfig.channels = 0", "HeadConfig.channels=0: expected a number from 1 to 4096"),
        ("HeadConfig.convs = -1", "HeadConfig.convs=-1: expected a number from 0 to 64"),
        ("HeadConfig.gn_groups = 0", "HeadConfig.gn_groups=0: expected at least 1"),
        ("HeadConfig.gn_groups = 5", "channels=256: expected a multiple of gn_groups=5"),
        ("HeadConfig.reg_max = 1000000000", "HeadConfig.reg_max=1000000000: expected a number from 1 to 256"),
        ("HeadConfig.quality_channels = -1", "HeadConfig.quality_channels=-1: expected a number from 1 to 4096"),
        ("FPNConfig.channels = 0", "FPNConfig.channels=0: expected a number from 1 to 4096"),
        ("ResNetConfig.base_width = 0", "ResNetConfig.base_width=0: expected a number from 1 to 512"),
        ("ResNetConfig.gn_groups = 0", "ResNetConfig.gn_groups=0: expected at least 1"),
    ],
)
def test_a_setting_beyond_its_limits_is_refused_with_them(binding: str, said: str) -> None:
    assert refusal(binding).startswith(said)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_setting_of_a_python_caller(value: float) -> None:
    with pytest.raises(ValueError, match=r"LR=.*expected at least 0"):
        OptimConfig(lr=value)
    with pytest.raises(ValueError, match=r"std=.*expected positive numbers"):
        DetectorConfig(std=(1.0, value, 1.0))
    with pytest.raises(ValueError, match=r"mean=.*expected finite numbers"):
        DetectorConfig(mean=(1.0, value, 1.0))


def test_a_stored_text_imports_no_other_module() -> None:
    with pytest.raises(InputError, match="import of antigravity"):
        read_text("import antigravity\n")


# ---- values


def test_an_int_is_a_float_and_a_list_is_a_tuple() -> None:
    run = read("r50.gin", "LR = 1", "SHORT_SIDE = [480, 960]").run
    assert (run.optim.lr, run.data.short_side) == (1, (480, 960))


def test_a_knob_may_be_defined_by_another() -> None:
    assert read("r50.gin", "HALF = 0.5", "FLIP = %HALF", "FLIP_VERTICAL = %HALF").run.data.flip_vertical == 0.5


def test_a_block_binds_several_fields() -> None:
    assert read("r50.gin", "OptimConfig:\n  momentum = 0.5\n").run.optim.momentum == 0.5


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("EPOCHS = 'ten'", "EPOCHS = 'ten': expected int"),
        ("EPOCHS = 1.5", "EPOCHS = 1.5: expected int"),
        ("EPOCHS = True", "EPOCHS = True: expected int"),
        ("EPOCHS = None", "EPOCHS = None: expected int"),
        ("EPOCHS = @ResNetConfig()", "EPOCHS = @resnet.ResNetConfig(): expected int"),
        ("LR = True", "LR = True: expected float"),
        ("LR = '0.1'", "LR = '0.1': expected float"),
        ("COMPILE = 1", f"COMPILE = 1: {COMPILE}"),
        (
            "COMPILE = 'max-autotune-no-cudagraph'",
            f"COMPILE = 'max-autotune-no-cudagraph': {COMPILE}, did you mean 'max-autotune-no-cudagraphs'?",
        ),
        ("COMPILE = 'reduce_overhead'", f"COMPILE = 'reduce_overhead': {COMPILE}, did you mean 'reduce-overhead'?"),
        ("LOSS_SCALE = None", "LOSS_SCALE = None: expected float | 'dynamic'"),
        ("DECAY_EPOCHS = 8", "DECAY_EPOCHS = 8: expected tuple[float, ...]"),
        ("DECAY_EPOCHS = (8, '11')", "DECAY_EPOCHS = (8, '11'): expected tuple[float, ...]"),
        ("SHORT_SIDE = (1, 2, 3)", "SHORT_SIDE = (1, 2, 3): expected int | tuple[int, int]"),
        ("CANVASES = (800, 1344)", "CANVASES = (800, 1344): expected 'auto' | 'own' | tuple[tuple[int, int], ...]"),
        ("OPTIMIZER = 'lion'", "OPTIMIZER = 'lion': expected 'sgd' | 'adamw'"),
        ("DEVICE = 'tpu'", "DEVICE = 'tpu': expected 'auto' | 'cpu' | 'cuda' | 'npu'"),
        ("TRACKERS = ('tensorbord',)", f"TRACKERS = ('tensorbord',): {TRACKERS}, did you mean ('tensorboard',)?"),
        ("TRACKERS = 'mlflow'", f"TRACKERS = 'mlflow': {TRACKERS}, did you mean ('mlflow',)?"),
        ("TRACKERS = ('mlflow', 'comet')", f"TRACKERS = ('mlflow', 'comet'): {TRACKERS}"),
        ("MAX_BOXES = True", "MAX_BOXES = True: expected int | 'auto'"),
        ("OptimConfig.momentum = 'x'", "OptimConfig.momentum = 'x': expected float"),
        ("RunConfig.data = 3", "RunConfig.data = 3: expected DataConfig"),
        ("RunConfig.data = @DataConfig", "RunConfig.data = @settings.DataConfig: expected DataConfig"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_knob(binding: str, said: str) -> None:
    assert refusal(binding) == f"{said} (--gin_bindings)"


def test_a_tracker_twice_is_refused() -> None:
    said = "TRACKERS=('mlflow', 'mlflow'): expected each tracker once"
    assert refusal("TRACKERS = ('mlflow', 'mlflow')").startswith(said)


def test_a_dataclass_speaks_for_itself() -> None:
    assert refusal("HeadConfig.topk = 99").startswith("topk=99: expected 1..17")


# ---- names


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("BACH_SIZE = 4", "BACH_SIZE is no knob (--gin_bindings 'BACH_SIZE = 4'); did you mean BATCH_SIZE?"),
        ("batch_size = 4", "batch_size is no knob (--gin_bindings 'batch_size = 4'); did you mean BATCH_SIZE?"),
        ("OptimConfig.momentun = 0", "--gin_bindings: OptimConfig has no field momentun; did you mean momentum?"),
        ("OptinConfig.momentum = 0", "--gin_bindings: OptinConfig is no setting; did you mean OptimConfig?"),
        ("FLIP = %HALV", "--gin_bindings: %HALV is not defined; expected one of ACCUMULATE, "),
        ("FLIP = %EPOCH", "--gin_bindings: %EPOCH is not defined; did you mean EPOCHS?"),
        ("FLIP = %FLIP", "--gin_bindings: %FLIP is defined by itself; "),
        ("fast/OptimConfig.lr = 1", "--gin_bindings: fast/OptimConfig.lr has a scope, "),
        ("import os", "--gin_bindings:1: import of os; "),
        (
            "DATA_ROOT = /data",
            "--gin_bindings: DATA_ROOT = /data: Unable to parse value; expected NAME = value, with text in",
        ),
        (
            "DEVICE = cpu",
            "--gin_bindings: DEVICE = cpu: Failed to parse token 'cpu'; expected NAME = value, with text in",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(binding: str, said: str) -> None:
    message = refusal(binding)
    assert message.startswith(said)
    assert "\n" not in message


def test_a_knob_that_a_direct_binding_overrules_is_refused() -> None:
    assert "changes nothing" in refusal("RunConfig.batch_size = 8", "BATCH_SIZE = 4")


def test_what_a_file_binds_in_vain_is_reported_with_its_line(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.gin", "EPOCHS = 3\nMY_SIZES = 4\nRunConfig.seed = 3\nSEED = 5\n")
    assert read(mine).unused == (f"SEED = 5 ({mine}:4)", f"MY_SIZES = 4 ({mine}:2)")


@pytest.mark.parametrize(
    ("typo", "knob"), [("BACH_SIZE", "BATCH_SIZE"), ("EPOCS", "EPOCHS"), ("shortside", "SHORT_SIDE")]
)
def test_what_a_file_binds_in_vain_and_is_nearly_a_knob_is_refused(typo: str, knob: str, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.gin", f"WORKERS = 3\n{typo} = 4\n")
    with pytest.raises(InputError) as error:
        read(mine)
    assert str(error.value) == f"{typo} is no knob ({mine}:2: {typo} = 4); did you mean {knob}?"


@pytest.mark.parametrize(
    ("text", "place"),
    [("EPOCHS = 3\nLR == 2\n", ":2: LR == 2: "), ("LR 2\n", ":1: LR 2: "), ("A = (1,\n", ":1: A = (1,: ")],
)
def test_wrong_syntax_is_told_with_file_and_line(tmp_path: Path, text: str, place: str) -> None:
    mine = write(tmp_path / "mine.gin", text)
    with pytest.raises(InputError, match=re.escape(f"{mine}{place}")):
        read(mine)


# ---- files


def test_a_file_is_included_from_beside_the_including_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "deep" / "sizes.gin", "SHORT_SIDE = 333")
    write(tmp_path / "sizes.gin", "SHORT_SIDE = 444")
    mine = write(tmp_path / "deep" / "mine.gin", "include 'r50.gin'\ninclude 'sizes.gin'\n")
    monkeypatch.chdir(tmp_path)
    assert read(mine).run.data.short_side == 333
    assert read("deep/mine.gin").run.data.short_side == 333


def test_a_bare_name_is_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("demo.gin").run.data.root == "synthetic"
    write(tmp_path / "demo.gin", "EPOCHS = 77")
    assert read("demo.gin").run.epochs == 77  # the user's own file comes first


def test_a_missing_file_is_answered_with_the_run_files() -> None:
    with pytest.raises(InputError, match=r"'r49\.gin' does not exist; .*demo\.gin.*r50\.gin"):
        find_gin_file("r49.gin")
    assert "base.gin" not in run_files()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("scratch_smal.gin", "scratch_small.gin"), ("r50", "r50.gin"), ("here/mine", "here/mine.gin"), ("x", None)],
)
def test_a_missing_file_names_the_one_that_is_meant(
    name: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    write(tmp_path / "here" / "mine.gin", "")
    with pytest.raises(InputError) as caught:
        find_gin_file(name)
    assert ("did you mean" in str(caught.value)) == (meant is not None)
    assert meant is None or f"did you mean {meant}?" in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "best.pt"
    binary.write_bytes(b"\x80\x02")
    with pytest.raises(InputError, match="cannot be read"):
        read(binary)


def test_run_files_of_a_wheel_are_found_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "gfl"
    with pytest.raises(InputError, match="install the project again"):
        config_folder(installed)
    write(installed / "configs" / "base.gin", "")
    monkeypatch.setattr(gfl, "__path__", [*gfl.__path__, str(installed)])
    assert config_folder(installed) == installed / "configs"
    sys.modules.pop("gfl.configs")


# ---- gin-config itself


def environment(*path: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}


# config.py needs of gfl.settings only these names here; a stand-in keeps torch out of the subprocess.
ASK_FOR_GIN = """
import sys, types
sys.modules["gfl.settings"] = types.SimpleNamespace(
    RunConfig=object, DataConfig=object, OptimConfig=object, FOLLOWS={}, IMAGENET=(), passed_on=None
)
if sys.argv[1] == "without gin-config":
    sys.path = [path for path in sys.path if not path.endswith("-packages")]
from gfl.config import load_gin
from gfl.errors import InputError
try:
    print(load_gin().__name__)
except InputError as error:
    print(error)
"""


def ask_for_gin(cwd: Path, gin_config: str) -> str:
    """What `load_gin` answers in a program started in `cwd`, which comes first on its sys.path."""
    command = [sys.executable, "-c", ASK_FOR_GIN, gin_config]
    return subprocess.run(
        command, cwd=cwd, env=environment(cwd, ROOT), check=True, capture_output=True, text=True
    ).stdout


def test_gin_config_is_found_beside_a_folder_of_run_files() -> None:
    assert ask_for_gin(ROOT, "with gin-config") == "gin\n"


def test_a_missing_gin_config_is_not_mistaken_for_the_folder_of_run_files(tmp_path: Path) -> None:
    (tmp_path / "gin").mkdir()
    answer = ask_for_gin(tmp_path, "without gin-config")
    assert answer.startswith(f"gin-config is missing ({tmp_path / 'gin'}")
    assert "pip install gin-config" in answer


def test_a_missing_gin_config_is_told_without_any_folder() -> None:
    code = ASK_FOR_GIN.replace("from gfl.config", "sys.modules['gin'] = None\nfrom gfl.config", 1)
    command = [sys.executable, "-c", code, "with gin-config"]
    answer = subprocess.run(command, env=environment(ROOT), check=True, capture_output=True, text=True).stdout
    assert answer.startswith("gin-config is missing (")


def test_a_package_that_hides_gin_config_is_named(tmp_path: Path) -> None:
    hiding = write(tmp_path / "gin" / "__init__.py", "")
    assert ask_for_gin(tmp_path, "with gin-config").startswith(f"gin-config is hidden by {hiding}; remove that file")


def test_a_run_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "mine.gin").write_text("EPOCHS = 3\n", encoding="utf-8-sig")
    assert read_run([tmp_path / "mine.gin"]).run.epochs == 3


# ---- texts of strangers ----


def doubled(times: int) -> str:
    """Macros each of which holds the one before it twice: 2 ** times values in a few lines."""
    return "A0 = (32, 32)\n" + "".join(f"A{i + 1} = (%A{i}, %A{i})\n" for i in range(times)) + f"CANVASES = %A{times}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("include 'marker.gin'", "stored config:1: include of 'marker.gin', expected all settings in the text itself"),
        ("import marker", "import of marker"),
        ("from marker import f", "import of marker.f"),
        ("from __gin__ import dynamic_registration\nimport marker\nEPOCHS = @marker.f()", "import of marker"),
        ("EPOCHS = @marker.f()", "marker.f is no setting"),
        ("EPOCHS = @os.system()", "os.system is no setting"),
        ("EPOCHS = __import__('marker')", "Failed to parse token '__import__'"),
        ("marker.f.x = 1", "marker.f is no setting"),
        ("EPOCHS = " + "(" * 5000, "nested too deeply|nested parentheses"),
        ("EPOCHS = 0x" + "f" * 300, "stored config:1: a whole number of 1200 bits, expected at most 64"),
        ("LR = 0x" + "f" * 5000, "stored config:1: a whole number of 20000 bits, expected at most 64"),
        ("EPOCHS = '" + "a" * 5000 + "'", "EPOCHS = 'a+\\.\\.\\.: expected int"),
        (doubled(40), "stored config:42: CANVASES stands for more than 10000 values, expected a setting"),
        ("".join(f"A{i} = %A{i + 1}\n" for i in range(3000)) + "EPOCHS = %A0", "nested in more than 100 other macros"),
    ],
)
def test_a_text_that_travelled_in_a_file_imports_and_includes_nothing(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "marker.py").write_text("open('ran', 'w').close()\ndef f(): open('ran', 'w').close()\n")
    (tmp_path / "marker.gin").write_text("EPOCHS = 3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        read_text(text)
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "ran").exists()


def test_settings_without_paths_name_no_file_and_keep_the_rest(tmp_path: Path) -> None:
    mine = write(
        tmp_path / "mine.gin",
        "include 'r50.gin'\nHERE = '/home/me'\nDATA_ROOT = %HERE\nsettings.DataConfig.val_json = '/home/v.json'\n",
    )
    whole = read_run([mine], ["CHECKPOINT = '/home/w.pth'", "LR = 0.5", "HeadConfig.convs = 2"])
    assert whole.config_text.count("/home") == 3
    text = without_paths(whole.config_text)
    assert "/home" not in text
    run = read_text(text).run
    assert run.checkpoint is None
    assert run.data.root == "data/coco"
    assert (run.detector, run.optim) == (whole.run.detector, whole.run.optim)
    assert without_paths(text) == text
    assert without_paths("") == ""

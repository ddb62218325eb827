"""`make npu-check` apart from a device: what it says without one, that no part takes the others along, its verdicts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from gfl.npu_check import __main__ as program
from gfl.npu_check import parts as checks
from gfl.npu_check import tripwire
from gfl.npu_check.__main__ import DeviceInfo, chosen_parts, run_all
from gfl.npu_check.check import NO_FALLBACK, Check, Failed, Skipped, python_path
from gfl.npu_check.compare import agreement, relative_differences, step_losses
from gfl.npu_check.parts import PARTS, Part
from gfl.npu_check.processes import Finished, run
from gfl.npu_check.report import FAILED, PASSED, SKIPPED, Figures
from gfl.npu_check.sizes import CPU
from gfl.runtime.providers import ProviderChoice, parse_options
from infer.run import parser as infer_parser

ROOT = Path(__file__).resolve().parent.parent
SUPPLIED = DeviceInfo("cpu, 2 threads", 1, ["CPUExecutionProvider"])


def has_npu() -> bool:
    found = torch.accelerator.current_accelerator(check_available=True)
    return found is not None and found.type == "npu"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return Check("cpu", 1, SUPPLIED.providers, CPU._replace(minutes=0.5), tmp_path, sys.executable)


# ---- without a device ----


@pytest.mark.skipif(has_npu(), reason="there is an NPU here")
def test_without_an_npu_it_says_in_one_sentence_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gfl.npu_check", "--output", "runs/check"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: DEVICE='npu': torch_npu cannot be imported")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_driver_imports_no_torch() -> None:
    """A torch_npu without CANN breaks `import torch`: the driver must live to say so."""
    command = "import sys, gfl.npu_check.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_torch_that_cannot_be_imported_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libhccl.so: cannot open shared object file')\n")
    done = subprocess.run(
        [sys.executable, "-m", "gfl.npu_check.probe", "npu"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: PyTorch cannot be imported (libhccl.so: cannot open shared object file)")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--device", "cpu", "--output", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--device", "cpu", "--parts", "speeed"]) == 2
    assert "speeed" in capsys.readouterr().err


def test_parts_keep_their_order_however_they_are_named() -> None:
    assert list(chosen_parts(["o1", "training"])) == ["training", "o1"]
    assert list(chosen_parts([])) == list(PARTS)


# ---- one part cannot take the others along ----


def program_part(text: str) -> Part:
    def part(check: Check) -> Figures:
        check.python_program("part", "-c", text)
        return {"value": 1.5}

    return part


def skipping(check: Check) -> Figures:
    raise Skipped("not here")


def broken(check: Check) -> Figures:
    raise KeyError("losses")


def beyond(check: Check) -> Figures:
    raise Failed("a loss differs", {"largest": math.inf})


def test_a_crash_and_a_bug_lose_neither_the_other_parts_nor_the_report(check: Check) -> None:
    killed = program_part("import os, signal; print('before', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    refused = program_part("import sys; sys.exit('error: no such operator')")
    parts: Mapping[str, Part] = {
        "killed": killed,
        "refused": refused,
        "skipping": skipping,
        "broken": broken,
        "beyond": beyond,
        "good": program_part("print('fine')"),
    }
    report = run_all(check, SUPPLIED._asdict(), parts)
    found = {outcome.part: outcome for outcome in report.outcomes}
    statuses = [found[name].status for name in parts]
    assert statuses == [FAILED, FAILED, SKIPPED, FAILED, FAILED, PASSED]
    assert found["killed"].reason == "ended by signal 9: before"
    assert found["refused"].reason == "exit 1: error: no such operator"
    assert "KeyError" in found["broken"].reason
    assert found["good"].figures == {"value": 1.5}
    written = json.loads((check.folder / "npu_check_report.json").read_text())
    assert [part["part"] for part in written["parts"]] == list(parts)
    assert written["counts"] == {"passed": 1, "failed": 4, "skipped": 1}
    assert written["not_run"] == []
    assert written["parts"][4]["figures"] == {"largest": None}  # JSON has no infinity
    page = (check.folder / "npu_check_report.md").read_text()
    assert json.loads(page.partition("```json\n")[2].removesuffix("```\n")) == written
    assert "| refused | failed |" in page
    assert "no such operator" in page


def test_the_report_is_there_before_the_last_part_has_run(check: Check) -> None:
    def look(check: Check) -> Figures:
        written = json.loads((check.folder / "npu_check_report.json").read_text())
        return {"passed": written["counts"]["passed"], "not run": written["not_run"]}

    report = run_all(check, SUPPLIED._asdict(), {"first": lambda _: {}, "second": look})
    assert report.outcomes[1].figures == {"passed": 1, "not run": ["second"]}


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    child = "import time; open('child', 'w').write(str(__import__('os').getpid())); time.sleep(600)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    log = tmp_path / "log"
    finished = run([sys.executable, "-c", parent], log, folder=tmp_path, variables={}, limit_s=4.0)
    assert finished.code is None
    assert finished.seconds < 30
    wait_for(lambda: not alive(int((tmp_path / "child").read_text())))


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_check_that_is_ended_ends_the_running_part(tmp_path: Path) -> None:
    text = (
        "import signal, sys; from pathlib import Path; from gfl.npu_check.processes import run\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        'child = \'import os, time; open("child", "w").write(str(os.getpid())); time.sleep(600)\'\n'
        "here = Path('.')\n"
        "run([sys.executable, '-c', child], here / 'log', folder=here, variables={}, limit_s=600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", text], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as driver:
        wait_for(lambda: (tmp_path / "child").is_file() and (tmp_path / "child").read_text() != "")
        driver.terminate()
        driver.wait(30)
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not alive(child))


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Look until it is so; a failure when it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.05)


def test_a_command_gets_its_variables_and_its_folder(tmp_path: Path) -> None:
    text = "import os; print(os.environ['TORCH_NPU_FALLBACK_CPU_DISABLE'], os.getcwd())"
    log = tmp_path / "log"
    finished = run([sys.executable, "-c", text], log, folder=tmp_path, variables=NO_FALLBACK, limit_s=60)
    assert finished.code == 0
    assert finished.last_line() == f"1 {tmp_path.resolve()}"


# ---- what needs an NPU says so ----


@pytest.mark.parametrize("name", ["cann", "atc", "om"])
def test_what_needs_cann_is_skipped_with_the_reason_on_a_cpu(check: Check, name: str) -> None:
    outcome = program.run_part(check, name, PARTS[name])
    assert outcome.status == SKIPPED
    assert "NPU" in outcome.reason


def test_a_part_whose_input_is_missing_is_skipped_not_failed(check: Check) -> None:
    outcome = program.run_part(check, "o1", PARTS["o1"])
    assert outcome.status == SKIPPED
    assert "training/log.jsonl" in outcome.reason


def test_two_ranks_need_two_devices(check: Check) -> None:
    check.device, check.devices = "npu", 1
    assert program.run_part(check, "ranks", PARTS["ranks"]).status == SKIPPED


@pytest.mark.parametrize(("name", "soc"), [("npu:0 Ascend310P3", "Ascend310P3"), ("cpu, 2 threads", None)])
def test_soc_version_is_the_name_of_the_npu(name: str, soc: str | None) -> None:
    assert DeviceInfo(name, 1, []).soc_version() == soc


def test_cann_is_asked_in_words_that_infer_takes() -> None:
    flags = ["--model", "m.onnx", "--input", "in", "--output", "out", "--provider", "cann", *checks.CANN_PRECISION]
    given = infer_parser().parse_args(flags)
    assert ProviderChoice(given.provider, False, parse_options(given.provider_options)).options != {}


SUMMARY = {
    "img_per_s": 40.0,
    "p50_ms": 9.0,
    "p95_ms": 9.5,
    "batch": 1,
    "provider": "Ascend OM",
    "nodes_by_provider": {},
}


def stand_in_for_the_programs(check: Check, log: str, *words: str, **_: object) -> Finished:
    """export.om that writes an .om, and infer.run that finds one thing; anything else is a mistake of the part."""
    flags = dict(zip(words[2::2], words[3::2], strict=False))
    output = Path(flags["--output"])
    output.parent.mkdir(exist_ok=True)
    if words[1] == "export.om":
        assert Path(flags["--model"]).is_file()
        output.write_bytes(b"compiled")
    else:
        assert words[1] == "infer.run"
        assert any(Path(flags["--model"]).glob("*.om")) or any(Path(flags["--model"]).glob("*.onnx"))
        output.mkdir()
        (output / "detections.json").write_text(json.dumps([row("a", 1, [0, 0, 40, 40], 0.9)]))
        (output / "summary.json").write_text(json.dumps(SUMMARY))
    return Finished(words, 0, 1.0, check.folder / log)


def test_parts_of_an_npu_run_to_their_end_on_stand_ins(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own logic; none of CANN, ATC and ais_bench is here."""
    check.device, check.soc_version, check.providers = "npu", "Ascend310P3", ["CANNExecutionProvider"]
    monkeypatch.setattr(Check, "python_program", stand_in_for_the_programs)
    monkeypatch.setattr("shutil.which", lambda _: "/somewhere/atc")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    for name in ("learned", "large"):
        (check.folder / name).mkdir()
        (check.folder / name / "last_64x96.onnx").touch()
    (check.folder / "detected_cpu").mkdir()
    (check.folder / "detected_cpu" / "detections.json").write_text(json.dumps([row("a", 1, [0, 0, 40, 40], 0.9)]))
    outcomes = {name: program.run_part(check, name, PARTS[name]) for name in ("cann", "atc", "om")}
    assert {name: (outcome.status, outcome.reason) for name, outcome in outcomes.items()} == dict.fromkeys(
        outcomes, (PASSED, "")
    )
    assert set(outcomes["atc"].figures) == {"large_om/last_64x96.om", "learned_om/last_64x96.om"}
    assert outcomes["om"].figures["share with a partner"] == 1.0
    assert outcomes["cann"].figures["large model"] == SUMMARY


# ---- comparing ----


def test_losses_differ_relatively_step_by_step() -> None:
    assert relative_differences([1.0, 3.0], [1.0, 2.0]) == [0.0, 0.5]
    assert relative_differences([1.0], [1.0, 2.0]) == [0.0, math.inf]
    assert relative_differences([math.nan], [1.0]) == [math.inf]


def test_losses_are_those_of_steps_and_null_is_no_number() -> None:
    rows = [{"step": 1, "loss": 2.5}, {"step": 1, "AP": 0.1}, {"step": 2, "loss": None}]
    assert step_losses(rows)[0] == 2.5
    assert math.isnan(step_losses(rows)[1])


def row(file: str, category: int, box: list[float], score: float) -> dict[str, object]:
    return {"file_name": file, "category_id": category, "bbox": box, "score": score}


def test_detections_agree_with_themselves_whatever_the_order() -> None:
    rows = [row("a", 1, [0, 0, 10, 10], 0.9), row("a", 2, [0, 0, 10, 10], 0.5), row("b", 1, [5, 5, 20, 8], 0.31)]
    assert agreement(rows, rows[::-1]) == (6, 0, 0.0)


@pytest.mark.parametrize(
    "other",
    [row("b", 1, [0, 0, 10, 10], 0.9), row("a", 2, [0, 0, 10, 10], 0.9), row("a", 1, [2, 0, 10, 10], 0.9)],
    ids=["another picture", "another class", "another place"],
)
def test_a_detection_without_an_equal_counts_on_both_sides(other: dict[str, object]) -> None:
    assert agreement([row("a", 1, [0, 0, 10, 10], 0.9)], [other]) == (2, 2, 0.0)


def test_a_weak_detection_needs_no_partner_but_may_be_one() -> None:
    strong, weak = row("a", 1, [0, 0, 10, 10], 0.31), row("a", 1, [0, 0, 10, 10.1], 0.29)
    found = agreement([strong], [weak])
    assert (found.clear, found.unmatched, found.share) == (1, 0, 1.0)
    assert found.score_difference == pytest.approx(0.02)
    assert agreement([], [weak]).clear == 0


def test_nothing_to_compare_is_a_failure(check: Check) -> None:
    for name in ("detected_cpu", "found"):
        (check.folder / name).mkdir()
        (check.folder / name / "detections.json").write_text("[]")
    with pytest.raises(Failed, match="nothing was detected"):
        checks.compared(check, "found", "float32")


# ---- verdicts on what the programs wrote ----


def pretend(monkeypatch: pytest.MonkeyPatch, rows_of: Mapping[str, list[dict[str, object]]]) -> None:
    """Training runs that were here before: their logs by name."""

    def train(check: Check, name: str, *_: object, **__: object) -> Path:
        folder = check.folder / name
        folder.mkdir(exist_ok=True)
        write_log(folder, *rows_of[name])
        (folder / "metrics.json").write_text(json.dumps({"AP": rows_of[name][-1].get("AP"), "AP50": 0.3}))
        (folder / "last.pt").touch()
        return folder

    monkeypatch.setattr(Check, "train", train)


def steps_of(losses: list[float | None], skipped: float = 0.0) -> list[dict[str, object]]:
    return [{"step": i + 1, "loss": loss, "skipped": skipped} for i, loss in enumerate(losses)]


@pytest.mark.parametrize("losses", [[2.0] * 19, [2.0] * 19 + [None]], ids=["one is missing", "one is no number"])
def test_training_wants_every_loss_finite(
    check: Check, monkeypatch: pytest.MonkeyPatch, losses: list[float | None]
) -> None:
    pretend(monkeypatch, {"training": steps_of([2.0] * 20)})
    assert program.run_part(check, "training", PARTS["training"]).status == PASSED
    pretend(monkeypatch, {"training": steps_of(losses)})
    assert program.run_part(check, "training", PARTS["training"]).status == FAILED


@pytest.mark.parametrize(
    ("large", "learned", "words"),
    [
        (steps_of([2.01] * 20), steps_of([1.001] * 20), None),
        (steps_of([2.3] * 20), steps_of([1.001] * 20), "large model differs"),
        (steps_of([2.01] * 20), steps_of([1.001] * 19 + [None]), "learned model differs"),
        (steps_of([2.0] * 20), steps_of([1.0] * 20, skipped=1.0), "1 steps of the learned model were skipped"),
        (steps_of([2.01] * 20), steps_of([1.0] * 20), "learned model differs from float32's by 0.00%"),
    ],
    ids=["near", "far", "no number", "skipped", "float32 all the same"],
)
def test_o1_must_stay_near_float32_without_a_skipped_step(
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
    large: list[dict[str, object]],
    learned: list[dict[str, object]],
    words: str | None,
) -> None:
    plain = {"training": steps_of([2.0] * 20), "learned_fp32": steps_of([1.0] * 20), "learning": steps_of([1.0])}
    pretend(monkeypatch, {**plain, "o1": large, "learned_o1": learned})
    check.train("training", check.sizes.steps)
    check.train("learning", check.sizes.learning)
    outcome = program.run_part(check, "o1", PARTS["o1"])
    assert outcome.status == (PASSED if words is None else FAILED), outcome.reason
    assert (words or "") in outcome.reason
    assert outcome.figures["limit"] == checks.O1_LIMIT


def test_two_ranks_must_train_as_one(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"one_rank": steps_of([2.0] * 5), "two_ranks": steps_of([2.0001] * 5)})
    assert program.run_part(check, "ranks", PARTS["ranks"]).status == PASSED
    pretend(monkeypatch, {"one_rank": steps_of([2.0] * 5), "two_ranks": steps_of([2.01] * 5)})
    assert program.run_part(check, "ranks", PARTS["ranks"]).status == FAILED


@pytest.mark.parametrize(("ap", "status"), [(0.2, PASSED), (0.01, FAILED), (None, FAILED)])
def test_a_model_that_learned_nothing_fails(
    check: Check, monkeypatch: pytest.MonkeyPatch, ap: float | None, status: str
) -> None:
    pretend(monkeypatch, {"learning": [*steps_of([2.0, 1.0]), {"step": 2, "AP": ap}]})
    assert program.run_part(check, "learning", PARTS["learning"]).status == status


@pytest.mark.parametrize(("moved", "score", "status"), [(0.1, 0.9, PASSED), (5.0, 0.9, FAILED), (0.1, 0.8, FAILED)])
def test_detections_of_the_device_must_be_those_of_the_file(
    check: Check, moved: float, score: float, status: str
) -> None:
    def part(check: Check) -> Figures:
        return checks.compared(check, "found", "float16")

    for name, box in (
        ("detected_cpu", row("a", 1, [0, 0, 40, 40], 0.9)),
        ("found", row("a", 1, [moved, 0, 40, 40], score)),
    ):
        (check.folder / name).mkdir()
        (check.folder / name / "detections.json").write_text(json.dumps([box]))
    assert program.run_part(check, "compared", part).status == status


def test_a_golden_beyond_its_limit_names_the_figure(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(check: Check, log: str, *_: str, **__: object) -> None:
        content = {"figures": {"scores": 1.0}, "limits": {"scores": 1e-4}, "beyond": ["scores"]}
        (check.folder / "parity.json").write_text(json.dumps(content))
        raise Failed("exit 1: ...")

    monkeypatch.setattr(Check, "python_program", refuse)
    outcome = program.run_part(check, "parity", PARTS["parity"])
    assert (outcome.status, outcome.reason) == (FAILED, "beyond the limit: scores")
    assert outcome.figures["figures"] == {"scores": 1.0}


# ---- the tripwire of `make coco` ----


def write_log(run_folder: Path, *rows: Mapping[str, object]) -> None:
    (run_folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))


@pytest.mark.parametrize(("epoch", "ap", "code"), [(1, 0.231, 0), (1, 0.02, 1), (12, 0.4102, 0), (12, 0.40, 1)])
def test_tripwire_tells_a_run_on_its_way_from_a_broken_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], epoch: int, ap: float, code: int
) -> None:
    write_log(tmp_path, {"step": 7, "epoch": epoch, "loss": 1.0}, {"step": 7, "epoch": epoch, "AP": ap})
    assert tripwire.main([str(tmp_path), "--epoch", str(epoch)]) == code
    assert f"AP {100 * ap:.1f} after epoch {epoch}" in capsys.readouterr().out


def test_tripwire_of_an_evaluation_that_never_was_is_an_input_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tripwire.main([str(tmp_path), "--epoch", "1"]) == 2
    assert "log.jsonl" in capsys.readouterr().err
    write_log(tmp_path, {"step": 7, "epoch": 1, "AP": 0.2})
    assert tripwire.main([str(tmp_path), "--epoch", "12"]) == 2
    assert "epoch 12" in capsys.readouterr().err


# ---- the make targets ----


def commands_of(target: str, *variables: str) -> str:
    """What make would run; a file stands for .venv."""
    given = [f"NPU_PYTHON={sys.executable}", *variables]
    done = subprocess.run(["make", "-n", target, *given], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_npu_check_hands_on_the_device() -> None:
    environment = commands_of("npu-check", "DEVICE=cpu")
    assert f"{sys.executable} -m gfl.npu_check --device cpu" in environment
    assert "--soc_version Ascend310P3" in commands_of("npu-check", "SOC_VERSION=Ascend310P3")
    assert "--device npu" in commands_of("npu-check")


def test_make_coco_stops_after_an_epoch_to_look() -> None:
    lines = commands_of("coco", "NPROC=8", "DATA_ROOT=/data/coco", "COCO_RUN=runs/coco/1").splitlines()
    train, look, resume, look_again = (line for line in lines if " -m gfl." in line or "tripwire" in line)
    assert "--nproc_per_node 8" in train
    assert "--resume --workdir runs/coco/1" in resume
    assert look.endswith("gfl.npu_check.tripwire runs/coco/1 --epoch 1")
    assert look_again.endswith("--epoch 12")
    assert "DATA_ROOT = '/data/coco'" in " ".join(lines)


# ---- everything, on the CPU ----


@pytest.mark.slow
def test_the_whole_check_passes_on_the_cpu(tmp_path: Path) -> None:
    folder = tmp_path / "check"
    command = [sys.executable, "-m", "gfl.npu_check", "--device", "cpu", "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    written = json.loads((folder / "npu_check_report.json").read_text())
    failed = {part["part"]: part["reason"] for part in written["parts"] if part["status"] == FAILED}
    assert (done.returncode, failed) == (0, {}), done.stderr
    skipped = [part["part"] for part in written["parts"] if part["status"] == SKIPPED]
    assert skipped == ["cann", "atc", "om"]
    assert [part["part"] for part in written["parts"]] == list(PARTS)
    assert "torch" in written["doctor"]


def test_what_is_on_the_path_of_modules_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """CANN's set_env.sh puts its compilers' modules there."""
    monkeypatch.setenv("PYTHONPATH", "/cann/python")
    assert python_path() == os.pathsep.join([str(ROOT), "/cann/python"])
    monkeypatch.delenv("PYTHONPATH")
    assert python_path() == str(ROOT)

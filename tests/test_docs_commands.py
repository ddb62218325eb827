"""Every command of README.md and docs/ names programs, flags, files and knobs that exist; those that can be run are."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import documents
import pytest
import tiny
import tool_exports
from documents import ROOT, Command

from gfl.__main__ import PROGRAMS
from gfl.config import read_run

HISTORY = ("CHANGELOG.md", "docs/decisions.md")  # they tell of commands as they were
FOREIGN = ("pip", "venv", "ais_bench", "...", "every", "torch.distributed.run")  # modules of others, which pages name
COMMANDS = [each for page in documents.PAGES if page not in HISTORY for each in documents.commands(page)]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
NEEDS = {"APEX": ["PRECISION = 'o1'"]}  # a knob that is no setting alone
TIME, ANOTHER = "20260101-120000", "20260102-120000"  # stand for <time> and <another>


class Parsed(BaseException):  # leaves a program after its flags; no `except Exception` of it is in the way
    """A program has asked its parser to read the command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def own(command: Command) -> str | None:
    """The module of this project that a command starts; None for another program. LookupError where there is none."""
    program = command.program
    if program == "gfl":
        words = command.arguments
        if not words or words[0] in ("--help", "--version", "...", "PROGRAM"):
            return None
        name = next((name for name in (" ".join(words[:2]), words[0]) if name in PROGRAMS), None)
        if name is None and not any(each.startswith(f"{words[0]} ") for each in PROGRAMS):
            raise LookupError(f"`gfl {words[0]}` is no program")
        return None if name is None else PROGRAMS[name].module
    if program.endswith(".py"):
        if not (ROOT / program).is_file():
            raise LookupError(f"{program} is no file")
        return program.removesuffix(".py").replace("/", ".") if program.startswith("infer/") else None
    if program.partition(".")[0] not in documents.PACKAGES:
        if program not in (*FOREIGN, "make", "pytest"):
            raise LookupError(f"{program} is no program of this project, and not among those of others")
        return None
    path = ROOT / program.replace(".", "/")
    if path.is_dir():
        program, path = f"{program}.__main__", path / "__main__"
    if not path.with_suffix(".py").is_file():
        raise LookupError(f"{program} is no module")
    return program


def arguments_of(command: Command) -> list[str]:
    """The arguments without the name of the program, which is two words for `gfl export onnx`."""
    if command.program != "gfl":
        return command.arguments
    two = " ".join(command.arguments[:2]) in PROGRAMS
    return command.arguments[2 if two else 1 :]


@cache
def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser of a program's command line."""
    program = importlib.import_module(module)
    if not hasattr(program, "main"):  # a benchmark
        parser: argparse.ArgumentParser = program.parser()
        return parser
    main = program.main

    def leave(parser: argparse.ArgumentParser, *arguments: object) -> None:
        raise Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", leave)
        patch.setattr(sys, "argv", [module])
        try:
            main([]) if inspect.signature(main).parameters else main()
        except Parsed as parsed:
            return parsed.parser
    raise AssertionError(f"{module} has read no command line")


def actions_of(parser: argparse.ArgumentParser, words: list[str]) -> Iterator[argparse.Action]:
    """The actions of a parser, and of the verb of it that the words name."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            verb = next((word for word in words if word in action.choices), None)
            if verb is not None:
                yield from actions_of(action.choices[verb], words)


def each(commands: list[Command]) -> pytest.MarkDecorator:
    once = {(command.page, command.words): command for command in commands}
    return pytest.mark.parametrize("command", once.values(), ids=[f"{page}: {' '.join(words)}" for page, words in once])


# ---- what they name ----


def test_there_are_commands_to_look_at() -> None:
    assert len(COMMANDS) > 100
    assert {command.page for command in COMMANDS} >= {"README.md", "docs/own-data.md", "docs/ascend.md"}


@each(COMMANDS)
def test_a_command_names_a_program_and_flags_that_exist(command: Command) -> None:
    module = own(command)
    if module is None:
        return
    words = arguments_of(command)
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    known = {flag for action in actions_of(parser_of(module), words) for flag in action.option_strings}
    assert [flag for flag in flags if flag not in known] == []


@each([command for command in COMMANDS if command.is_whole])
def test_a_whole_command_is_taken_by_its_program(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    module = own(command)
    if module is None:
        return
    try:
        parser_of(module).parse_args(arguments_of(command))
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("page", "module"),
    [
        ("docs/detect.md", "infer.run"),
        ("docs/serve.md", "infer.serve.__main__"),
        ("docs/scale.md", "infer.bulk.__main__"),
        ("docs/export.md", "export.onnx"),
        ("docs/model-card.md", "gfl.card.__main__"),
    ],
)
def test_a_page_about_a_program_names_all_of_its_flags(page: str, module: str) -> None:
    flags = {flag for action in parser_of(module)._actions for flag in action.option_strings if flag.startswith("--")}
    named = set(re.findall(r"--\w+", documents.page_text(page)))
    assert sorted(flags - named - {"--help"}) == []


@each([command for command in COMMANDS if command.program == "make"])
def test_a_command_of_make_names_a_target_and_variables_of_the_makefile(command: Command) -> None:
    assert re.search(rf"(?m)^{re.escape(command.arguments[0])}:", MAKEFILE)
    for name in re.findall(r"([A-Z_]+)=", " ".join(command.arguments[1:])):
        assert f"$({name})" in MAKEFILE, name


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("target", [[], ["help"]])
def test_make_alone_names_every_target(target: list[str]) -> None:
    said = subprocess.run(["make", *target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"(?m)^\.PHONY: (.*)$", MAKEFILE)
    assert phony is not None
    assert set(phony[1].split()) - {"help"} == set(re.findall(r"make ([a-z-]+)", said))


@each([command for command in COMMANDS if command.program == "pytest"])
def test_a_command_of_pytest_names_files_that_exist(command: Command) -> None:
    for word in command.arguments:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists()


def settings_of(command: Command) -> tuple[list[str], list[str]]:
    """The run files and bindings of a command, as they stand on the page."""
    known = parser_of("gfl.train").parse_args(arguments_of(command))
    bindings = list(known.gin_bindings)
    if known.checkpoint is not None:
        bindings.append(f"CHECKPOINT = {str(known.checkpoint)!r}")
    return known.gin_file, bindings


@each([command for command in COMMANDS if command.program == "gfl.train" and "--gin_file" in command.words])
def test_a_training_command_has_run_files_and_knobs_that_exist(command: Command, tmp_path: Path) -> None:
    files, bindings = settings_of(command)
    mine = tmp_path / "mine.gin"
    mine.write_text(run_file_of_the_recipes(), encoding="utf-8")
    bindings = [each for each in bindings if "..." not in each]
    if not any(each.startswith("CHECKPOINT") for each in bindings):
        bindings.append("CHECKPOINT = None")
    read_run([mine if name == "mine.gin" else name for name in files], bindings)


def run_file_of_the_recipes() -> str:
    """The run file that docs/recipes.md tells people to write."""
    return next(block.text for block in documents.blocks("docs/recipes.md") if block.text.startswith("include "))


BINDING = re.compile(r"[A-Z][A-Z_]+ = .+", re.DOTALL)


def bindings_in_text(page: str) -> set[str]:
    """`NAME = value` between backticks, alone or in the quotes of a shell."""
    found: set[str] = set()
    for code in documents.inline_code(page):
        with contextlib.suppress(ValueError):  # an apostrophe: it is no command
            found.update(filter(BINDING.fullmatch, [code] if BINDING.match(code) else shlex.split(code)))
    return found


def test_bindings_in_the_text_name_knobs_that_exist_and_values_that_these_take() -> None:
    pages = [page for page in documents.PAGES if page not in HISTORY]
    found = set().union(*map(bindings_in_text, pages))
    assert len(found) > 30
    for binding in found:
        read_run([], [binding, *NEEDS.get(binding.partition(" ")[0], ())])


# ---- run as they stand, on data so small that they take seconds ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what the pages' commands name: data sets, another tool's export, pictures."""
    folder = tmp_path_factory.mktemp("pages")
    data = tiny.write_data(folder / "data" / "coco")
    shutil.copy(tiny.annotations(data, "val"), folder / "val.json")
    for name in ("val", "pictures", "scans", "val2017"):
        shutil.copytree(data / "val2017", folder / name)
    shutil.copy(next((folder / "val").iterdir()), folder / "demo.jpg")
    bccd = folder / "bccd"
    (bccd / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.copy(tiny.annotations(data, split), bccd / "annotations" / f"instances_{split}.json")
        shutil.copytree(data / f"{split}2017", bccd / split)
    shutil.copy(tiny.annotations(data, "train"), folder / "train60.json")
    tool_exports.write_yolo(folder / "my_export")
    (folder / "mine.gin").write_text(run_file_of_the_recipes(), encoding="utf-8")
    return folder


def as_in(command: Command) -> list[str]:
    """The arguments with names of files that are in `folder`."""
    stand_ins = {
        "<time>": TIME,
        "<another>": ANOTHER,
        "'/data/coco'": "'data/coco'",
        "latest.pth": "best.pt",
        "SOURCE": "my_export",
    }
    changed = []
    for word in arguments_of(command):
        for name, other in stand_ins.items():
            word = word.replace(name, other)
        changed.append(word)
    return changed


def run(module: str, arguments: list[str]) -> int:
    main = importlib.import_module(module).main
    code: int = main(arguments)
    return code


def test_the_commands_for_own_data_run_one_after_the_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convert, split, shard and check, in this order, whatever that of the pages; each page in a folder anew."""
    verbs = ("convert", "split", "shards", "check")
    for page in ("README.md", "docs/own-data.md"):
        given = [each for each in COMMANDS if each.page == page and each.program == "gfl.data" and each.is_whole]
        given.sort(key=lambda each: verbs.index(each.arguments[0]))
        place = tmp_path / Path(page).stem
        place.mkdir()
        shutil.copytree(folder / "my_export", place / "my_export")
        monkeypatch.chdir(place)
        for command in given:
            assert run("gfl.data.__main__", as_in(command)) <= (command.arguments[0] == "check"), command  # 1: findings
    assert {each.arguments[0] for each in COMMANDS if each.program == "gfl.data" and each.is_whole} == set(verbs)


NOT_RUN = {
    "export.om": "needs ATC",
    "export.web": "needs npm, and tests/test_page_browser.py runs it",
    "cann": "needs an NPU",
    "best.om": "needs an NPU",
    "cuda": "needs a GPU",
    "benchmarks": "takes minutes; tests/test_benchmarks.py runs them with --quick",
    "gfl.npu_check": "takes minutes; tests/test_npu_check.py runs it",
    "gfl.data": "runs above",
    "infer.bulk": "needs Ray; tests/test_bulk_job.py runs it",
    "--storage": "needs a bucket; tests/test_mirror.py has one",
    "--track": "needs the package trackers; tests/test_tracks.py runs it",
    "best_openvino": "needs OpenVINO; tests/test_export_to.py runs it",
    "infer.serve": "runs until it is told to end; tests/test_serve_command.py starts it",
    "website": "runs in tests/test_docs_site.py",
}
QUICK = ("MAX_STEPS = 1", "DEVICE = 'cpu'", "WORKERS = 0", "SHORT_SIDE = 64", "LONG_SIDE = 96", "EVAL_SHORT_SIDE = 64")
SEES_EVERYTHING = "postprocess.PredictConfig.score_threshold = 0.0"  # a model after one step finds nothing else


def reason_not_to_run(command: Command) -> str | None:
    words = [command.program, command.program.partition(".")[0], *command.arguments]
    found = [reason for name, reason in NOT_RUN.items() if any(name in word.split("/") for word in words)]
    if any("s3://" in word for word in words):
        found.append("needs a bucket; tests/test_shards_storage.py has one")
    return found[0] if found else None


RUN = [
    command
    for command in COMMANDS
    if command.is_whole and command.program not in (*FOREIGN, "make", "pytest") and not reason_not_to_run(command)
]


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """`folder` with a trained model in every place and form that the pages name."""
    run_folder = folder / "runs" / "r50" / TIME
    tiny.run_training(folder / "data" / "coco", run_folder, SEES_EVERYTHING, "EPOCHS = 3", "KEEP_LAST = 3")
    shutil.copytree(run_folder, run_folder.with_name(ANOTHER))
    shutil.copy(run_folder / "val_detections.json", folder / "results.json")
    for place in (folder, folder / "start"):
        place.mkdir(exist_ok=True)
        for name in ("best.pt", "a.pt", "b.pt", "c.pt"):
            shutil.copy(run_folder / "best.pt", place / name)
    for output in ("best.onnx", "best_onnx"):  # a file, and a folder
        flags = ["--checkpoint", str(run_folder / "best.pt"), "--size", "64x96", "--output", str(run_folder / output)]
        assert run("export.onnx", flags) == 0
    return folder


@pytest.mark.slow
@each(RUN)
def test_a_command_runs_as_it_stands(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "here"
    shutil.copytree(trained, place)
    if "data/mine" in " ".join(command.words):
        shutil.copytree(place / "data" / "coco", place / "data" / "mine")
    monkeypatch.chdir(place)
    arguments = as_in(command)
    if command.program == "gfl.train":  # the same command, made shorter by further settings
        if "--resume" not in arguments or "auto" in arguments:
            at = max(index for index, word in enumerate(arguments) if word == "--gin_file") + 2
            if not any("dcn" in word for word in arguments):  # tiny.gin is of another kind of backbone
                arguments[at:at] = ["--gin_file", "tiny.gin"]
            arguments += [
                "--gin_bindings",
                "BATCH_SIZE = 2",
                *QUICK,
                *(() if "--checkpoint" in arguments else ("CHECKPOINT = None",)),
            ]
    elif command.program == "export.onnx":
        arguments = ["64x96" if word == "800x1216" else word for word in arguments]
        if "--size" in arguments:
            (place / "runs" / "r50" / TIME / "best.onnx").unlink()
    module = own(command)
    assert module is not None
    assert run(module, arguments) == 0

"""`gfl PROGRAM`: names, imports, what may lie in the working directory; and the distribution without PyTorch."""

from __future__ import annotations

import importlib
import runpy
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from gfl import __main__ as command
from gfl.errors import InputError
from gfl.runtime.open import open_model
from gfl.version import VERSION

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, cwd: Path, flags: tuple[str, ...] = ("-m", "gfl")) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    line = [sys.executable, *flags, *arguments]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_every_program_is_there_and_has_a_main() -> None:
    for program in command.PROGRAMS.values():
        path = ROOT / f"{program.module.replace('.', '/')}.py"
        assert "\ndef main(argv: " in path.read_text(encoding="utf-8"), program


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["infr"], "did you mean `gfl infer`?"),
        (["export", "onxx"], "got the program export onxx; did you mean `gfl export onnx`?"),
        (["export"], "expected one of export onnx, export torch, export om, export to, export web; name one"),
        (["export", "--help"], "expected one of export onnx, export torch, export om, export to, export web; name one"),
        (["bake"], "expected one of train, evaluate, "),
    ],
)
def test_an_unknown_program_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_help_lists_every_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"gfl {name} " in shown for name in command.PROGRAMS)
    assert command.main([]) == 2


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gfl {VERSION}\n"


def test_arguments_and_the_exit_code_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def main(argv: list[str]) -> int:
        seen.extend(argv)
        return 7

    monkeypatch.setitem(sys.modules, "export.onnx", types.SimpleNamespace(main=main))
    assert command.main(["export", "onnx", "--size", "64x96"]) == 7
    assert seen == ["--size", "64x96"]


def test_a_package_that_is_missing_is_named_and_a_bug_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> types.ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=wanted)

    monkeypatch.setattr(importlib, "import_module", missing)
    wanted = "torch.nn"
    assert command.main(["train"]) == 2
    assert "gfl train needs the package torch, which is not installed; " in capsys.readouterr().err
    wanted = "gfl.trian"
    with pytest.raises(ModuleNotFoundError):
        command.main(["train"])


def test_files_in_the_working_directory_are_not_in_the_way(tmp_path: Path) -> None:
    for name in ("export", "infer", "onnx", "gin", "numpy", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadow')")
    for arguments in (["infer", "--help"], ["export", "onnx", "--help"]):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "usage: " in done.stdout


def test_infer_starts_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from gfl.__main__ import main\n"
        "code = main(['infer', '--model', 'a.pt', '--input', 'b', '--output', 'c'])\n"
        "print(code, sorted({'onnx', 'gin', 'pycocotools'} & sys.modules.keys()))"
    )
    (tmp_path / "a.pt").write_bytes(b"")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.jpg").write_bytes(b"")
    done = run(program, cwd=tmp_path, flags=("-c",))
    assert done.stdout.strip() == "2 []"
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_checkpoint_without_torch_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("a.pt", "a.pth", "a.safetensors", "a.pt2"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=r"needs PyTorch, which is not installed; .* give the \.onnx"):
            open_model(tmp_path / name)


def test_ctrl_c_while_a_program_is_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str) -> types.ModuleType:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupt)
    assert command.main(["evaluate"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "\nstopped\n"


def test_the_distribution_without_torch_is_the_same_code_with_fewer_requirements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setitem(sys.modules, "setuptools", types.SimpleNamespace(setup=lambda **words: given.append(words)))
    runpy.run_path(str(ROOT / "setup.py"))
    runpy.run_path(str(ROOT / "packaging" / "infer" / "setup.py"))
    whole, part = given
    assert part["name"] == "gflv2-infer"
    for key in ("version", "packages", "package_data", "entry_points", "python_requires"):
        assert part[key] == whole[key]
    names = [str(each).partition(">")[0] for each in part["install_requires"]]  # type: ignore[attr-defined]
    assert names == ["numpy", "opencv-python-headless", "onnxruntime"]
    assert set(part["extras_require"]) == set(whole["extras_require"]) - {"test", "docs", "npu"}  # type: ignore[call-overload]
    assert set(part["install_requires"]) < set(whole["install_requires"])  # type: ignore[call-overload]

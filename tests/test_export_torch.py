"""The .pt2 export; tests/test_inference.py runs its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tiny_export import write_model

PROGRAM = """
import sys
from export.torch import main
code = main(sys.argv[1:])
print(*sorted({"onnx", "onnxruntime", "onnxscript"} & sys.modules.keys()), file=sys.stderr)
sys.exit(code)
"""


def test_a_program_is_compared_with_its_checkpoint_and_onnx_never_imported(tmp_path: Path) -> None:
    checkpoint, path = write_model(tmp_path / "run" / "best.pt", surer=0.5), tmp_path / "out" / "small.pt2"
    flags = ["--checkpoint", checkpoint, "--size", "64x96", "--output", path, "--samples", "1"]
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ""
    assert [entry.name for entry in sorted(path.parent.iterdir())] == ["small.pt2", "small.pt2.parity.json"]
    report = json.loads(path.with_name("small.pt2.parity.json").read_text())
    assert report["passed"]
    assert report["matched"] > 10
    for part in (f"{path}: ", "in  images         uint8    1x3x64x96", "agrees with PyTorch on 1 pictures"):
        assert part in done.stdout
    assert f"next: python -m gfl.evaluate --checkpoint {path}" in done.stdout.splitlines()[-1]

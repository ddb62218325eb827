"""Every Python block of README.md and docs/ runs: here, or as a program in tests/test_snippets.py."""

from __future__ import annotations

import re
import types
from pathlib import Path

import cv2
import documents
import pytest
import tiny
import tiny_export
import torch
from documents import Block

from gfl.data.synthetic import draw_scene
from gfl.model import detector

BLOCKS = [block for page in documents.PAGES for block in documents.blocks(page) if documents.is_python(block)]
HERE = [block for block in BLOCKS if not block.mark]
SMALLER = {"(800, 1216)": str(tiny.CANVAS)}  # so that a test takes a second


def test_a_marked_block_says_who_runs_it_or_why_nobody_does() -> None:
    snippets = Path(__file__).with_name("test_snippets.py").read_text(encoding="utf-8")
    for block in BLOCKS:
        if block.mark:
            runs = re.fullmatch(r"runs: (\w+)", block.mark)
            assert runs or re.fullmatch(r"not run: .{10,}", block.mark), f"{block.page}: {block.mark}"
            assert not runs or f'"{runs[1]}"' in snippets, f"{block.page}: tests/test_snippets.py runs no {runs}"


def test_there_are_blocks_to_run() -> None:
    assert {block.page for block in HERE} >= {"README.md"}


@pytest.mark.parametrize("block", HERE, ids=lambda block: f"{block.page}: {block.text.splitlines()[0]}")
def test_a_block_runs_where_its_files_and_names_are_there(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model best.pt, the pictures dog.jpg and more."""
    monkeypatch.chdir(tmp_path)
    tiny_export.write_model(tmp_path / "best.pt")
    picture = draw_scene(seed=1, split="val2017", index=0, size_hw=tiny.CANVAS).image
    assert cv2.imwrite("dog.jpg", picture[..., ::-1])
    supervision = types.SimpleNamespace(Detections=lambda **given: given)
    monkeypatch.setitem(__import__("sys").modules, "supervision", supervision)
    names = {"many_pictures": ["dog.jpg", picture]}
    text = block.text
    for size, smaller in SMALLER.items():
        text = text.replace(size, smaller)
    with torch.no_grad():
        exec(compile(text, block.page, "exec"), names)
    assert names.keys() - {"__builtins__"} > {"many_pictures"}


def test_the_configuration_of_the_readme_is_the_papers() -> None:
    assert detector.DetectorConfig().backbone.depth == 50

"""The YAML blocks and shell scripts of docs/ can be read by what they are for, and start this project's programs."""

from __future__ import annotations

import shutil
import subprocess

import documents
import pytest
from documents import Block

from gfl.train import parser

BLOCKS = [block for page in documents.PAGES for block in documents.blocks(page)]
MANIFESTS = [block for block in BLOCKS if block.language == "yaml" and "apiVersion" in block.text]
SCRIPTS = [block for block in BLOCKS if block.language == "bash" and block.text.startswith("#!")]


def test_there_are_some() -> None:
    assert len(MANIFESTS) >= 2
    assert len(SCRIPTS) >= 1


@pytest.mark.parametrize("block", MANIFESTS, ids=lambda block: block.page)
def test_a_manifest_is_yaml_whose_command_trains(block: Block) -> None:
    yaml = pytest.importorskip("yaml")
    spec = yaml.safe_load(block.text)["spec"]
    task = spec["tasks"][0] if "tasks" in spec else spec["pytorchReplicaSpecs"]["Worker"]
    (container,) = task["template"]["spec"]["containers"]
    words = container["command"] + container["args"]
    assert all(isinstance(word, str) for word in words)
    arguments = parser().parse_args(words[words.index("gfl.train") + 1 :])
    assert arguments.resume == "auto"
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in task["template"]["spec"]["volumes"]
    }


@pytest.mark.parametrize("block", SCRIPTS, ids=lambda block: block.page)
def test_a_script_is_bash(block: Block) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    done = subprocess.run([bash, "-n"], input=block.text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

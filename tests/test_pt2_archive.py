"""A .pt2 from a stranger: nothing in it runs, whatever torch.export.load would make of it."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_onnx import DESCRIPTION

from gfl.errors import InputError
from gfl.runtime.on_torch.pt2_file import load_program, open_program, save_program

Members = dict[str, bytes]  # of an archive, by name below its folder
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
COMMAND = "__import__('os').system('echo ran > marker')"


class Tiny(torch.nn.Module):
    """Two arrays in, two out, with a weight and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((4,), 2.0))

    def forward(self, images: torch.Tensor, image_sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images * self.weight + torch.tensor([1.0, 2.0, 3.0, 4.0]), image_sizes + 1


class Command:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo ran > marker",)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """Those of a good program."""
    path = tmp_path_factory.mktemp("good") / "good.pt2"
    program = torch.export.export(Tiny(), (torch.zeros(1, 1, 1, 4), torch.zeros(2, dtype=torch.int32)))
    with open(path, "wb") as stream:
        save_program(program, DESCRIPTION, ("boxes", "scores"), stream)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(members: Members, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


def pickled(contents: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def changed(members: Members, name: str, change: Callable[[dict[str, object]], object]) -> Members:
    """The members with one JSON changed in place."""
    value = json.loads(members[name])
    change(value)
    return members | {name: json.dumps(value).encode()}


def replaced(members: Members, old: str, new: str) -> Members:
    """The members with a text of the program replaced."""
    assert old.encode() in members[MODEL]
    return members | {MODEL: members[MODEL].replace(old.encode(), json.dumps(new)[1:-1].encode())}


def graph(program: dict[str, object]) -> dict[str, object]:
    return program["graph_module"]["graph"]  # type: ignore[index,no-any-return]


def formula(program: dict[str, object]) -> None:
    sizes = next(iter(graph(program)["tensor_values"].values()))["sizes"]  # type: ignore[attr-defined]
    sizes[0] = {"as_expr": {"expr_str": COMMAND, "hint": None}}


def pickle_of(members: Members) -> Members:
    def say_so(config: dict[str, object]) -> None:
        config["config"]["weight"]["use_pickle"] = True  # type: ignore[index]

    return changed(members, WEIGHTS, say_so) | {"data/weights/weight_0": pickled(Command())}


def larger(members: Members) -> Members:
    def say_so(config: dict[str, object]) -> None:
        config["config"]["weight"]["tensor_meta"]["sizes"] = [{"as_int": 10**13}]  # type: ignore[index]

    return changed(members, WEIGHTS, say_so) | {"data/weights/weight_0": b""}


def import_by_tree(members: Members) -> Members:
    spec = [
        1,
        {"type": "collections.defaultdict", "context": '{"default_factory_module": "marker"}', "children_spec": []},
    ]
    old = json.loads(members[MODEL])["graph_module"]["module_call_graph"][0]["signature"]["in_spec"]
    return members | {MODEL: members[MODEL].replace(json.dumps(old).encode(), json.dumps(json.dumps(spec)).encode())}


HOSTILE: dict[str, tuple[Callable[[Members], Members], str]] = {
    "sample inputs": (
        lambda good: good | {"data/sample_inputs/model.pt": pickled(((Command(),), {}))},
        "sample_inputs/model.pt holds objects of posix.system",
    ),
    "weights in one pickle": (lambda good: good | {"data/weights/model.pt": pickled(Command())}, "posix.system"),
    "constants in one pickle": (lambda good: good | {"data/constants/model.pt": pickled(Command())}, "posix.system"),
    "a pickled weight": (pickle_of, "says that weight is a pickle"),
    "an object": (
        lambda good: good | {"data/constants/opaque_obj_0": pickle.dumps(Command())},
        "opaque_obj_0 is no part of this project's exports",
    ),
    "native code": (lambda good: good | {"data/aotinductor/model/a.so": b"\x7fELF"}, "a.so is no part"),
    "a second model": (lambda good: good | {"models/other.json": good[MODEL]}, "models/other.json is no part"),
    "a size that is a formula": (lambda good: changed(good, MODEL, formula), "has as_expr, which can hold code"),
    "a guard": (
        lambda good: changed(good, MODEL, lambda program: program.update(guards_code=[COMMAND])),
        "has guards_code, which can hold code",
    ),
    "a name": (lambda good: replaced(good, "b_weight", f"b_weight={COMMAND}"), "which can hold code"),
    "a tree": (import_by_tree, "takes or gives other things than arrays"),
    "another function": (lambda good: replaced(good, "torch.ops.aten.mul.Tensor", "torch.hub.load"), "calls torch.hub"),
    "a file's operator": (
        lambda good: replaced(good, "torch.ops.aten.mul.Tensor", "torch.ops.aten.from_file.default"),
        "calls torch.ops.aten.from_file.default, which is no operator on tensors",
    ),
    "an array from nothing": (larger, "says that weight is larger than its member"),
}


def test_a_good_program_gives_the_same_from_the_copy(members: Members, tmp_path: Path) -> None:
    opened = open_program(write(members, tmp_path / "good.pt2"))
    outputs = opened.run(np.ones((1, 1, 1, 4), np.float32), np.array([3, 4], np.int32))  # type: ignore[arg-type]
    assert outputs["boxes"].ravel().tolist() == [3, 4, 5, 6]
    assert outputs["scores"].tolist() == [4, 5]


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_program_that_could_run_code_is_refused(
    kind: str, members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marker.py").write_text("open('marker', 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    make, said = HOSTILE[kind]
    with pytest.raises(InputError, match=said):
        load_program(write(make(members), tmp_path / "hostile.pt2"))
    assert not (tmp_path / "marker").exists()


def test_a_program_that_takes_or_gives_other_arrays_than_it_says_is_one_sentence(
    members: Members, tmp_path: Path
) -> None:
    opened = open_program(write(members, tmp_path / "good.pt2"))
    with pytest.raises(InputError, match=r"good\.pt2 does not take the pictures that it describes"):
        opened.run(np.ones((3, 1, 1, 4), np.float32), np.array([3, 4], np.int32))  # type: ignore[arg-type]
    member = "extra/gfl_description.json"
    for names, said in (('["boxes"]', "1 names for 2 outputs"), ('[["a"], ["b"]]', "outputs that are no text")):
        content = json.dumps(json.loads(members[member]) | {"output_names": names}).encode()
        with pytest.raises(InputError, match=said):
            load_program(write({**members, member: content}, tmp_path / "other.pt2"))


def test_compressed_members_are_refused(members: Members, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is compressed"):
        load_program(write(members, tmp_path / "packed.pt2", zipfile.ZIP_DEFLATED))


def test_a_description_that_unpacks_to_more_than_the_file_is_not_unpacked(members: Members, tmp_path: Path) -> None:
    path = write({**members, "extra/gfl_description.json": b" " * 10**6}, tmp_path / "a.pt2", zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="its description is larger than the file"):
        load_program(path)


@pytest.mark.parametrize("trace", ["File '/home/someone/model.py', line 3", "x\rraise SystemExit\r"])
def test_what_nodes_say_of_where_they_were_traced_is_left_out(members: Members, tmp_path: Path, trace: str) -> None:
    def add(program: dict[str, object]) -> None:
        for node in graph(program)["nodes"]:  # type: ignore[attr-defined]
            assert node["metadata"] == {}
            node["metadata"] = {"stack_trace": trace, "nn_module_stack": "L__self__,,a.B"}

    program, _, _ = load_program(write(changed(members, MODEL, add), tmp_path / "traced.pt2"))
    assert not any("stack_trace" in node.meta for node in program.graph.nodes)
    assert not any(str(Path(__file__).parent).encode() in content for content in members.values())

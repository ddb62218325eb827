"""`gfl.card`: what is said of a run and its numbers, what is not known, and files of others that stay as they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from tiny import BINDINGS, GIN_FILE

from gfl.card.__main__ import main
from gfl.card.facts import read_facts
from gfl.card.page import TO_FILL_IN, classes
from gfl.config import read_run, run_files
from gfl.engine.checkpoints import load_trained, read_state
from gfl.record.changed_settings import PAPER, changed_settings, run_files_of, usual_settings
from gfl.runtime.on_torch.digest import digest_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    data = tiny.write_data(folder / "data")
    return tiny.run_training(data, folder / "run", "EPOCHS = 2", "EMA = 0.9", tiny.SEES_EVERYTHING)


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def card_of(checkpoint: Path, output: Path, *flags: str) -> str:
    assert main([str(checkpoint), "--output", str(output), *flags]) == 0
    return output.read_text(encoding="utf-8")


def front_matter(text: str) -> dict[str, object]:
    content = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(content, dict)
    return content


def change(path: Path, **fields: object) -> None:
    tree = torch.load(path, weights_only=True) | fields
    torch.save({key: value for key, value in tree.items() if value is not None}, path)


def test_card_of_a_run_tells_data_training_result_and_digests(run: Path, tmp_path: Path) -> None:
    text = card_of(run / "last.pt", tmp_path / "card.md")
    state, metrics = read_state(run / "last.pt"), json.loads((run / "metrics.json").read_text())
    assert f"{tiny.TRAIN_PICTURES} pictures" in text
    assert f"{tiny.VAL_PICTURES} pictures" in text
    assert all(f"| {name} | " in text for name in state["names"])  # type: ignore[attr-defined]  # a list
    assert "- 8 steps of 2 pictures, 2 epochs, in a run of 2 epochs" in text
    assert "settings that differ from tiny.gin:" in text
    assert "| `EMA` | `0.9` | `0.0` |" in text
    assert "computed in fp32, on cpu" in text
    heads = re.findall(r"^\| (.*) \|\n\|((?:---:?\|)+)$", text, re.MULTILINE)
    assert ("class | category id | boxes trained on | AP | score of highest F1", "---|---:|---:|---:|---:|") in heads
    assert ("number | percent", "---|---:|") in heads
    assert not any("|  |" in f"| {head} |" for head, _ in heads)
    assert f"| AP, the mean over IoU 0.50 to 0.95 | {100 * metrics['AP']:.1f} |" in text
    assert hashlib.sha256((run / "last.pt").read_bytes()).hexdigest() in text
    assert digest_of(load_trained(run / "last.pt"), outputs="detections", precision="fp32") in text
    assert text.count(TO_FILL_IN) >= 4
    assert str(tmp_path) not in text  # no folder of this machine


def test_card_names_each_device_that_a_run_was_on(own_run: Path, tmp_path: Path) -> None:
    environment = json.loads((own_run / "env.json").read_text())
    resumed = [{"step": 4, "device": "cuda:0 Big"}, {"step": 5, "command": []}]
    (own_run / "env.json").write_text(json.dumps(environment | {"device": "cpu, 2 threads", "resumed": resumed}))
    assert "on cpu, 2 threads, then on cuda:0 Big, torch" in card_of(own_run / "last.pt", tmp_path / "card.md")


def test_front_matter_is_what_hubs_read(run: Path, tmp_path: Path) -> None:
    content = front_matter(card_of(run / "last.pt", tmp_path / "card.md"))
    assert content["license"] == "unknown"
    assert content["pipeline_tag"] == "object-detection"
    assert "object-detection" in content["tags"]  # type: ignore[operator]  # a list
    (entry,) = content["model-index"][0]["results"]  # type: ignore[index]  # a list
    assert entry["task"] == {"type": "object-detection"}
    assert re.fullmatch(r"[\w.-]+", entry["dataset"]["type"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert entry["metrics"][0]["name"] == "AP"
    assert entry["metrics"][0]["value"] == pytest.approx(metrics["AP"], abs=1e-4)


def test_numbers_of_another_evaluation_are_not_quoted(own_run: Path, tmp_path: Path) -> None:
    metrics = json.loads((own_run / "metrics.json").read_text())
    change(own_run / "best.pt", best_step=4, cursor={"epoch": 1, "batch": 0, "step": 4}, best=0.123)
    # The row of step 4 is of another AP than the checkpoint knows: the file beside is of another run.
    text = card_of(own_run / "best.pt", tmp_path / "a.md")
    assert "| AP, the mean over IoU 0.50 to 0.95 | 12.3 |" in text
    assert "The checkpoint holds the AP alone." in text
    assert "(from the checkpoint), on the pictures of " in text
    (own_run / "metrics.json").write_text(json.dumps(metrics | {"AP50": 0.987}))
    text = card_of(own_run / "last.pt", tmp_path / "b.md")
    assert "98.7" not in text
    assert "the metrics.json beside the file is of another evaluation" in text
    text = card_of(own_run / "last.pt", tmp_path / "c.md", "--metrics", str(own_run / "metrics.json"))
    assert "98.7" in text
    assert f"of a data set that the evaluation does not name: {TO_FILL_IN}" in text


def test_weights_that_were_not_evaluated_have_no_result(own_run: Path, tmp_path: Path) -> None:
    change(own_run / "last.pt", evaluation_due=True)
    text = card_of(own_run / "last.pt", tmp_path / "a.md")
    assert "Not known. The run stopped before these weights were evaluated." in text
    assert "model-index" not in front_matter(text)


def test_checkpoint_alone_and_of_the_first_format_has_a_card(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.pt"
    shutil.copy(run / "last.pt", alone)
    change(alone, format=None, trained_on=None, precision=None, cursor=None)
    assert main([str(alone)]) == 0
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "the checkpoint does not say how many pictures and boxes" in text
    assert "| format of the .pt | 1 |" in text
    assert f"settings that differ from {PAPER}" in text
    assert "Not known. It was not evaluated" in text


@pytest.mark.parametrize(
    "fields",
    [
        {"trained_on": 3},
        {"trained_on": {"boxes": [1], "pictures": 2, "annotations": "a"}},
        {"trained_on": {"val": 7}},
        {"cursor": {"step": "a"}},
        {"gfl_version": 3},
        {"best": "a"},
    ],
)
def test_values_of_another_kind_are_passed_over(own_run: Path, tmp_path: Path, fields: dict[str, object]) -> None:
    change(own_run / "last.pt", **fields)
    card_of(own_run / "last.pt", tmp_path / "card.md")


def test_a_card_that_is_there_stays(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_run / "card.md").write_text("mine")
    arguments = [str(own_run / "last.pt")]
    assert "is there already" in tiny.refusal(main, arguments, capsys)
    assert (own_run / "card.md").read_text() == "mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert "replaced " in capsys.readouterr().out
    assert (own_run / "card.md").read_text().startswith("---\n")


def test_what_has_no_card_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pth")
    (tmp_path / "metrics.json").write_text("{}")
    flags = ["--output", str(tmp_path / "card.md")]
    assert "does not say how it was trained" in tiny.refusal(main, [str(tmp_path / "weights.pth"), *flags], capsys)
    assert "no such file" in tiny.refusal(main, [str(tmp_path / "gone.pt"), *flags], capsys)
    given = [str(run / "last.pt"), *flags, "--metrics", str(tmp_path / "metrics.json")]
    assert "cannot be read as the metrics.json" in tiny.refusal(main, given, capsys)
    assert not (tmp_path / "card.md").exists()


def test_names_with_signs_of_markdown_keep_the_table_whole(own_run: Path, tmp_path: Path) -> None:
    names = ["a|b", "<script>", "$_c_$", "d\ne", "`f`"]
    change(own_run / "last.pt", names=names)
    text = card_of(own_run / "last.pt", tmp_path / "card.md")
    assert r"| a\|b | " in text
    assert r"| \<script\> | " in text
    assert r"| d\\ne | " in text


def test_classes_of_one_name_have_their_own_results(own_run: Path) -> None:
    facts = read_facts(own_run / "best.pt")
    assert facts.result is not None
    model = replace(facts.model, names=("cat", "cat"), category_ids=(4, 7))
    result = facts.result._replace(per_class={"cat (4)": 0.25, "cat (7)": 0.75})
    text = "\n".join(classes(facts._replace(model=model, result=result, boxes=(1, 2))))
    assert "| cat (4) | 4 | 1 | 25.0 |" in text
    assert "| cat (7) | 7 | 2 | 75.0 |" in text


def test_settings_that_differ_are_named_as_people_set_them() -> None:
    usual = read_run([GIN_FILE]).run
    changed = read_run([GIN_FILE], [*BINDINGS, "head.HeadConfig.convs = 2", "DATA_ROOT = '/home/me'"]).run
    names = {change.name for change in changed_settings(changed, usual)}
    assert {"OPTIMIZER", "HeadConfig.convs"} <= names
    assert "DATA_ROOT" not in names
    assert list(changed_settings(usual, usual)) == []


def test_another_backbone_is_a_setting_that_differs_and_its_own_are_compared_with_their_defaults() -> None:
    usual, other = read_run([]).run, read_run(["res2net101_dcn_ms2x.gin"]).run
    changes = {change.name: (change.value, change.usual) for change in changed_settings(other, usual)}
    assert changes["DetectorConfig.backbone"] == ("Res2NetConfig", "ResNetConfig")
    assert changes["Res2NetConfig.deformable"] == ("v1", None)
    assert "Res2NetConfig.depth" not in changes
    assert "DetectorConfig.backbone" in {change.name for change in changed_settings(usual, other)}


def test_run_files_are_read_from_the_command() -> None:
    command = ["train.py", "--gin_file", "a.gin", "--workdir", "b", "--gin_file=c.gin"]
    assert run_files_of({"command": command}) == ["a.gin", "c.gin"]
    assert run_files_of({}) == run_files_of({"command": 3}) == []


def test_facts_have_the_boxes_of_each_class(run: Path) -> None:
    facts = read_facts(run / "best.pt")
    assert facts.boxes is not None
    assert sum(facts.boxes) == facts.train.boxes > 0
    assert len(facts.boxes) == len(facts.model.names)


@pytest.mark.parametrize("name", run_files())
def test_a_run_of_each_run_file_has_usual_settings(name: str) -> None:
    """Of those too that ask for a checkpoint: what it brings is compared with the file alone."""
    usual, what = usual_settings({"command": ["gfl.train", "--gin_file", name]})
    assert what == name
    started = dataclasses.replace(usual, checkpoint="/somewhere/best.pt", epochs=77)
    changes = {change.name: change.value for change in changed_settings(started, usual)}
    assert changes == {"CHECKPOINT": "best.pt", "EPOCHS": 77}

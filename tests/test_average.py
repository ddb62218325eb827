"""`gfl.average`: the mean of checkpoints, what it refuses, and the epochs that a run keeps for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import tiny_export
import torch
from torch import Tensor

from gfl import average
from gfl.card.__main__ import main as card
from gfl.engine.checkpoints import load_trained, write_checkpoint
from gfl.engine.torch_file import read_torch_file
from gfl.engine.weights import read_checkpoint


def read(path: Path) -> dict[str, object]:
    contents = read_torch_file(path, "a checkpoint")
    assert isinstance(contents, dict)
    return contents


def changed(path: Path, output: Path, **changes: object) -> Path:
    """A copy of a checkpoint with other keys."""
    write_checkpoint(output, {**read(path), **changes})
    return output


def weights_of(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(path).state


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_export.write_model(tmp_path_factory.mktemp("average") / "a.pt")


@pytest.fixture(scope="module")
def second(first: Path) -> Path:
    """The same model with weights twice as large, and what a run leaves beside them."""
    doubled = {name: 2 * leaf for name, leaf in weights_of(first).items()}
    left = {"cursor": {"epoch": 3, "batch": 0, "step": 12}, "score_thresholds": [0.4] * 5, "optimiser": {}}
    return changed(first, first.with_name("b.pt"), variables=doubled, **left)


def averaged(output: Path, *arguments: object) -> Path:
    assert average.main([*map(str, arguments), "--output", str(output)]) == 0
    return output


def refused(capsys: pytest.CaptureFixture[str], output: Path, *arguments: object) -> str:
    said = tiny.refusal(average.main, [*map(str, arguments), "--output", str(output)], capsys)
    assert not output.exists()
    return said


def test_the_mean_is_a_checkpoint_of_the_same_model(first: Path, second: Path, tmp_path: Path) -> None:
    mean = averaged(tmp_path / "mean.pt", first, second)
    for name, leaf in weights_of(first).items():
        torch.testing.assert_close(weights_of(mean)[name], 1.5 * leaf, rtol=1e-6, atol=0)
    model, one = load_trained(mean), load_trained(first)
    assert (model.names, model.category_ids, model.canvases) == (one.names, one.category_ids, one.canvases)
    assert model.run == one.run


def test_the_mean_says_what_it_is_of_and_keeps_nothing_of_other_weights(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = averaged(tmp_path / "mean.pt", first, second)
    assert "the mean of" in (said := capsys.readouterr().out)
    assert f"python -m gfl.evaluate --checkpoint {mean}" in said
    tree = read(mean)
    assert tree["averaged_from"] == [{"file": str(first), "step": None}, {"file": str(second), "step": 12}]
    assert not tree.keys() & {"score_thresholds", "optimiser", "cursor", "ema", "best"}
    assert card([str(mean)]) == 0
    assert "- the mean of the weights in a.pt, b.pt" in mean.with_name("card.md").read_text()


def test_the_averaged_weights_of_a_file_are_taken_and_whole_numbers_are_the_last_files(
    first: Path, tmp_path: Path
) -> None:
    paths = []
    for count in (1, 5):
        variables = {**weights_of(first), "seen": torch.tensor(count)}
        ema = {name: torch.full_like(leaf, count) for name, leaf in weights_of(first).items()}
        paths.append(changed(first, tmp_path / f"{count}.pt", variables=variables, ema=ema))
    mean = weights_of(averaged(tmp_path / "mean.pt", *paths))
    assert int(mean.pop("seen")) == 5
    assert {float(leaf.mean()) for leaf in mean.values()} == {3.0}


def test_float64_holds_what_float32_would_lose(first: Path, tmp_path: Path) -> None:
    """The sum of 1 and three times 2^-24 is 1 in float32."""
    values = (1.0, 2.0**-24, 2.0**-24, 2.0**-24, -1.0)
    paths = [
        changed(first, tmp_path / f"{i}.pt", variables={**weights_of(first), "extra": torch.tensor([value])})
        for i, value in enumerate(values)
    ]
    mean = weights_of(averaged(tmp_path / "mean.pt", *paths))["extra"]
    assert float(mean) == pytest.approx(3 * 2.0**-24 / 5, rel=1e-6)


def test_files_of_different_models_are_refused_with_the_difference(
    first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mean.pt"
    names = changed(first, tmp_path / "names.pt", names=["a", "b", "c", "d", "e"])
    assert f"{names} has other classes than {first}" in refused(capsys, output, names, first)
    sizes = tiny_export.write_model(tmp_path / "sizes.pt", (*tiny_export.BINDINGS, "EVAL_SHORT_SIDE = 96"))
    assert "sizes.pt has other settings of the model or of its picture sizes" in refused(capsys, output, sizes, first)
    other = tiny_export.write_model(tmp_path / "lr.pt", (*tiny_export.BINDINGS, "LR = 0.5"))
    averaged(tmp_path / "of_two_rates.pt", other, first)  # how it was trained does not matter
    fewer = weights_of(first)
    fewer.pop(next(iter(fewer)))
    lacking = changed(first, tmp_path / "lacking.pt", variables=fewer)
    assert f"{lacking} has other names or shapes of weights than {first}" in refused(capsys, output, lacking, first)


def test_other_mistakes_are_told(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mean.pt"
    assert "got 1 file, expected at least 2" in refused(capsys, output, first)
    assert "got --last 3" in refused(capsys, output, tmp_path, "--last", 3)
    assert "KEEP_LAST = 3" in refused(capsys, output, tmp_path, "--last", 3)
    assert "got --last with 2 names" in refused(capsys, output, first, first, "--last", 2)
    assert f"got {first} more than once" in refused(
        capsys, output, first, first.parent / ".." / first.parent.name / "a.pt", first
    )
    assert f"name it {output}" in refused(capsys, output.with_suffix(".onnx"), first, first)
    output.write_text("mine")
    said = tiny.refusal(average.main, [str(first), str(first), "--output", str(output)], capsys)
    assert "is there already" in said
    assert output.read_text() == "mine"


def test_a_run_keeps_its_last_epochs_for_it(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path / "data")
    run = tiny.run_training(data, tmp_path / "run", "EPOCHS = 3", "EVAL_EVERY = 0", "KEEP_LAST = 2")
    assert sorted(path.name for path in run.glob("epoch_*")) == ["epoch_2.pt", "epoch_3.pt"]
    assert "optimiser" not in read(run / "epoch_3.pt")
    tiny.assert_equal_bits(weights_of(run / "epoch_3.pt"), weights_of(run / "last.pt"))
    mean = read(averaged(tmp_path / "mean.pt", run, "--last", 2))
    steps = [2 * tiny.STEPS_AN_EPOCH, 3 * tiny.STEPS_AN_EPOCH]
    files = [str(run / "epoch_2.pt"), str(run / "epoch_3.pt")]
    assert mean["averaged_from"] == [{"file": f, "step": step} for f, step in zip(files, steps, strict=True)]

"""Several models as one, and the ways a person asks for that and for views: load, infer and evaluate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import infer_program
import numpy as np
import pytest
import tiny
import tiny_export

from gfl import evaluate, load
from gfl.errors import InputError
from gfl.runtime.ensemble import ensemble, open_merged, read_looks
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from gfl.runtime.tta import View

H, W = tiny.CANVAS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("ensemble") / "data")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models, of which the second is surer of everything."""
    folder = tmp_path_factory.mktemp("ensemble")
    return tiny_export.write_model(folder / "a.pt"), tiny_export.write_model(folder / "b.pt", surer=0.5)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)


def test_a_model_twice_is_the_model_once(models: tuple[Path, Path]) -> None:
    one, twice = load(models[0])(picture()), load([models[0]] * 2)(picture())
    assert len(one) > 8
    assert one == replace(twice, complete=one.complete)


def test_the_surer_of_two_decides_under_nms_and_fusion_asks_both(models: tuple[Path, Path]) -> None:
    both = load(models)(picture())
    assert both.scores[0] == load(models[1])(picture()).scores[0]
    fused = load(models, merge="fusion")(picture())
    assert fused.scores[0] < both.scores[0]
    assert fused.scores[0] > load(models[0])(picture()).scores[0]


def test_an_exported_file_leads_and_a_checkpoint_follows(
    models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    exported = open_model(tiny_export.lying_exports(tmp_path_factory))
    both = ensemble([open_model(models[0]), exported], "nms")
    assert (both.canvases, both.batch, both.any_canvas) == (exported.canvases, 1, False)
    assert both.provider_report().nodes_by_provider == exported.provider_report().nodes_by_provider
    found = both.run(picture().transpose(2, 0, 1)[None], np.array([[H, W]], np.int32))
    assert int(found["count"][0]) > 8
    with pytest.raises(InputError, match="different pictures a run and canvases, 2, "):
        ensemble([exported, open_model(tiny_export.paired_exports(tmp_path_factory))], "nms")


def test_models_of_other_classes_or_sizes_are_refused(models: tuple[Path, Path]) -> None:
    one = open_model(models[0])
    renamed = replace(one, description=replace(one.description, names=("a", "b", "c", "d", "e")))
    with pytest.raises(InputError, match=r"different classes, a, b, c, d, e of .* expected the same"):
        ensemble([one, renamed], "nms")
    larger = replace(one, description=replace(one.description, short_side=99))
    with pytest.raises(InputError, match="different short and long sides, 99, "):
        ensemble([one, larger], "nms")


def test_what_is_shown_is_the_mean_of_the_models_scores(models: tuple[Path, Path]) -> None:
    one = open_model(models[0])
    other = replace(one, description=replace(one.description, score_thresholds=(0.7,) * 5))
    assert ensemble([one, other], "nms").description.score_thresholds == pytest.approx((0.5,) * 5)


def test_what_cannot_be_merged_is_told(models: tuple[Path, Path]) -> None:
    assert read_looks(None, None, 1).views == (View(),)
    with pytest.raises(InputError, match="got the merge 'voting' for one model and one view"):
        load(models[0], merge="voting")
    with pytest.raises(InputError, match="got the merge 'best', expected one of nms"):
        load(models[0], tta="flip", merge="best")
    with pytest.raises(InputError, match="got an empty list of models"):
        load([])


def test_load_takes_views_as_text_a_number_or_a_list(models: tuple[Path, Path]) -> None:
    expected = load(models[0], tta=["flip", 0.5, 1.0])(picture())
    assert len(expected) > 8
    assert load(models[0], tta="flip 0.5 1.0")(picture()) == expected
    assert load(models[0], tta=1.0)(picture()) == load(models[0])(picture())
    assert load(models, tta="flip")(picture()) != load(models)(picture())


def test_views_of_several_models_are_merged_model_by_model(models: tuple[Path, Path]) -> None:
    seen: list[bool] = []

    def open_one(path: str | Path, *, candidates: bool) -> Model:
        seen.append(candidates)
        return open_model(path, candidates=candidates)

    open_merged(models, open_one, read_looks(["flip"], None, 2))
    assert seen == [True, True]


def test_infer_records_views_and_merge_and_resumes_no_other(
    models: tuple[Path, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input", data / "val2017", "--output", tmp_path / "out", "--model", *models]
    assert infer_program.detect(*flags, "--tta", "flip", "0.5", "--merge", "fusion") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["tta"], summary["merge"]) == ("flip 0.5", "fusion")
    assert summary["model"] == ", ".join(map(str, models))
    assert json.loads((tmp_path / "out" / "images.json").read_text())["model"] == "a.pt, b.pt"
    assert summary["detections"] > 8
    for more, what in ((["--tta", "flip"], "another --tta"), (["--tta", "flip", "0.5"], "another --merge")):
        assert what in infer_program.refused(capsys, *flags, *more, "--resume")
    one = [*flags[:-1], "--tta", "flip", "0.5", "--merge", "fusion", "--resume"]
    assert "another model" in infer_program.refused(capsys, *one)
    assert infer_program.detect(*flags, "--tta", "flip", "0.5", "--merge", "fusion", "--resume") == 0


def test_evaluate_finds_what_infer_finds(models: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    """Both take views and several models; their results are the same numbers in two files."""
    looks = ["--tta", "flip", "0.5", "1.0", "--merge", "voting"]
    flags = [*tiny_export.evaluate_flags(data), "--no-report"]
    assert evaluate.main(["--checkpoint", *map(str, models), *flags, *looks]) == 0
    counted = models[0].with_name("evaluation_a_pt_merged")
    annotations = ["--annotations", tiny.annotations(data, "val")]
    out = ["--output", tmp_path / "out"]
    assert infer_program.detect("--model", *models, "--input", data / "val2017", *out, *annotations, *looks) == 0
    sides = []
    for path in (counted / "val_detections.json", tmp_path / "out" / "detections.json"):
        rows = json.loads(path.read_text())
        sides.append(sorted((row["image_id"], row["category_id"], -row["score"], *row["bbox"]) for row in rows))
    assert len(sides[0]) > 8
    np.testing.assert_allclose(sides[0], sides[1], rtol=0, atol=0.02)

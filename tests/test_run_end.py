"""What a run says when it has ended, or was interrupted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import tiny

from gfl.data.coco import CocoData, read_coco
from gfl.record.evaluation import Judged
from gfl.record.run_end import Spent, end_lines, evaluations_table, stopped_text, time_parts

HEADER = "step,epoch,AP,AP50,AP75,APs,APm,APl,AR1\n"
SPENT = Spent(1200, 60.0, 95.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoData:
    folder = tiny.write_data(tmp_path_factory.mktemp("end") / "data")
    return read_coco(tiny.annotations(folder), folder / "train2017", keep_empty=True)


def results(folder: Path, *rows: str) -> Path:
    path = folder / "results.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_the_table_has_the_last_and_the_best_evaluation(tmp_path: Path) -> None:
    path = results(
        tmp_path,
        "900,1,0.1,0.2,0.1,0.1,0.1,0.1,0.1",
        "1800,2,0.412,0.6,0.4,-1.0,0.3,,0.2",
        "2700,3,0.4,0.59,0.39,-1.0,0.3,0.5,0.2",
    )
    assert evaluations_table(path, 1800).splitlines() == [
        "      step    AP  AP50  AP75  S     M     L",
        "last  2700  40.0  59.0  39.0  -  30.0  50.0",
        "best  1800  41.2  60.0  40.0  -  30.0     -",
    ]


def test_the_table_is_empty_where_nothing_was_evaluated(tmp_path: Path) -> None:
    assert evaluations_table(tmp_path / "results.csv", 0) == ""
    assert evaluations_table(results(tmp_path), 0) == ""


def test_results_that_were_changed_by_hand_stop_no_end(tmp_path: Path) -> None:
    path = results(tmp_path, "9,1,good,0.2")
    assert evaluations_table(path, 9).splitlines()[1:] == [
        "last     9   ?  20.0     -  -  -  -",
        "best     9   ?  20.0     -  -  -  -",
    ]
    path.write_bytes(b"\xff\xfe no table")
    assert evaluations_table(path, 9) == ""


def test_the_time_is_that_of_the_steps_and_of_all() -> None:
    assert list(time_parts(SPENT)) == ["1:00 of steps, 20.0 pictures a second", "1:35 in all"]
    assert list(time_parts(Spent(0, 0.0, 2.0))) == ["no step was left to do", "0:02 in all"]


def test_the_report_is_named_where_it_is_there(data: CocoData, tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    before = list(end_lines(folder, "the last weights", 0, SPENT, data, None))
    (folder / "report.html").write_text("")
    after = list(end_lines(folder, "the last weights", 0, SPENT, data, data))
    assert not any(line.startswith("  report") for line in before)
    assert f"  report    {shlex.quote(str(folder / 'report.html'))}" in after
    assert [line.split()[0] for line in before[-2:]] == ["export", "detect"]
    assert [line.split()[0] for line in after[-4:]] == ["report", "evaluate", "export", "detect"]


def test_an_interrupted_run_names_what_it_left_and_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    first = stopped_text(folder, 1, Judged(), "python").splitlines()
    assert first == [
        "",
        f"the run is in {folder}: last.pt is after 1 step",
        f"  go on     python -m gfl.train --resume --workdir '{folder}'",
    ]
    (folder / "best.pt").write_text("")
    assert ": last.pt is after 1,200 steps, best.pt after 900 steps, AP 41.2\n" in stopped_text(
        folder, 1200, Judged(best=0.412, best_step=900), "python"
    )
    unmeasured = stopped_text(folder, 1200, Judged(best=-1.0, best_step=900), "torchrun ...")
    assert "best.pt after 900 steps\n  go on     torchrun ... -m gfl.train --resume" in unmeasured

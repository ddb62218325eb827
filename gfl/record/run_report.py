"""The pictures, tables and the page that a run or an evaluation leaves: what was found, where it errs, what it was fed.

All of it is made from the folder's own files and the data set, so that `python -m gfl.report RUN` can make it again.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from gfl.data.check.findings import Finding
from gfl.data.check.inspection import Inspection, check_pictures, check_run
from gfl.data.check.truth import check_boxes
from gfl.data.coco import CocoData, read_coco
from gfl.data.coco_json import CocoDetection
from gfl.data.paths import split_paths
from gfl.errors import InputError
from gfl.files import write_atomic
from gfl.model import detector
from gfl.record.changed_settings import changed_settings, named_settings, usual_settings
from gfl.record.drawing import write_curves, write_training_data
from gfl.record.run_data import (
    Splits,
    data_as_started,
    detection_limit,
    read_config,
    read_log,
    read_mapping,
    read_results,
    read_splits,
    resumptions,
    started_in,
)
from gfl.record.run_end import next_commands, resume_command
from gfl.record.run_folder import BEST, DETECTIONS, LABELS, LAST, LOG, PAGE
from gfl.report import figures
from gfl.report.analysis import Analysis, analyse
from gfl.report.coco_eval import COCO_LIMIT
from gfl.report.compare_page import Compared, compare_page
from gfl.report.csv_tables import class_table, error_table
from gfl.report.gallery import truth_and_found
from gfl.report.page import Subject, report_page
from gfl.report.sheets import jpeg, sheet
from gfl.settings import DataConfig, RunConfig
from gfl.words import counted

PRECISION_RECALL, CONFUSION, PER_CLASS = "pr_curve.png", "confusion.png", "per_class.csv"
ERRORS_TABLE = "errors.csv"
EVALUATION = "evaluation.json"  # what an evaluation's folder says of its data
SHEETS, ROWS = 3, 4  # of validation pictures, truth beside what was found
RECIPE = (
    *("ResNetConfig.base_width", "CHECKPOINT", "SHORT_SIDE", "LONG_SIDE", "EVAL_SHORT_SIDE"),
    *("BATCH_SIZE", "EPOCHS", "MAX_STEPS", "OPTIMIZER", "LR", "SCHEDULE", "EMA", "FREEZE", "PRECISION", "SEED"),
)  # what people ask of a run first
TOLD_FIRST = ("same_pictures", "eval_size")  # findings without which the numbers would be taken for what they are not
MOST_CHECKED = 20_000  # training pictures: more are not looked at again at the end of a run


# ---- what an evaluation found ----


def write_evaluation(folder: Path, analysis: Analysis, val: CocoData) -> None:
    """pr_curve.png, confusion.png, per_class.csv, errors.csv, and val_0.jpg and so on: truth beside what was found."""
    names = [row.name for row in analysis.classes]
    if analysis.objects:
        curve = figures.precision_recall_figure(analysis.curves, names, [row.AP for row in analysis.classes])
        write_atomic(folder / PRECISION_RECALL, figures.png(curve))
        if analysis.breakdown is not None:
            write_atomic(folder / CONFUSION, figures.png(figures.confusion_figure(analysis.breakdown.confusion, names)))
    write_atomic(folder / PER_CLASS, class_table(analysis))
    by_id = {picture.id: picture for picture in val.pictures}
    write_atomic(folder / ERRORS_TABLE, error_table(analysis, by_id))
    step = max(1, len(analysis.judged) // (SHEETS * ROWS))
    drawn = (truth_and_found(by_id[each.image_id], each, analysis) for each in analysis.judged[::step])
    readable = (each for each in drawn if each is not None)
    for number in range(SHEETS):
        if rows := list(islice(readable, ROWS)):
            write_atomic(folder / f"val_{number}.jpg", jpeg(sheet(rows, 1, max(row.shape[1] for row in rows))))


# ---- the page ----


def write_page(folder: Path, subject: Subject, name: str = PAGE) -> Path:
    """Write the page into a folder; its path."""
    write_atomic(folder / name, report_page(subject))
    return folder / name


def report_run(folder: Path, splits: Splits | None = None) -> Path:
    """Make everything of a run's folder anew; the path of its page. splits: the run's data, where it is read already.

    Raises InputError where the folder is no run's, or its data set is gone.
    """
    cfg = read_config(folder).run
    log = read_log(folder / LOG)
    evaluations = [line for line in log if "AP" in line]
    steps = [line for line in log if "AP" not in line]
    train, val = splits or read_splits(cfg, started_in(folder))
    write_curves(folder, cfg.batch_size)
    if train is not None and (splits is None or not (folder / LABELS).is_file()):  # a run drew it at its start
        write_training_data(folder, cfg, train, val)
    analysis, notes = None, ["This run has no evaluation: its page shows the training alone."]
    if val is not None and (folder / DETECTIONS).is_file():
        found = read_results(folder / DETECTIONS)
        analysis = analyse(val.truth, found, max_detections=detection_limit(folder))
        notes = _spread_notes(found, analysis)
        write_evaluation(folder, analysis, val)
    findings = findings_of(splits or Splits(train, val), cfg.data)
    notes += [each.text for found in findings.values() for each in found if each.name in TOLD_FIRST]
    environment = read_mapping(folder / "env.json")
    usual_run, usual = usual_settings(environment)
    commands = list(_training_commands(folder, cfg, log))
    if (folder / BEST).is_file():
        commands += next_commands(folder, train, val)
    subject = Subject(
        title=f"Run {folder.resolve().parent.name}/{folder.resolve().name}",
        analysis=analysis,
        pictures={} if val is None else {picture.id: picture for picture in val.pictures},
        steps=steps,
        evaluations=evaluations,
        batch=cfg.batch_size,
        labels=() if train is None else figures.svgs(figures.labels_figure(train)),
        findings=findings,
        usual=usual,
        settings=[(each.name, repr(each.value), repr(each.usual)) for each in changed_settings(cfg, usual_run)],
        recipe=[
            ("model", detector.name(cfg.detector)),
            *((name, repr(value)) for name, value in named_settings(cfg) if name in RECIPE),
        ],
        environment=_told_environment(environment),
        commands=[(f"{name.capitalize()}:", command) for name, command in commands],
        notes=notes,
    )
    return write_page(folder, subject)


def _training_commands(folder: Path, cfg: RunConfig, log: Sequence[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """How to go on with a run that was stopped, or to make one longer that has ended with its last evaluation."""
    if not (folder / LAST).is_file():
        return
    ended = bool(log) and "AP" in log[-1] and log[-1].get("epoch") == cfg.epochs
    if ended:
        yield "train longer", f"{resume_command(folder)} --gin_bindings 'EPOCHS = {2 * cfg.epochs}'"
    else:
        yield "go on training", resume_command(folder)


def report_evaluation(folder: Path, data: CocoData, about: Mapping[str, object], limit: int = COCO_LIMIT) -> Path:
    """As `report_run`, of the folder of an evaluation. about: what was evaluated, on what, by which command."""
    found = read_results(folder / DETECTIONS)
    analysis = analyse(data.truth, found, max_detections=limit)
    write_evaluation(folder, analysis, data)
    subject = Subject(
        title=f"Evaluation of {'/'.join(Path(str(about.get('model', folder))).parts[-2:])}",
        analysis=analysis,
        pictures={picture.id: picture for picture in data.pictures},
        findings=findings_of(Splits(None, data), DataConfig()),
        environment=_told_environment(about),
        notes=_spread_notes(found, analysis),
    )
    return write_page(folder, subject)


def report_folder(folder: Path) -> Path:
    """Make the report of a run or of an evaluation anew, whichever the folder is of."""
    if (folder / "config.gin").is_file() or not (folder / EVALUATION).is_file():
        return report_run(folder)
    about = read_mapping(folder / EVALUATION)
    return report_evaluation(folder, _data_of_evaluation(folder), about, detection_limit(folder))


def _data_of_evaluation(folder: Path) -> CocoData:
    about = read_mapping(folder / EVALUATION)
    annotations, images = about.get("annotations"), about.get("images")
    if not isinstance(annotations, str) or not isinstance(images, str):
        raise InputError(f"{folder / EVALUATION} names no annotations and images; evaluate anew")
    return read_coco(annotations, images, keep_empty=True)


def results_page(data: CocoData, results: Path) -> str:
    """The page of any COCO results file."""
    found = read_results(results)
    analysis = analyse(data.truth, found)
    subject = Subject(
        title=f"{results.name} on {data.annotations.name}",
        analysis=analysis,
        pictures={picture.id: picture for picture in data.pictures},
        findings=findings_of(Splits(None, data), DataConfig()),
        notes=_spread_notes(found, analysis),
    )
    return report_page(subject)


def _spread_notes(found: Sequence[CocoDetection], analysis: Analysis) -> list[str]:
    """What is to be said where some detections have the spread of their edges, but not all."""
    if analysis.shown.edge_std is not None or not (having := sum("edge_std" in row for row in found)):
        return []
    return [
        f"{having:,} of {counted(len(found), 'detection')} have an edge_std, but not each has four numbers of 0 or "
        "more: so the spread of the edges is left out."
    ]


def compare_folders(folders: Sequence[Path]) -> str:
    """The page of several folders of runs or evaluations, which must be on the same validation pictures and boxes.

    Raises InputError where there are fewer than two, one was not evaluated, or they are not on the same.
    """
    if len(folders) < 2:
        raise InputError(f"got {len(folders)} folder with --compare, expected at least two; name another run")
    compared: list[Compared] = []
    first: CocoData | None = None
    limit = min(map(detection_limit, folders))  # of all alike: numbers of other limits cannot be compared
    for folder in folders:
        data, settings = _evaluated_data(folder)
        if first is not None and not _same_truth(first, data):
            raise InputError(
                f"{folder} was evaluated on other pictures, classes or boxes ({data.annotations}) than {folders[0]} "
                f"({first.annotations}), expected the same; evaluate both on one annotation file"
            )
        first = first or data
        if not (folder / DETECTIONS).is_file():
            raise InputError(f"got {folder}, which has no {DETECTIONS}, expected a run that was evaluated; evaluate it")
        analysis = analyse(data.truth, read_results(folder / DETECTIONS), max_detections=limit)
        compared.append(Compared(str(folder), analysis, settings))
    pictures = {} if first is None else {picture.id: picture for picture in first.pictures}
    return compare_page(compared, pictures)


def _evaluated_data(folder: Path) -> tuple[CocoData, dict[str, str]]:
    """The validation data of a folder, and the settings of its run."""
    if not (folder / "config.gin").is_file() and (folder / EVALUATION).is_file():
        return _data_of_evaluation(folder), {}
    run = read_config(folder).run
    data = read_coco(*split_paths(data_as_started(run.data, started_in(folder)), "val"), keep_empty=True)
    return data, {name: repr(value) for name, value in named_settings(run)}


def _same_truth(one: CocoData, other: CocoData) -> bool:
    return list(one.truth.class_names.items()) == list(other.truth.class_names.items()) and all(
        np.array_equal(getattr(one.truth, name), getattr(other.truth, name))
        for name in ("image_ids", "image_id", "category_id", "boxes_xywh", "crowd")
    )


def findings_of(splits: Splits, cfg: DataConfig) -> dict[str, list[Finding]]:
    """What `gfl.data check` says of the data, without decoding its pictures."""
    found: dict[str, list[Finding]] = {}
    for name, data in (("training", splits.train), ("validation", splits.val)):
        if data is not None and len(data.pictures) > MOST_CHECKED:
            skipped = f"{len(data.pictures):,} pictures are not looked at here; `python -m gfl.data check` does it"
            found[name] = [Finding("not_checked", 1, skipped, is_note=True)]
        elif data is not None:
            notes = [Finding("read_otherwise", 1, note, is_note=True) for note in data.notes]
            found[name] = [*check_boxes(data), *notes, *check_pictures(data)]
    sizes = [len(data.pictures) for data in splits if data is not None]
    if len(sizes) == 2 and max(sizes) <= MOST_CHECKED:
        one, other = (
            Inspection(name, data.annotations, [], data) for name, data in zip(found, splits, strict=True) if data
        )
        found["both together"] = check_run(one, other, cfg)
    return found


def _told_environment(environment: Mapping[str, object]) -> dict[str, object]:
    """What of env.json a person reads: the packages, and when the run was resumed, in a line each."""
    hidden = ("packages", "command", "variables")
    told = {name: value for name, value in environment.items() if name not in hidden and value is not None}
    if isinstance(command := environment.get("command"), list):
        told["command"] = shlex.join(map(str, command))
    if isinstance(packages := environment.get("packages"), dict):
        told["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    if again := resumptions(environment):
        times = ", ".join(f"at step {each['step']:,} ({each.get('started', 'time unknown')})" for each in again)
        told["resumed"] = f"once, {times}" if len(again) == 1 else f"{len(again)} times: {times}"
    return told

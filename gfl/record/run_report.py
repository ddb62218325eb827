"""The pictures, tables and the page that a run or an evaluation leaves: what was found, where it errs, what it was fed.

All of it is made from the folder's own files and the data set, so that `python -m gfl.report RUN` can make it again.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gfl.config import ParsedRun, read_run, read_text
from gfl.data.check.findings import Finding
from gfl.data.check.inspection import Inspection, check_pictures, check_run
from gfl.data.check.truth import check_boxes
from gfl.data.coco import CocoData, read_coco
from gfl.data.coco_json import CocoDetection
from gfl.data.loader import LoadedBatch, TrainLoader
from gfl.data.paths import SYNTHETIC, split_paths
from gfl.data.sizes import canvases_for
from gfl.errors import InputError, first_line
from gfl.files import atomic_file, make_folder, write_atomic
from gfl.record.run_folder import BEST, CURVES, LABELS, LAST, LOG
from gfl.report import figures
from gfl.report.analysis import Analysis, analyse
from gfl.report.coco_eval import COCO_LIMIT
from gfl.report.compare_page import Compared, compare_page
from gfl.report.gallery import truth_and_found
from gfl.report.page import CLASS_HEAD, Subject, class_cells, report_page
from gfl.report.sheets import Fed, fed_picture, jpeg, sheet
from gfl.settings import DataConfig, RunConfig

if TYPE_CHECKING:
    pass

PAGE, PRECISION_RECALL, CONFUSION, PER_CLASS = "report.html", "pr_curve.png", "confusion.png", "per_class.csv"
RESULTS = "val_detections.json"
EVALUATION = "evaluation.json"  # what an evaluation's folder says of its data
BATCHES, MOST_FED = 3, 16  # batches that are drawn, and pictures of each
SHEETS, ROWS = 3, 4  # of validation pictures, truth beside what was found
FIRST_S, MOST_TIME = 30.0, 0.01  # results.png is not drawn again earlier, nor for a larger share of a run's time
MOST_CHECKED = 20_000  # training pictures: more are not looked at again at the end of a run


class Splits(NamedTuple):
    """The data of a run; None for what is not there or was not evaluated."""

    train: CocoData | None
    val: CocoData | None


# ---- what training is fed ----


def write_training_data(folder: Path, cfg: RunConfig, train: CocoData, val: CocoData | None) -> None:
    """labels.png, and train_batch0.jpg and so on: the first batches as the network gets them."""
    _write(folder / LABELS, figures.png(figures.labels_figure(train)))
    canvases = canvases_for(train, cfg.data, val=val)
    data = replace(cfg.data, workers=0)
    loader = TrainLoader(train, data, canvases, batch_size=max(1, cfg.batch_size // cfg.accumulate), seed=cfg.seed)
    for number, loaded in enumerate(islice(loader.batches(loader.plan(0)[:BATCHES]), BATCHES)):
        _write(
            folder / f"train_batch{number}.jpg", jpeg(sheet([fed_picture(fed, train.names) for fed in _fed(loaded)]))
        )


def _fed(loaded: LoadedBatch) -> Iterator[Fed]:
    """The first pictures of a batch."""
    batch = loaded.batch
    for index in range(min(MOST_FED, len(loaded.image_ids))):
        height, width = batch.image_sizes[index].tolist()
        real = batch.box_mask[index].numpy()
        boxes, labels = batch.boxes_xyxy[index].numpy()[real], batch.labels[index].numpy()[real]
        yield Fed(batch.images[index].numpy(), (height, width), boxes, labels)


# ---- its course ----


def write_curves(folder: Path, batch: int) -> None:
    """results.png, from log.jsonl. batch: pictures a step."""
    log = read_log(folder / LOG)
    evaluations, steps = ([line for line in log if ("AP" in line) == evaluated] for evaluated in (True, False))
    _write(folder / CURVES, figures.png(figures.run_figure(steps, evaluations, batch)))


class Drawing:
    """What a run draws while it trains; it never takes more than a small share of the run's time, nor stops it."""

    def __init__(self, folder: Path, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """say: tells what could not be drawn."""
        self._folder, self._say, self._clock = folder, say, clock
        self._next_s = clock() + FIRST_S

    def attempt(self, what: str, draw: Callable[[], object]) -> bool:
        """Draw; whether it was drawn. What goes wrong is told: it is no reason to lose a run."""
        try:
            draw()
        except Exception as error:
            self._say(f"note: {what} could not be made ({first_line(error)}); `python -m gfl.report` tries it again")
            return False
        return True

    def refresh_curves(self, batch: int) -> None:
        """Draw results.png again, unless the last time is too short ago for what it takes."""
        started = self._clock()
        if started < self._next_s:
            return
        self.attempt(CURVES, lambda: write_curves(self._folder, batch))
        self._next_s = self._clock() + max(FIRST_S, (self._clock() - started) / MOST_TIME)


# ---- what an evaluation found ----


def write_evaluation(folder: Path, analysis: Analysis, val: CocoData) -> None:
    """pr_curve.png, confusion.png, per_class.csv, and val_0.jpg and so on: truth beside what was found."""
    names = [row.name for row in analysis.classes]
    if analysis.objects:
        curve = figures.precision_recall_figure(analysis.curves, names, [row.AP for row in analysis.classes])
        _write(folder / PRECISION_RECALL, figures.png(curve))
        if analysis.breakdown is not None:
            _write(folder / CONFUSION, figures.png(figures.confusion_figure(analysis.breakdown.confusion, names)))
    _write(folder / PER_CLASS, class_table(analysis).encode())
    by_id = {picture.id: picture for picture in val.pictures}
    step = max(1, len(analysis.judged) // (SHEETS * ROWS))
    drawn = (truth_and_found(by_id[each.image_id], each, analysis) for each in analysis.judged[::step])
    readable = (each for each in drawn if each is not None)
    for number in range(SHEETS):
        if rows := list(islice(readable, ROWS)):
            _write(folder / f"val_{number}.jpg", jpeg(sheet(rows, 1, max(row.shape[1] for row in rows))))


def class_table(analysis: Analysis) -> str:
    """per_class.csv: shares of 1, blank where nothing could be measured."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(column.replace(" of highest ", "_").replace(" ", "_") for column in CLASS_HEAD)
    for row in analysis.classes:
        numbers = ["" if value is None else f"{value:.6g}" for _, value in class_cells(row)[1:]]
        writer.writerow([row.name, *numbers])
    return written.getvalue()


# ---- the page ----


def write_page(folder: Path, subject: Subject, name: str = PAGE) -> Path:
    """Write the page into a folder; its path."""
    write_atomic(folder / name, report_page(subject))
    return folder / name


def report_run(folder: Path, splits: Splits | None = None) -> Path:
    """Make everything of a run's folder anew; the path of its page. splits: the run's data, where it is read already.

    Raises InputError where the folder is no run's, or its data set is gone.
    """
    parsed = read_config(folder)
    cfg = parsed.run
    log = read_log(folder / LOG)
    evaluations = [line for line in log if "AP" in line]
    steps = [line for line in log if "AP" not in line]
    train, val = splits or read_splits(cfg, _started_in(folder))
    write_curves(folder, cfg.batch_size)
    if train is not None:
        cfg_seen = cfg.for_classes(len(train.names))
        write_training_data(folder, cfg_seen, train, val)
    analysis = None
    if val is not None and (folder / RESULTS).is_file():
        analysis = analyse(val.truth, read_results(folder / RESULTS), max_detections=_limit(folder))
        write_evaluation(folder, analysis, val)
    environment = _read_mapping(folder / "env.json")
    subject = Subject(
        title=f"Run {folder.resolve().parent.name}/{folder.resolve().name}",
        analysis=analysis,
        pictures={} if val is None else {picture.id: picture for picture in val.pictures},
        steps=steps,
        evaluations=evaluations,
        batch=cfg.batch_size,
        labels_svg="" if train is None else figures.svg(figures.labels_figure(train)),
        findings=findings_of(splits or Splits(train, val), cfg.data),
        settings=changed_settings(parsed, environment),
        environment=_told_environment(environment),
        commands=list(next_commands(folder, train, val)),
        notes=() if analysis is not None else ("This run has no evaluation: its page shows the training alone.",),
    )
    return write_page(folder, subject)


def report_evaluation(folder: Path, data: CocoData, about: Mapping[str, object], limit: int = COCO_LIMIT) -> Path:
    """As `report_run`, of the folder of an evaluation. about: what was evaluated, on what, by which command."""
    analysis = analyse(data.truth, read_results(folder / RESULTS), max_detections=limit)
    write_evaluation(folder, analysis, data)
    subject = Subject(
        title=f"Evaluation of {'/'.join(Path(str(about.get('model', folder))).parts[-2:])}",
        analysis=analysis,
        pictures={picture.id: picture for picture in data.pictures},
        findings=findings_of(Splits(None, data), DataConfig()),
        environment=_told_environment(about),
    )
    return write_page(folder, subject)


def report_folder(folder: Path) -> Path:
    """Make the report of a run or of an evaluation anew, whichever the folder is of."""
    if (folder / "config.gin").is_file() or not (folder / EVALUATION).is_file():
        return report_run(folder)
    about = _read_mapping(folder / EVALUATION)
    return report_evaluation(folder, _data_of_evaluation(folder), about, _limit(folder))


def _data_of_evaluation(folder: Path) -> CocoData:
    about = _read_mapping(folder / EVALUATION)
    annotations, images = about.get("annotations"), about.get("images")
    if not isinstance(annotations, str) or not isinstance(images, str):
        raise InputError(f"{folder / EVALUATION} names no annotations and images; evaluate anew")
    return read_coco(annotations, images, keep_empty=True)


def results_page(data: CocoData, results: Path) -> str:
    """The page of any COCO results file."""
    subject = Subject(
        title=f"{results.name} on {data.annotations.name}",
        analysis=analyse(data.truth, read_results(results)),
        pictures={picture.id: picture for picture in data.pictures},
        findings=findings_of(Splits(None, data), DataConfig()),
    )
    return report_page(subject)


def compare_folders(folders: Sequence[Path]) -> str:
    """The page of several folders of runs or evaluations, which must be on the same validation pictures and boxes.

    Raises InputError where there are fewer than two, one was not evaluated, or they are not on the same.
    """
    if len(folders) < 2:
        raise InputError(f"got {len(folders)} folder with --compare, expected at least two; name another run")
    compared: list[Compared] = []
    first: CocoData | None = None
    for folder in folders:
        data, settings = _evaluated_data(folder)
        if first is not None and not _same_truth(first, data):
            raise InputError(
                f"{folder} was evaluated on other pictures or boxes ({data.annotations}) than {folders[0]} "
                f"({first.annotations}), expected the same; evaluate both on one annotation file"
            )
        first = first or data
        if not (folder / RESULTS).is_file():
            raise InputError(f"got {folder}, which has no {RESULTS}, expected a run that was evaluated; evaluate it")
        analysis = analyse(data.truth, read_results(folder / RESULTS), max_detections=_limit(folder))
        compared.append(Compared(str(folder), analysis, settings))
    pictures = {} if first is None else {picture.id: picture for picture in first.pictures}
    return compare_page(compared, pictures)


def _evaluated_data(folder: Path) -> tuple[CocoData, dict[str, str]]:
    """The validation data of a folder, and the settings of its run."""
    if not (folder / "config.gin").is_file() and (folder / EVALUATION).is_file():
        return _data_of_evaluation(folder), {}
    parsed = read_config(folder)
    cfg = data_as_started(parsed.run.data, _started_in(folder))
    data = read_coco(*split_paths(cfg, "val"), keep_empty=True)
    return data, bindings_in(parsed.config_text)


def _same_truth(one: CocoData, other: CocoData) -> bool:
    return all(
        np.array_equal(getattr(one.truth, name), getattr(other.truth, name))
        for name in ("image_ids", "image_id", "category_id", "boxes_xywh", "crowd")
    )


def read_config(folder: Path) -> ParsedRun:
    """The settings of a run's folder; InputError where it has none."""
    path = folder / "config.gin"
    if not path.is_file():
        raise InputError(
            f"got {folder}, which has no config.gin, expected the folder of a run or of an evaluation; give that, or "
            "--annotations, --results and --images"
        )
    return read_text(path.read_text(encoding="utf-8"))


def read_splits(cfg: RunConfig, started_in: Path) -> Splits:
    """The data of a run. Its relative paths begin where it was started, if they lead to anything there."""
    data = data_as_started(cfg.data, started_in)
    train = read_coco(*split_paths(data, "train"), keep_empty=data.keep_empty)
    return Splits(train, read_coco(*split_paths(data, "val"), keep_empty=True) if cfg.eval_every else None)


def data_as_started(cfg: DataConfig, started_in: Path) -> DataConfig:
    """The same data settings with those relative paths made absolute that exist from the folder `started_in`."""

    def found(value: str | None) -> str | None:
        path = SYNTHETIC if value == "synthetic" else Path(value or "")
        return str(started_in / path) if value and (started_in / path).exists() else value

    return replace(
        cfg,
        root=found(cfg.root),
        train_json=found(cfg.train_json),
        train_images=found(cfg.train_images),
        val_json=found(cfg.val_json),
        val_images=found(cfg.val_images),
    )


def _started_in(folder: Path) -> Path:
    """Where the run of a folder was started, as its env.json says; else here."""
    return Path(str(_read_mapping(folder / "env.json").get("folder", ".")))


def read_log(path: Path) -> list[dict[str, object]]:
    """The lines of a log.jsonl; none where it is missing. A last line that was cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, object]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise InputError(
                    f"line {number} of {path} is broken ({first_line(error)}); mend or remove it"
                ) from error
    return rows


def read_results(path: Path) -> list[CocoDetection]:
    """COCO results; what is wrong with one of them is told where they are counted."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}), expected COCO results, a JSON list") from error
    if not isinstance(rows, list):
        raise InputError(f"got a JSON {type(rows).__name__} in {path}, expected COCO results, a list of detections")
    return rows


def findings_of(splits: Splits, cfg: DataConfig) -> dict[str, list[Finding]]:
    """What `gfl.data check` says of the data, without decoding its pictures."""
    found: dict[str, list[Finding]] = {}
    for name, data in (("training", splits.train), ("validation", splits.val)):
        if data is not None and len(data.pictures) <= MOST_CHECKED:
            notes = [Finding("read_otherwise", 1, note, is_note=True) for note in data.notes]
            found[name] = [*check_boxes(data), *notes, *check_pictures(data.pictures)]
    if splits.train is not None and splits.val is not None and len(found) == 2:
        one, other = (
            Inspection(name, data.annotations, [], data) for name, data in zip(found, splits, strict=True) if data
        )
        found["both together"] = check_run(one, other, cfg)
    return found


def changed_settings(parsed: ParsedRun, environment: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """(name, value, default) of the settings that differ from those of the run files of the command line.

    Where these files are no longer there, from the defaults of base.gin.
    """
    command = environment.get("command")
    files: list[str] = []
    words = [str(word) for word in command] if isinstance(command, list) else []
    for flag, value in pairwise(words):
        if flag == "--gin_file":
            files.append(value)
    try:
        usual = bindings_in(read_run(files, []).config_text)
    except InputError:
        usual = bindings_in(read_run([], []).config_text)
    here = bindings_in(parsed.config_text)
    names = sorted(usual.keys() | here.keys())
    return [(name, here.get(name, "-"), usual.get(name, "-")) for name in names if here.get(name) != usual.get(name)]


def bindings_in(config_text: str) -> dict[str, str]:
    """name -> value of the lines of a gin text, those that go on over several lines joined."""
    joined = config_text.replace("\\\n", " ")
    pairs = (line.partition(" = ") for line in joined.splitlines() if not line.startswith(("#", "from ", "import ")))
    return {name.strip(): " ".join(value.split()) for name, _, value in pairs if value}


def next_commands(folder: Path, train: CocoData | None, val: CocoData | None) -> Iterator[tuple[str, str]]:
    """(what for, command) of what is done next with a run."""
    best, last = folder / BEST, folder / LAST
    if last.is_file():
        yield "Go on training:", f"python -m gfl.train --resume --workdir {_quoted(folder)}"
    if not best.is_file():
        return
    if val is not None:
        where = f"--annotations {_quoted(val.annotations)} --images {_quoted(val.images)}"
        yield "Evaluate:", f"python -m gfl.evaluate --checkpoint {_quoted(best)} {where}"
    yield "Export to static ONNX:", f"python -m export.onnx --checkpoint {_quoted(best)}"
    seen = val or train
    if seen is not None:
        found = folder / "found"
        flags = f"--input {_quoted(seen.images)} --output {_quoted(found)} --draw"
        yield "Detect:", f"python -m infer.run --model {_quoted(best)} {flags}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _limit(folder: Path) -> int:
    limit = _read_mapping(folder / "metrics.json").get("max_detections")
    return limit if isinstance(limit, int) else COCO_LIMIT


def _read_mapping(path: Path) -> dict[str, object]:
    """A JSON object, or nothing where there is none: the page does without it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _told_environment(environment: Mapping[str, object]) -> dict[str, object]:
    """What of env.json a person reads; the packages that matter, in a line."""
    told = {name: value for name, value in environment.items() if name not in ("packages", "command", "variables")}
    if isinstance(command := environment.get("command"), list):
        told["command"] = shlex.join(map(str, command))
    if isinstance(packages := environment.get("packages"), dict):
        told["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    return told


def _write(path: Path, content: bytes) -> None:
    make_folder(path.parent)
    with atomic_file(path) as handle:
        handle.write(content)

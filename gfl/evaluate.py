"""Evaluation on COCO data: `python -m gfl.evaluate --checkpoint best.pt --annotations val.json --images val/`.

With `--onnx best.onnx` instead of --checkpoint, ONNX Runtime runs the exported file.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gfl.class_names import ClassMap, trust_note
from gfl.config import read_run
from gfl.data.canvas import Shrinkage
from gfl.data.classes import map_labels
from gfl.data.coco import CocoData, read_coco
from gfl.data.coco_columns import DetectionColumns
from gfl.data.loader import EvalLoader
from gfl.data.shards.pattern import images_at
from gfl.data.sizes import canvases_for
from gfl.engine.checkpoints import load_trained
from gfl.engine.device import choose_device
from gfl.engine.heap import keep_freed_memory
from gfl.errors import InputError
from gfl.files import make_folder, to_json, write_atomic
from gfl.model.postprocess import MOST_DETECTIONS
from gfl.model.structures import Detections
from gfl.record.drawing import Drawing
from gfl.record.environment import environment
from gfl.record.run_folder import DETECTIONS
from gfl.record.run_report import EVALUATION, report_evaluation
from gfl.report.coco_eval import COCO_LIMIT, Metrics, limit_notes
from gfl.report.tables import evaluation_report
from gfl.runtime.description import DETECTION_NAMES
from gfl.runtime.ensemble import open_merged, read_looks
from gfl.runtime.merging import METHODS
from gfl.runtime.model import Model
from gfl.runtime.on_torch.dataset import evaluate
from gfl.runtime.on_torch.pt_file import Predict, trained_model
from gfl.runtime.open import EXPORTS, open_model
from gfl.runtime.providers import PROVIDERS, ProviderChoice, ProviderReport, parse_options
from gfl.say import say
from gfl.settings import DataConfig
from gfl.shapes import MOST_PICTURES
from gfl.signals import exit_code, interrupt_on_sigterm
from gfl.words import counted

DOUBTFUL_AP = 0.01  # below it, one asks whether pictures, annotations and model belong together


def array_predictor(model: Model) -> Predict:
    """A model, which takes and gives arrays, as a function of tensors."""

    def predict(images: Tensor, image_sizes: Tensor) -> Detections:
        outputs = model.run(images.numpy(), image_sizes.numpy())
        return Detections(*(torch.from_numpy(outputs[name]) for name in DETECTION_NAMES))

    return predict


class Opened(NamedTuple):
    """A model and a data set, ready to be evaluated."""

    predict: Predict
    loader: EvalLoader
    classes: ClassMap  # from the model's labels to the category ids of the annotations


def open_all(paths: Sequence[Path], arguments: argparse.Namespace, data: CocoData) -> Opened:
    """The files of --checkpoint or --onnx as one model in the views of --tta, and the pictures at its sizes."""
    unnamed = []

    def open_one(path: str | Path, *, candidates: bool) -> Model:
        path = Path(path)
        if is_exported(path):
            return open_exported(path, arguments)
        model, names_its_classes = open_trained(path, arguments, data, candidates=candidates)
        unnamed.extend([] if names_its_classes else [trust_note(path, data.annotations)])
        return model

    model = open_merged(paths, open_one, read_looks(arguments.tta, arguments.merge, len(paths)))
    classes = map_labels(model.description.names, data, arguments.class_map)
    about = model.description
    sizes = DataConfig(short_side=about.short_side, long_side=about.long_side, workers=arguments.workers)
    loader = EvalLoader(data, sizes, model.canvases, batch_size=model.batch)
    notes = (*unnamed, *model.provider_report().notes, *classes.notes)
    return Opened(array_predictor(model), loader, classes._replace(notes=notes))


def is_exported(path: Path) -> bool:
    """Whether it is an exported file, or a folder of them, rather than a checkpoint."""
    return path.is_dir() or path.suffix in EXPORTS


def open_trained(path: Path, arguments: argparse.Namespace, data: CocoData, *, candidates: bool) -> tuple[Model, bool]:
    """A checkpoint at the sizes of its run, and whether it names its classes; candidates: as of `open_model`."""
    settings = read_run(arguments.gin_file, arguments.gin_bindings).run if arguments.gin_file else None
    model = load_trained(path, settings, data.names, bindings=arguments.gin_bindings)
    if arguments.max_detections is not None:
        limit, cfg = arguments.max_detections, model.run.detector
        predict = replace(cfg.predict, max_detections=limit, candidates=max(limit, cfg.predict.candidates))
        model = replace(model, run=replace(model.run, detector=replace(cfg, predict=predict)))
    if model.canvases is None or arguments.gin_file:
        model = replace(model, canvases=canvases_for(None, model.run.data, val=data))
    device = choose_device(arguments.device)
    if device.type == "cpu":
        keep_freed_memory()
    batch, report = 4 if arguments.batch is None else arguments.batch, ProviderReport(f"PyTorch {device.type}", {}, ())
    return trained_model(path, model, device, report, batch=batch, candidates=candidates), model.names_its_classes


def open_exported(path: Path, arguments: argparse.Namespace) -> Model:
    """An exported file or the files of a folder, which carry sizes, batch and resize rule."""
    for flag, default in (("gin_file", []), ("gin_bindings", []), ("batch", None)):
        if getattr(arguments, flag) != default:
            raise InputError(f"got --{flag} for {path}, which carries all settings; leave --{flag} out")
    provider = arguments.provider or {"npu": "cann"}.get(arguments.device, arguments.device)
    choice = ProviderChoice(provider, options=parse_options(arguments.provider_options))
    model = open_model(path, threads=torch.get_num_threads(), choice=choice)
    most = model.description.thresholds.max_detections
    if (arguments.max_detections or 0) > most:
        raise InputError(
            f"got --max_detections {arguments.max_detections} for {path}, which gives at most {most} a picture; export "
            f"it anew with --gin_bindings 'PredictConfig.max_detections = {arguments.max_detections}'"
        )
    return model


def run(arguments: argparse.Namespace) -> None:
    """Evaluate one file on one data set, write metrics.json and val_detections.json, print the tables."""
    if arguments.batch is not None and arguments.batch < 1:
        raise InputError(f"got --batch {arguments.batch}, expected at least 1 picture; omit it for the default (4)")
    limit = COCO_LIMIT if arguments.max_detections is None else arguments.max_detections
    if limit < 1:
        raise InputError(f"got --max_detections {limit}, expected at least 1; omit it for COCO's ({COCO_LIMIT})")
    if limit > MOST_DETECTIONS:
        raise InputError(f"got --max_detections {limit}, expected at most {MOST_DETECTIONS}; lower it")
    if arguments.batch is not None and arguments.batch > MOST_PICTURES:
        raise InputError(f"got --batch {arguments.batch}, expected at most {MOST_PICTURES} pictures; lower it")
    if not 0 <= arguments.workers <= 1024:
        raise InputError(f"got --workers {arguments.workers}, expected 0 to 1024; omit it for the default (2)")
    data = read_coco(arguments.annotations, arguments.images, keep_empty=True)
    paths = arguments.checkpoint or arguments.onnx
    path, exported = paths[0], any(map(is_exported, paths))
    if not exported and (arguments.provider or arguments.provider_options):
        raise InputError(f"got --provider or --provider_options for {path}, which PyTorch runs; give --device instead")
    if arguments.onnx and not all(map(is_exported, paths)):
        raise InputError(
            f"got --onnx {' '.join(map(str, paths))}, expected an .onnx or a folder of them; give a checkpoint with "
            "--checkpoint"
        )
    opened = open_all(paths, arguments, data)
    for note in (*data.notes, *opened.classes.notes, *shrinkage_notes(opened.loader.shrinkage, exported)):
        say(f"note: {note}")
    merged = "_merged" if arguments.tta or len(paths) > 1 else ""  # beside the plain model's own
    output = arguments.output or path.with_name(f"evaluation_{path.name.replace('.', '_')}{merged}")
    with folder_for_results(output):
        metrics, results, failed = evaluate(
            opened.predict, data, opened.loader, opened.classes.category_ids, max_detections=limit
        )
    write_atomic(output / "metrics.json", to_json(metrics.as_dict(), indent=2))
    write_atomic(output / DETECTIONS, to_json(results.rows()))
    about = {
        "model": ", ".join(str(each.resolve()) for each in paths),
        "annotations": str(arguments.annotations.resolve()),
        "images": str(arguments.images.resolve() if isinstance(arguments.images, Path) else arguments.images),
        **environment(sys.argv),
    }
    write_atomic(output / EVALUATION, to_json(about, indent=2))
    say(evaluation_report(metrics))
    for note in (*limit_notes(data.truth, results, limit), *doubts(metrics, data, results)):
        say(f"note: {note}")
    for reason in failed:
        say(f"without detections: {reason}", error=True)
    say(f"\nwrote {output / 'metrics.json'} and {output / DETECTIONS}")
    if arguments.report:
        pages: list[Path] = []
        drawing = Drawing(output, say)
        if drawing.attempt_at_end("the report", lambda: pages.append(report_evaluation(output, data, about, limit))):
            say(f"look at {pages[0]}")


@contextlib.contextmanager
def folder_for_results(path: Path) -> Iterator[None]:
    """Make a folder before the block's long work, to know that it can be made; it goes where the block raises."""
    is_new = not path.exists()
    make_folder(path)
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def doubts(metrics: Metrics, data: CocoData, results: DetectionColumns) -> Iterator[str]:
    """What is likely wrong where much was found and next to nothing of it is right."""
    boxes = int((~data.truth.crowd).sum())
    if boxes and len(results.scores) and metrics.AP < DOUBTFUL_AP:
        yield (
            f"the AP is near 0, though there are {counted(boxes, 'box', 'boxes')} to find and "
            f"{counted(len(results.scores), 'detection')}: are these the pictures of these annotations (file names may "
            "be those of another split), and are they evaluated at the sizes that the model was trained at?"
        )


def shrinkage_notes(shrinkage: Shrinkage, exported: bool) -> tuple[str, ...]:
    """What the canvases do to the pictures, where that is anything, and what would help."""
    mend = f"export that too, with {shrinkage.flags}" if exported else "add it to CANVASES"
    return (f"{shrinkage.sentence()}; {mend}",) if shrinkage.pictures else ()


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m gfl.evaluate", description=__doc__)
    source = flags.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        help="a .pt of this project, a .pth with --gin_file, or a .pt2; several of the same classes and sizes detect "
        "together",
    )
    source.add_argument(
        "--onnx", type=Path, nargs="+", help="what `python -m export.onnx` wrote: a file, or a folder of sizes"
    )
    flags.add_argument(
        "--tta", nargs="+", metavar="VIEW", help="test-time augmentation: flip, scales of a checkpoint, or both"
    )
    flags.add_argument("--merge", choices=METHODS, help="how what several models or views find is merged (default nms)")
    flags.add_argument("--annotations", type=Path, required=True, help="COCO instances JSON")
    flags.add_argument("--images", type=images_at, required=True, help="the folder or shards of its pictures")
    flags.add_argument(
        "--output", type=Path, help="folder to write to (default: evaluation_best_pt/ beside best.pt, and so on)"
    )
    flags.add_argument("--gin_file", action="append", default=[], help="settings, instead of those in the file")
    flags.add_argument("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    flags.add_argument(
        "--class_map",
        action="extend",
        nargs="+",
        default=[],
        metavar="'CLASS=CLASS'",
        help="'class of the model=class of the annotations' where names differ; 'class of the model=' leaves it out",
    )
    flags.add_argument("--batch", type=int, help="pictures at a time (default 4; an .onnx has its own)")
    flags.add_argument("--max_detections", type=int, help="detections that count a picture (default 100, as COCO's)")
    flags.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write report.html, plots and pictures beside the numbers (default: yes)",
    )
    flags.add_argument("--workers", type=int, default=2, help="processes that read pictures (default 2)")
    flags.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "npu"))
    flags.add_argument("--provider", choices=PROVIDERS, help="what runs an exported file (default: that of --device)")
    flags.add_argument(
        "--provider_options", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. precision=bf16"
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; 0, 2 on a user's mistake, 128 and its number when a signal stops it."""
    try:
        run(parser().parse_args(argv))
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt as stopped:
        say("\nstopped; run it again for its results", error=True)
        return exit_code(stopped)
    return 0


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())

"""Evaluation on COCO data: `python -m gfl.evaluate --checkpoint best.pt --annotations val.json --images val/`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gfl.config import read_run
from gfl.data.coco import CocoData, read_coco
from gfl.data.loader import LoadedBatch, canvases_for, eval_loader
from gfl.engine.checkpoints import load_trained
from gfl.engine.device import choose_device
from gfl.engine.records import to_json, write_atomic
from gfl.errors import InputError
from gfl.model import detector
from gfl.model.anchors import Grid, make_grid
from gfl.model.structures import Batch, Detections
from gfl.report.coco_eval import CocoResult, Metrics, evaluate_detections
from gfl.report.tables import evaluation_report
from gfl.tensors.variables import Variables, map_leaves

Predict = Callable[[Batch], Detections]


def predictor(variables: Variables, cfg: detector.DetectorConfig, device: torch.device) -> Predict:
    """A function from a batch to its detections; weights are folded once, grids made once a canvas."""
    placed = map_leaves(lambda tensor: tensor.detach().to(device), variables)
    prepared = detector.prepare(placed, detector.freeze(placed, cfg))
    grids: dict[tuple[int, int], Grid] = {}

    def predict(batch: Batch) -> Detections:
        canvas = (batch.images.shape[2], batch.images.shape[3])
        if canvas not in grids:
            grids[canvas] = make_grid(canvas, device)
        images, sizes = batch.images.to(device), batch.image_sizes.to(device)
        with torch.inference_mode():
            return detector.predict(prepared, images, sizes, grids[canvas], cfg)

    return predict


def detect_all(
    predict: Predict, loader: Iterable[LoadedBatch], category_ids: Sequence[int]
) -> tuple[list[CocoResult], tuple[str, ...]]:
    """COCO results, in original pixels, of every picture of a loader; and why pictures could not be read."""
    results: list[CocoResult] = []
    failed: list[str] = []
    for loaded in loader:
        results += coco_results(predict(loaded.batch), loaded.image_ids, loaded.scales.numpy(), category_ids)
        failed += loaded.failed
    return results, tuple(failed)


def coco_results(
    detections: Detections, image_ids: Sequence[int], scales: np.ndarray, category_ids: Sequence[int]
) -> list[CocoResult]:
    """Detections of a batch -> COCO results. scales float32 (B,2): resized / original, height then width.

    Blanks (image id -1) and the background channel's label are left out.
    """
    boxes = detections.boxes_xyxy.cpu().numpy() / scales[:, None, [1, 0, 1, 0]]
    scores, labels = detections.scores.cpu().numpy(), detections.labels.cpu().numpy()
    results: list[CocoResult] = []
    for image, image_id in enumerate(image_ids):
        if image_id < 0:
            continue
        for box, score, label in zip(boxes[image], scores[image], labels[image], strict=True):
            if 0 <= label < len(category_ids):
                x1, y1, x2, y2 = box.tolist()
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_ids[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "score": float(score),
                    }
                )
    return results


def evaluate(
    predict: Predict, data: CocoData, loader: Iterable[LoadedBatch]
) -> tuple[Metrics, list[CocoResult], tuple[str, ...]]:
    """Detect on a data set and count: the metrics, the detections, and why pictures could not be read."""
    results, failed = detect_all(predict, loader, data.category_ids)
    return evaluate_detections(data.annotations, results), results, failed


def check_classes(model_names: Sequence[str], data: CocoData) -> None:
    """InputError unless the model and the annotations have the same number of classes."""
    if len(model_names) != len(data.names):
        raise InputError(
            f"{data.annotations} has {len(data.names)} classes ({', '.join(data.names[:5])}, ...), the model was "
            f"trained on {len(model_names)} ({', '.join(model_names[:5])}, ...); give annotations of the same classes"
        )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate one file on one data set, print the tables, write metrics.json and val_detections.json."""
    data = read_coco(arguments.annotations, arguments.images, keep_empty=True)
    settings = read_run(arguments.gin_file, arguments.gin_bindings).run if arguments.gin_file else None
    model = load_trained(arguments.checkpoint, settings, data.names)
    check_classes(model.names, data)
    device = choose_device(arguments.device)
    canvases = model.canvases
    if settings is not None or canvases is None:
        canvases = canvases_for(None, model.run.data, val=data)
    loader = eval_loader(data, replace(model.run.data, workers=arguments.workers), canvases, batch_size=arguments.batch)
    metrics, results, failed = evaluate(predictor(model.variables, model.run.detector, device), data, loader)
    print(evaluation_report(metrics))
    for reason in failed:
        print(f"without detections: {reason}", file=sys.stderr)
    output = arguments.output or arguments.checkpoint.parent / "evaluation"
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / "metrics.json", to_json(metrics.as_dict(), indent=2))
    write_atomic(output / "val_detections.json", to_json(results))
    print(f"\nwrote {output / 'metrics.json'} and {output / 'val_detections.json'}")


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m gfl.evaluate", description=__doc__)
    flags.add_argument(
        "--checkpoint", type=Path, required=True, help="a .pt of this project, or a .pth with --gin_file"
    )
    flags.add_argument("--annotations", type=Path, required=True, help="COCO instances JSON")
    flags.add_argument("--images", type=Path, required=True, help="the folder of its pictures")
    flags.add_argument("--output", type=Path, help="folder to write to (default: evaluation/ beside the checkpoint)")
    flags.add_argument("--gin_file", action="append", default=[], help="settings of a model whose file has none")
    flags.add_argument("--gin_bindings", action="extend", nargs="+", default=[], help="'NAME = value' ...")
    flags.add_argument("--batch", type=int, default=4, help="pictures at a time (default 4)")
    flags.add_argument("--workers", type=int, default=2, help="processes that read pictures (default 2)")
    flags.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "npu"))
    return flags


def main() -> int:
    try:
        run(parser().parse_args())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A model card as Markdown, with the front matter in YAML that model hubs read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import yaml

from gfl.card.facts import DataSet, Facts
from gfl.card.markdown import code, file_name, plain, shown_path, table
from gfl.data.sizes import eval_short_side, short_side_range
from gfl.model import backbones, detector
from gfl.record.changed_settings import changed_settings, usual_settings
from gfl.record.run_data import resumptions
from gfl.report.coco_eval import distinct_names
from gfl.report.tables import percent
from gfl.settings import IMAGENET
from gfl.tensors.variables import flatten
from gfl.words import counted, memory

WHAT = {
    "dgqp": "A GFocalV2 object detector (Generalized Focal Loss V2)",
    "none": "A GFL object detector (Generalized Focal Loss, version 1)",
}
TO_FILL_IN = "**TO FILL IN**"
UNKNOWN = "unknown"  # a licence in the words of model hubs
FEW_BOXES = 100  # to train a class on
# COCO's numbers in words.
MEANING = {
    "AP": "AP, the mean over IoU 0.50 to 0.95",
    "AP50": "AP at IoU 0.50",
    "AP75": "AP at IoU 0.75",
    "APs": "AP of small objects (below 32 x 32 px)",
    "APm": "AP of medium objects",
    "APl": "AP of large objects (above 96 x 96 px)",
    "AR1": "AR with 1 detection a picture",
    "AR10": "AR with 10 detections a picture",
    "AR100": "AR with 100 detections a picture",
    "ARs": "AR of small objects",
    "ARm": "AR of medium objects",
    "ARl": "AR of large objects",
}


def card(facts: Facts) -> str:
    """The whole page."""
    sections = (title, training_data, training, results, limits, licences, files)
    return front_matter(facts) + "\n" + "\n\n".join("\n".join(section(facts)) for section in sections) + "\n"


def front_matter(facts: Facts) -> str:
    """What hubs read: licence, tags and, where there is a result, a model-index."""
    cfg = facts.model.run.detector
    version = "gfocalv2" if cfg.head.quality == "dgqp" else "gfocal"
    content: dict[str, object] = {
        "license": UNKNOWN,
        "library_name": "gflv2",
        "pipeline_tag": "object-detection",
        "tags": [
            "object-detection",
            version,
            "generalized-focal-loss",
            backbones.name(cfg.backbone).lower(),
            "pytorch",
        ],
    }
    numbers = known_numbers(facts)
    if numbers and facts.result is not None:
        metrics = [
            {"type": "mean_average_precision" if name.startswith("AP") else "mean_average_recall", "name": name}
            | {"value": round(value, 4)}
            for name, value in numbers
        ]
        name = data_name(facts)
        data = {"name": name, "type": re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or UNKNOWN}
        entry = {"task": {"type": "object-detection"}, "dataset": data, "metrics": metrics}
        content["metrics"] = ["mean_average_precision"]
        content["model-index"] = [{"name": model_name(facts), "results": [entry]}]
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n"


def title(facts: Facts) -> Iterator[str]:
    cfg = facts.model.run.detector
    parameters = sum(leaf.numel() for leaf in flatten(facts.model.variables).values() if leaf.is_floating_point())
    yield f"# {plain(model_name(facts))}"
    yield ""
    yield (
        f"{WHAT[cfg.head.quality]}, with the backbone {backbones.name(cfg.backbone)}: "
        f"{parameters / 1e6:.2f} million weights, {counted(len(facts.model.names), 'class', 'classes')}. It finds "
        "boxes with a class, a score, and the spread of each edge of a box in pixels."
    )
    yield ""
    yield f"    gfl infer --model {shlex.quote(facts.path.name)} --input pictures/ --output found/ --draw"
    yield f"    gfl export onnx --checkpoint {shlex.quote(facts.path.name)}"
    yield ""
    yield f"Intended use: {TO_FILL_IN}"


def training_data(facts: Facts) -> Iterator[str]:
    yield "## Trained on"
    yield ""
    yield f"- training: {data_text(facts.train)}"
    yield f"- validation: {'none' if facts.val is None else data_text(facts.val)}"
    yield f"- where the pictures come from, and who labelled them how: {TO_FILL_IN}"
    yield ""
    yield from classes(facts)


def classes(facts: Facts) -> Iterator[str]:
    """The table of the classes, with what is known of each."""
    model, result = facts.model, facts.result
    per_class = None if result is None else result.per_class
    thresholds = model.score_thresholds
    header = ["class", "category id"]
    header += ["boxes trained on"] if facts.boxes else []
    header += ["AP"] if per_class is not None else []
    header += ["score of highest F1"] if thresholds else []
    rows = [header]
    # Results name the classes of one name apart, by their ids.
    names = distinct_names(dict(zip(model.category_ids, model.names, strict=True)))
    for label, name in enumerate(names):
        row = [plain(name), str(model.category_ids[label])]
        row += [f"{facts.boxes[label]:,}"] if facts.boxes else []
        row += [percent(per_class.get(name))] if per_class is not None else []
        row += [f"{thresholds[label]:.3f}"] if thresholds else []
        rows.append(row)
    yield from table(rows)
    if thresholds:
        yield ""
        yield (
            "The score of highest F1 of a class is counted at IoU 0.50, in the last evaluation before the file was "
            "written. Detections below it are not drawn, unless another score is asked for."
        )


def training(facts: Facts) -> Iterator[str]:
    run, done = facts.model.run, facts.trained
    yield "## How it was trained"
    yield ""
    if done is not None:
        whole = f"{run.max_steps:,} steps" if run.max_steps else counted(run.epochs, "epoch")
        part = f" and {counted(done.batches, 'batch', 'batches')} of the next" if done.batches else ""
        yield (
            f"- {counted(done.steps, 'step')} of {counted(run.batch_size, 'picture')}, "
            f"{counted(done.epochs, 'epoch')}{part}, in a run of {whole}"
        )
    if facts.averaged:
        yield f"- the mean of the weights in {', '.join(plain(file_name(each)) for each in facts.averaged)}"
    yield f"- started from {starting_point(facts)}"
    yield f"- computed in {facts.precision or run.precision}{_machine(facts)}"
    usual_run, usual = usual_settings(facts.environment)
    changes = list(changed_settings(run, usual_run))
    if not changes:
        yield f"- every setting as in {usual}"
        return
    yield f"- settings that differ from {usual}:"
    yield ""
    yield from table(
        [["setting", "here", "there"], *([f"`{each.name}`", code(each.value), code(each.usual)] for each in changes)],
        texts=(1, 2),
    )


def results(facts: Facts) -> Iterator[str]:
    yield "## Results"
    yield ""
    numbers = known_numbers(facts)
    if facts.result is None or not numbers:
        note = facts.result_note or "The validation set has no boxes, so there was nothing to measure."
        yield f"Not known. {note}"
        return
    images = counted(facts.result.images, "picture") if facts.result.images else "the pictures"
    source, own = plain(facts.result.source), facts.result.of_run
    which = f"of {plain(data_name(facts))}" if own else f"of a data set that the evaluation does not name: {TO_FILL_IN}"
    yield f"COCO's numbers in percent (from {source}), on {images} {which}"
    yield ""
    yield from table([["number", "percent"], *([MEANING[name], percent(value)] for name, value in numbers)])
    if facts.result_note:
        yield ""
        yield facts.result_note


def limits(facts: Facts) -> Iterator[str]:
    model, data = facts.model, facts.model.run.data
    low, high = short_side_range(data)
    sides = f"{low} to {high}" if low < high else str(high)
    names = counted(len(model.names), "class", "classes")
    yield "## Limits"
    yield ""
    yield (
        f"- It knows the {names} above and no other. What is none of them is passed over or, if it looks alike, taken "
        "for one of them."
    )
    yield (
        f"- It was trained on pictures resized to a short side of {sides} px and a long side of at most "
        f"{data.long_side} px, and is run at a short side of {eval_short_side(data)} px. Objects that are a few pixels "
        "large at that size are mostly missed."
    )
    if facts.result is not None and known_numbers(facts):
        yield (
            "- It was measured on the pictures named under Results and nowhere else. Other cameras, places, light or "
            "ways of labelling were not tried; expect less there, and measure before you rely on it."
        )
        yield (
            "- The scores of highest F1, and of a best.pt the weights too, were chosen on the validation pictures, "
            "which flatters the numbers measured on these a little."
        )
    else:
        yield "- How good it is has not been measured, or is not known to this card."
    if facts.boxes:
        few = [name for name, number in zip(model.names, facts.boxes, strict=True) if number < FEW_BOXES]
        if few:
            shown = ", ".join(map(plain, few[:10])) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
            yield f"- Trained on fewer than {FEW_BOXES} boxes, and so the least certain: {shown}."
    yield f"- Uses that it is not meant for, and known failures: {TO_FILL_IN}"


def licences(facts: Facts) -> Iterator[str]:
    yield "## Licences"
    yield ""
    yield f"- of these weights: {TO_FILL_IN} (`license` at the top of this file too)"
    yield f"- of the training data: {TO_FILL_IN}"
    if facts.model.run.checkpoint is not None:
        yield f"- of the weights that the training started from ({starting_point(facts)}): {TO_FILL_IN}"
    yield "- of the code that trained and runs it: Apache-2.0"


def files(facts: Facts) -> Iterator[str]:
    version = f" by gfl {facts.version}" if facts.version else ""
    yield "## The file"
    yield ""
    yield from table(
        [
            ["what", "value"],
            ["file", f"{plain(facts.path.name)}, {memory(facts.size_bytes)}, written{plain(version)}"],
            ["format of the .pt", str(facts.format)],
            ["sha256 of the file", f"`{facts.sha256}`"],
            ["digest of weights and settings", f"`{facts.digest}`"],
        ],
        texts=(1,),
    )
    yield ""
    yield (
        "The digest is the one in the .onnx and .pt2 that `gfl export` writes of this checkpoint with its usual "
        "settings: a file with the same digest computes the same."
    )


# ---- words ----


def known_numbers(facts: Facts) -> list[tuple[str, float]]:
    """COCO's numbers that could be measured, as shares of 1."""
    if facts.result is None:
        return []
    return [(name, value) for name, value in facts.result.summary.items() if 0 <= value <= 1]


def model_name(facts: Facts) -> str:
    """'R50-FPN GFLV2, 80 classes'."""
    classes = counted(len(facts.model.names), "class", "classes")
    return f"{detector.name(facts.model.run.detector)}, {classes}"


def data_name(facts: Facts) -> str:
    """What a card calls the pictures that were evaluated."""
    if facts.val is None or (facts.result is not None and not facts.result.of_run):
        return "a data set that has no name here"
    return shown_path(facts.val.annotations)


def data_text(data: DataSet) -> str:
    """'coco/annotations/instances\\_train2017.json, 117,266 pictures, 849,949 boxes'."""
    name = plain(shown_path(data.annotations))
    if data.pictures is None or data.boxes is None:
        return f"{name}; the checkpoint does not say how many pictures and boxes"
    return f"{name}, {counted(data.pictures, 'picture')}, {counted(data.boxes, 'box', 'boxes')}"


def starting_point(facts: Facts) -> str:
    """What the weights were before the first step."""
    checkpoint = facts.model.run.checkpoint
    if checkpoint is None:
        return "random weights"
    if checkpoint in IMAGENET:
        return f"ImageNet weights of the backbone (CHECKPOINT = {checkpoint!r})"
    return f"the weights in {plain(file_name(checkpoint))}"


def _machine(facts: Facts) -> str:
    each_time = (facts.environment, *resumptions(facts.environment))
    devices = dict.fromkeys(each["device"] for each in each_time if isinstance(each.get("device"), str))
    packages = facts.environment.get("packages")
    torch = packages.get("torch") if isinstance(packages, dict) else None
    words = [
        "on " + ", then on ".join(map(plain, map(str, devices))) if devices else "",
        f"torch {torch}" if torch else "",
    ]
    return "".join(f", {word}" for word in words if word)

"""Inputs of the benchmarks: generated pictures, random batches and outputs, weights that look trained. All seeded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch

from gfl.data.synthetic import CATEGORY_IDS, SHAPES, Scene, Size, draw_scene
from gfl.errors import InputError
from gfl.model.structures import Batch, Outputs
from gfl.shapes import Canvas
from gfl.tensors.variables import Variables, flatten, unflatten

JPEG_QUALITY = 90


def write_pictures(folder: Path, count: int, size_hw: Size) -> tuple[Path, Path]:
    """Write generated JPEGs of one size with 2 to 8 boxes each; the annotation file and the folder of pictures."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, scene in enumerate(lying_scenes(count, size_hw)):
        name = f"{number:06d}.jpg"
        _write_jpeg(folder / name, scene.image[:, :, ::-1])
        images.append({"id": number, "file_name": name, "height": size_hw[0], "width": size_hw[1]})
        for box, label, area in zip(scene.boxes_xywh, scene.labels, scene.areas, strict=True):
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": CATEGORY_IDS[label], "iscrowd": 0}
            annotations.append({**entry, "bbox": list(box), "area": area})
    categories = [{"id": key, "name": name} for key, name in zip(CATEGORY_IDS, SHAPES, strict=True)]
    file = folder / "instances.json"
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    return file, folder


def lying_scenes(count: int, size_hw: Size) -> Iterator[Scene]:
    """Generated scenes of one size; every fourth of the synthetic data set is upright, and is left out."""
    return (draw_scene(0, "train2017", number + number // 3, size_hw) for number in range(count))


def _write_jpeg(path: Path, image: cv2.typing.MatLike) -> None:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise InputError(f"got no JPEG for {path}, expected OpenCV to encode one; install another build of OpenCV")
    path.write_bytes(data.tobytes())


def random_batch(images: int, boxes: int, canvas_hw: Canvas, classes: int, seed: int = 0) -> Batch:
    """A batch of noise with a box in every slot, its sides log-uniform from 8 px to half of the canvas."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([canvas_hw[1], canvas_hw[0]], dtype=torch.float32)
    side = 8.0 * (size / 16.0) ** torch.rand((images, boxes, 2), generator=generator)
    top_left = torch.rand((images, boxes, 2), generator=generator) * (size - side)
    return Batch(
        images=torch.randint(0, 256, (images, 3, *canvas_hw), dtype=torch.uint8, generator=generator),
        image_sizes=torch.tensor([canvas_hw] * images, dtype=torch.int32),
        boxes_xyxy=torch.cat([top_left, top_left + side], dim=2),
        labels=torch.randint(0, classes, (images, boxes), dtype=torch.int32, generator=generator),
        box_mask=torch.ones((images, boxes), dtype=torch.bool),
        ignored_xyxy=torch.zeros((images, 1, 4)),
        ignored_mask=torch.zeros((images, 1), dtype=torch.bool),
        image_weights=torch.ones(images),
    )


def random_outputs(images: int, anchors: int, channels: int, bins: int, seed: int = 0) -> Outputs:
    """Outputs as of an untrained head, low scores and wide distributions, as leaves that require a gradient."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand((images, anchors, channels), generator=generator) * 0.2 + 0.01
    edge_logits = torch.randn((images, anchors, 4, bins), generator=generator)
    return Outputs(scores.requires_grad_(), edge_logits.requires_grad_())


def with_lively_norms(variables: Variables, seed: int = 0) -> Variables:
    """Give the batch-norms statistics, weights and biases as in a trained network.

    Initially they are 0 and 1, and the last norm of a block is 0, so that a fold which left one out would go unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    flat = flatten(variables)
    for path in [path for path in flat if path.endswith(".running_var")]:
        norm = path.removesuffix("running_var")
        shape = flat[path].shape
        ends_a_block = not flat[norm + "weight"].any()
        flat[path] = torch.rand(shape, generator=generator) + 0.5
        flat[norm + "running_mean"] = torch.randn(shape, generator=generator) * 0.1
        scale = torch.rand(shape, generator=generator) + 0.5
        flat[norm + "weight"] = scale * (0.2 if ends_a_block else 1.0)  # sums of many blocks stay near 1
        flat[norm + "bias"] = torch.randn(shape, generator=generator) * 0.1
    return unflatten(flat)

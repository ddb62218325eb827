"""The golden sets: the rule that fills the weights, and readers of the files that goldens/README.md describes."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gfl.data import transforms
from gfl.data.boxes import flip_boxes_horizontal, scale_boxes, scale_factors
from gfl.data.canvas import own_canvas
from gfl.data.picture_files import read_picture
from gfl.data.pictures import Picture
from gfl.model.anchors import Grid
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.detector import DetectorConfig
from gfl.model.fpn import FPNConfig
from gfl.model.head import HeadConfig
from gfl.model.structures import Assignment, Batch, Outputs
from gfl.tensors.variables import Variables, flatten, unflatten

Arrays = Mapping[str, NDArray[np.generic]]

CANVAS_HW = (256, 320)  # of every case but the twin's, whose pictures bring their own
LEVELS = ("P3", "P4", "P5", "P6", "P7")

# The small model of twin.npz and bccd_r18, on three kinds of blood cells.
SMALL = DetectorConfig(
    num_classes=3,
    backbone=ResNetConfig(depth=18, base_width=32, norm="gn", gn_groups=16, frozen_stages=-1),
    neck=FPNConfig(64),
    head=HeadConfig(channels=64, convs=2, gn_groups=16, background_channel=True),
)
SMALL_SHORT_SIDE, SMALL_LONG_SIDE = 240, 320


# ---- weights ----


def fill(path: str, shape: Sequence[int], offset_std: float = 0.01) -> Tensor:
    """The value of a weight, from its state-dict key and shape alone (goldens/README.md, Weights).

    offset_std: the standard deviation of the weights of `conv_offset`.
    """
    noise = np.asarray(np.random.default_rng(zlib.crc32(path.encode())).standard_normal(tuple(shape)))
    *parents, last = path.split(".")
    parent = parents[-1] if parents else ""
    if last == "num_batches_tracked":
        return torch.zeros(tuple(shape), dtype=torch.int64)
    if last == "scale":
        value = 1 + 0.1 * noise
    elif last == "project":
        value = np.arange(shape[0])
    elif last == "running_mean":
        value = 0.1 * noise
    elif last == "running_var":
        value = np.exp(0.1 * noise)
    elif last == "weight" and len(shape) == 1:
        value = (1 + 0.1 * noise) * (0.3 if parent in ("bn3", "norm3") else 1.0)
    elif parent == "conv_offset" and last == "weight":
        value = offset_std * noise
    elif last == "bias":
        value = (-2 if parent == "gfl_cls" else 0) + 0.05 * noise
    else:
        value = np.sqrt(2 / np.prod(shape[1:])) * noise * (0.5 if path.startswith("neck.") else 1.0)
    return torch.from_numpy(np.asarray(value, dtype=np.float32)).to(torch.get_default_dtype())


def filled(variables: Variables) -> Variables:
    """A tree of the same paths and shapes with the goldens' weights."""
    return unflatten({path: fill(path, tuple(leaf.shape)) for path, leaf in flatten(variables).items()})


# ---- files ----


def read(folder: Path, name: str) -> dict[str, NDArray[np.generic]]:
    """All arrays of one .npz."""
    with np.load(folder / name) as file:
        return {key: file[key] for key in file.files}


def family_folder(named: str | None) -> Path:
    """The set of the model family: the folder that was named, or the one beside the test pictures."""
    pictures = os.environ.get("GFL_TEST_DATA")
    beside = Path(pictures).resolve().parent / "goldens" if pictures else Path()
    return Path(named) if named or not beside.is_dir() else beside


def names_before(folder: Path, file: str, suffix: str) -> list[str]:
    """The cases of a file: what stands before a suffix in the names of its arrays; none where there is no file."""
    if not (folder / file).is_file():
        return []
    with np.load(folder / file) as arrays:
        return sorted({key.removesuffix(suffix) for key in arrays.files if key.endswith(suffix)})


def gradient_cases(folder: Path) -> list[str]:
    """The cases of loss.npz that come with gradients."""
    return names_before(folder, "loss.npz", ".grad_norm_total")


def normal_input(seed: int) -> Tensor:
    """The goldens' input pictures, already normalised: float32 (2,3,256,320)."""
    noise = np.random.default_rng(seed).standard_normal((2, 3, *CANVAS_HW)).astype(np.float32)
    return torch.from_numpy(noise).to(torch.get_default_dtype())


def by_level(flat_BAC: Tensor, grid: Grid) -> list[Tensor]:
    """(B,A,C) -> per level (B,C,h,w), as the goldens are laid out."""
    pieces = []
    for start, (rows, columns) in zip(grid.starts, grid.shapes_hw, strict=True):
        level = flat_BAC[:, start : start + rows * columns]
        pieces.append(level.transpose(1, 2).reshape(flat_BAC.shape[0], -1, rows, columns))
    return pieces


# ---- loss.npz ----


class LossCase(NamedTuple):
    """Boxes, and what the authors' code makes of them with the goldens' forward outputs."""

    name: str
    batch: Batch
    padded_hw: Tensor  # int32 (2,2)
    ignore_iof: float
    boxes: list[NDArray[np.float32]]  # per picture (G,4)
    ignored: list[NDArray[np.float32]]
    owner: NDArray[np.int64]  # (2,A) assigned_gt_inds
    counted: NDArray[np.bool_]  # (2,A)
    qfl: NDArray[np.float64]  # (5,) final losses a level
    dfl: NDArray[np.float64]
    giou: NDArray[np.float64]
    total: float
    samples: float
    weights: NDArray[np.float64]  # (5,) avg_factor_per_level


def loss_case(arrays: Arrays, name: str) -> LossCase:
    """One case of loss.npz."""
    boxes = [arrays[f"{name}.gt_boxes{i}"].reshape(-1, 4).astype(np.float32) for i in range(2)]
    labels = [arrays[f"{name}.gt_labels{i}"].astype(np.int32) for i in range(2)]
    none = np.zeros((0, 4), np.float32)
    ignored = [arrays.get(f"{name}.ignore{i}", none).reshape(-1, 4).astype(np.float32) for i in range(2)]
    padded_hw = torch.from_numpy(np.broadcast_to(arrays[f"{name}.pad_shape"], (2, 2)).astype(np.int32))
    blank = np.zeros((*CANVAS_HW, 3), np.uint8)
    return LossCase(
        name=name,
        batch=stack([blank, blank], boxes, labels, ignored, CANVAS_HW),
        padded_hw=padded_hw,
        ignore_iof=float(arrays[f"{name}.ignore_iof_thr"]),
        boxes=boxes,
        ignored=ignored,
        owner=arrays[f"{name}.assigned_gt_inds"].astype(np.int64),
        counted=arrays[f"{name}.label_weights"].reshape(2, -1) > 0,
        qfl=arrays[f"{name}.loss_cls"].astype(np.float64),
        dfl=arrays[f"{name}.loss_dfl"].astype(np.float64),
        giou=arrays[f"{name}.loss_bbox"].astype(np.float64),
        total=float(arrays[f"{name}.total"]),
        samples=float(arrays[f"{name}.num_total_samples"]),
        weights=arrays[f"{name}.avg_factor_per_level"].astype(np.float64),
    )


def assignment_of(owner: NDArray[np.int64], counted: NDArray[np.bool_], slots: int) -> Assignment:
    """Owners of the anchors (B,A) -> the candidates of each box slot that it owns, as `loss_terms` takes them."""
    most = max(1, max(int(np.bincount(row[row > 0], minlength=1).max()) for row in owner))
    anchors = torch.zeros((len(owner), slots, most), dtype=torch.int32)
    positive = torch.zeros((len(owner), slots, most), dtype=torch.bool)
    for i, row in enumerate(owner):
        for slot in range(slots):
            owned = np.flatnonzero(row == slot + 1)
            anchors[i, slot, : len(owned)] = torch.from_numpy(owned)
            positive[i, slot, : len(owned)] = True
    return Assignment(anchors, positive, torch.from_numpy(counted))


def owners_of(assignment: Assignment) -> NDArray[np.int64]:
    """The inverse: (B,A) k where the k-th box owns the anchor, else 0."""
    owner = np.zeros(tuple(assignment.counted.shape), np.int64)
    for i in range(len(owner)):
        slot, candidate = torch.nonzero(assignment.positive[i], as_tuple=True)
        owner[i, assignment.anchors[i, slot, candidate].numpy()] = slot.numpy() + 1
    return owner


def stack(
    pictures: Sequence[NDArray[np.uint8]],
    boxes: Sequence[NDArray[np.float32]],
    labels: Sequence[NDArray[np.int32]],
    ignored: Sequence[NDArray[np.float32]] | None = None,
    canvas_hw: tuple[int, int] | None = None,
    slots: int | None = None,
) -> Batch:
    """Pictures (h,w,3) and their boxes -> a batch, padded; without a canvas, the smallest that holds them all."""
    ignored = [np.zeros((0, 4), np.float32)] * len(pictures) if ignored is None else ignored
    high, wide = (max(picture.shape[side] for picture in pictures) for side in (0, 1))
    H, W = own_canvas(high, wide) if canvas_hw is None else canvas_hw
    B, G = len(pictures), max(1, *map(len, boxes)) if slots is None else slots
    batch = Batch(
        torch.zeros((B, 3, H, W), dtype=torch.uint8),
        torch.tensor([picture.shape[:2] for picture in pictures], dtype=torch.int32),
        torch.zeros((B, G, 4)),
        torch.zeros((B, G), dtype=torch.int32),
        torch.zeros((B, G), dtype=torch.bool),
        torch.zeros((B, max(1, *map(len, ignored)), 4)),
        torch.zeros((B, max(1, *map(len, ignored))), dtype=torch.bool),
        torch.tensor([float(picture.size > 0) for picture in pictures]),
    )
    for i, (picture, truths, classes, crowds) in enumerate(zip(pictures, boxes, labels, ignored, strict=True)):
        batch.images[i, :, : picture.shape[0], : picture.shape[1]] = torch.from_numpy(picture).permute(2, 0, 1)
        batch.boxes_xyxy[i, : len(truths)] = torch.from_numpy(truths)
        batch.labels[i, : len(truths)] = torch.from_numpy(classes)
        batch.box_mask[i, : len(truths)] = True
        batch.ignored_xyxy[i, : len(crowds)] = torch.from_numpy(crowds)
        batch.ignored_mask[i, : len(crowds)] = True
    return batch


# ---- detect.npz ----


class DetectCase(NamedTuple):
    """How the reference's post-processing was set for one case of detect.npz; its name says it."""

    name: str
    synthetic: bool
    score_threshold: float
    nms_pre: int
    image_sizes: Tensor  # int32 (2,2)
    scale_xyxy: Tensor  # float32 (4,) resized / original


def detect_case(name: str) -> DetectCase:
    """The settings behind a name such as model_thr02_imgshape, model_none, synth_rescale or synth_pre50."""
    synthetic = name.startswith("synth")
    named = re.search(r"_thr(\d)(\d*)", name)
    threshold = 0.9 if "_none" in name else float(f"{named[1]}.{named[2]}") if named else 0.05
    nms_pre = re.search(r"_pre(\d+)", name)
    rescaled = "_rescale" in name
    own_sizes = "_imgshape" in name or (synthetic and rescaled)
    return DetectCase(
        name=name,
        synthetic=synthetic,
        score_threshold=threshold,
        nms_pre=int(nms_pre[1]) if nms_pre else 1000,
        image_sizes=torch.tensor([(250, 301), (190, 320)] if own_sizes else [CANVAS_HW] * 2, dtype=torch.int32),
        scale_xyxy=torch.tensor([1.6, 1.5, 1.6, 1.5] if rescaled else [1.0] * 4),
    )


def synthetic_outputs(seed: int, grid: Grid) -> Outputs:
    """The head outputs of the synth cases."""
    rng = np.random.default_rng(seed)
    scores, logits = [], []
    for rows, columns in grid.shapes_hw:
        z, z2 = rng.standard_normal((2, 81, rows, columns)), rng.standard_normal((2, 68, rows, columns))
        scores.append((1 / (1 + np.exp(-(-7 + 2.2 * z)))).astype(np.float32).reshape(2, 81, -1).transpose(0, 2, 1))
        logits.append((2 * z2).astype(np.float32).reshape(2, 4, 17, -1).transpose(0, 3, 1, 2))
    return Outputs(*(torch.from_numpy(np.concatenate(parts, axis=1)) for parts in (scores, logits)))


# ---- twin.npz and bccd_r18 ----


class PlacedPicture(NamedTuple):
    """A picture as the small model sees it."""

    image: NDArray[np.uint8]  # (h,w,3)
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int32]
    scale_hw: NDArray[np.float32]


def place(picture: Picture, flip: bool = False) -> PlacedPicture:
    """Read, resize and flip one picture, and its boxes with it."""
    from_hw = (picture.height, picture.width)
    size_hw = transforms.resized_size(*from_hw, SMALL_SHORT_SIDE, SMALL_LONG_SIDE)
    image = transforms.resize(read_picture(picture.path), size_hw)
    boxes_xyxy = scale_boxes(picture.boxes_xyxy, from_hw, size_hw)
    if flip:
        image = image[:, ::-1].copy()
        boxes_xyxy = flip_boxes_horizontal(boxes_xyxy, size_hw[1])
    return PlacedPicture(image, boxes_xyxy, picture.labels, scale_factors(from_hw, size_hw))


def stack_placed(placed: Sequence[PlacedPicture]) -> Batch:
    """Placed pictures -> a batch on the smallest canvas that holds them all."""
    return stack([p.image for p in placed], [p.boxes_xyxy for p in placed], [p.labels for p in placed])


def twin_pictures(pictures: Sequence[Picture], first: int, step: int) -> list[PlacedPicture]:
    """The four pictures of one step of the twin run; every other one is flipped."""
    return [place(pictures[(first + 4 * step + i) % len(pictures)], flip=(step + i) % 2 == 1) for i in range(4)]


def twin_lr(step: int) -> float:
    """Ten steps of warm-up to 0.01."""
    return 0.01 * (1 - (1 - step / 10) * (1 - 0.001)) if step < 10 else 0.01

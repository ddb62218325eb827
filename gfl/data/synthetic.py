"""A generated detection data set in COCO's layout: textured shapes of five classes on textured backgrounds.

    python -m gfl.data.synthetic --output data/shapes --train 400 --val 80 --seed 0

Picture i of a split depends on (seed, split, i, size) alone, so a smaller set is the beginning of a larger one.
Letters: H, W of the picture; h, w of a patch, the rectangle around a shape; V corners of an outline. Points are (x, y),
and pixel (row y, column x) covers x..x+1, y..y+1, so a box ends where the last pixel ends, as in COCO.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from gfl.errors import InputError
from gfl.say import say
from gfl.signals import exit_code, interrupt_on_sigterm

Floats: TypeAlias = npt.NDArray[np.float32]
Image: TypeAlias = npt.NDArray[np.uint8]
Size: TypeAlias = tuple[int, int]  # height, width
Rng: TypeAlias = np.random.Generator

SHAPES = ("circle", "square", "triangle", "star", "ring")
CATEGORY_IDS = (1, 2, 3, 5, 8)  # with gaps, as COCO's own
SPLITS = ("train2017", "val2017")
MANIFEST = "synthetic.json"
VERSION = 2  # of the pictures: raised when they change, so that an older folder is not taken for the same data

SMALLEST_SIDE = 16.0  # px; no annotated side is shorter
LEAST_VISIBLE = 0.9  # share of a shape that must be seen; a shape hidden more than that is not drawn at all
RADII = (16.0, 0.3)  # of a shape: the least in px, the largest as a share of the picture's short side
MOST_TILT_DEG = 20.0  # to either side of upright
# Grain compresses badly: without a search for repeats the files are no larger, and written in a third of the time.
FAST_PNG: tuple[int, ...] = (
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
)
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # an older OpenCV takes this filter by itself
    FAST_PNG += (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB)
FINE = 4  # sub-pixels a side, for anti-aliased edges
SHIFT = 4  # fractional bits of cv2.fillPoly's corners


@dataclass(frozen=True)
class Shape:
    """One placed shape: its outlines in picture pixels, and its soft mask on a patch of the picture."""

    label: int
    outlines: tuple[Floats, ...]  # (V,2) each; a ring has two
    left: int  # the patch's first column and row in the picture; may be negative
    top: int
    alpha: Floats  # (h,w) in 0..1: how much of each pixel the shape covers


@dataclass(frozen=True)
class Scene:
    """A finished picture and its annotations."""

    image: Image  # (H,W,3) RGB
    boxes_xywh: tuple[tuple[float, float, float, float], ...]  # of the whole shapes, clipped to the picture
    labels: tuple[int, ...]
    areas: tuple[float, ...]  # px covered by the whole shape inside the picture


def write_synthetic(folder: str | Path, *, train: int, val: int, seed: int = 0, size_hw: Size = (192, 256)) -> None:
    """Write the data set, or return at once where the folder holds it already.

    Every fourth picture is upright (W,H instead of H,W), so that a data set has two canvases.
    The folder appears under its name only when it is complete.

    Args:
        folder: gets annotations/instances_{train,val}2017.json, train2017/, val2017/ and a manifest.
        train, val: number of pictures.
        seed: the same seed gives the same pixels and boxes.
        size_hw: height and width of a picture that is not upright.

    Raises:
        InputError: the folder holds something else, or a number is out of range.
    """
    folder = Path(folder)
    manifest = {"version": VERSION, "train": train, "val": val, "seed": seed, "size_hw": list(size_hw)}
    _check_request(train, val, seed, size_hw)
    if _holds(folder, manifest):
        return
    say(f"drawing {train + val:,} pictures of shapes into {folder}, this once", error=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        for split, count in zip(SPLITS, (train, val), strict=True):
            _write_split(draft, split, count, seed, size_hw)
        (draft / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        try:
            os.rename(draft, folder)  # also over an empty folder
        except OSError:
            # Another process was faster; with the same data there is nothing left to do.
            if not _holds(folder, manifest):
                raise


def draw_scene(seed: int, split: str, index: int, size_hw: Size = (192, 256)) -> Scene:
    """Draw picture `index` of a split ('train2017' or 'val2017'): up to 9 shapes over a background."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    height, width = size_hw if index % 4 != 3 else size_hw[::-1]
    image = _background(rng, height, width)
    shapes = place_shapes(rng, height, width)
    for shape in shapes:
        _paint(rng, image, shape)
    image += rng.normal(0, 2, image.shape).astype(np.float32)  # a camera's grain
    return Scene(
        image=np.clip(np.rint(image), 0, 255).astype(np.uint8),
        boxes_xywh=tuple(box_xywh(shape, height, width) for shape in shapes),
        labels=tuple(shape.label for shape in shapes),
        areas=tuple(round(float(mask_inside(shape, height, width).sum()), 2) for shape in shapes),
    )


# ---- the folder ----


def _check_request(train: int, val: int, seed: int, size_hw: Size) -> None:
    if train < 1 or val < 1:
        raise InputError(
            f"got {train} training and {val} validation pictures, expected at least 1 of each; ask for more"
        )
    if seed < 0:
        raise InputError(f"got seed {seed}, expected 0 or more; choose another")
    if min(size_hw) < 64:
        raise InputError(
            f"got pictures of {size_hw[0]}x{size_hw[1]}, expected sides of at least 64 pixels; enlarge them"
        )


def _holds(folder: Path, manifest: dict[str, object]) -> bool:
    """Whether the folder is this data set; False where it is to be written. Raises InputError where it is another's."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        written: object = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{folder}: already there and not a generated data set (no {MANIFEST}), expected a new or empty folder; "
            "choose another or remove it"
        ) from None
    if written != manifest:
        raise InputError(
            f"{folder}: holds generated data of other settings ({json.dumps(written)}), expected "
            f"{json.dumps(manifest)}; choose another folder or remove it"
        )
    return True


def _write_split(draft: Path, split: str, count: int, seed: int, size_hw: Size) -> None:
    """Write the pictures of one split and its annotation file."""
    (draft / split).mkdir(parents=True)
    (draft / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        scene = draw_scene(seed, split, index, size_hw)
        file_name = f"{index + 1:012d}.png"
        _write_png(draft / split / file_name, scene.image)
        height, width = scene.image.shape[:2]
        images.append({"id": index + 1, "file_name": file_name, "height": height, "width": width})
        for box_xywh, label, area in zip(scene.boxes_xywh, scene.labels, scene.areas, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # from 1: pycocotools takes a matched annotation 0 for unmatched
                    "image_id": index + 1,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": list(box_xywh),
                    "area": area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, SHAPES, strict=True)]
    info = {"description": f"generated shapes, version {VERSION}, seed {seed}"}
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (draft / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _write_png(path: Path, image: Image) -> None:
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    done, data = cv2.imencode(".png", bgr, FAST_PNG)
    if not done:
        raise RuntimeError(f"{path}: OpenCV could not encode a PNG")
    path.write_bytes(data.tobytes())


# ---- the shapes ----


def place_shapes(rng: Rng, height: int, width: int) -> list[Shape]:
    """Up to 9 shapes, hindmost first; none is hidden more than LEAST_VISIBLE allows, or too small at the border."""
    wanted = int(rng.integers(3, 10))
    covered = np.zeros((height, width), dtype=np.float32)
    shapes: list[Shape] = []
    for _ in range(4 * wanted):  # from the front to the back; more tries than shapes, for those that do not fit
        shape = random_shape(rng, height, width)
        inside, hidden = mask_inside(shape, height, width), under_patch(covered, shape)
        seen = float((inside * (1 - hidden)).sum())
        if min(box_xywh(shape, height, width)[2:]) < SMALLEST_SIDE or seen < LEAST_VISIBLE * float(shape.alpha.sum()):
            continue
        np.maximum(hidden, inside, out=hidden)
        shapes.append(shape)
        if len(shapes) == wanted:
            break
    return shapes[::-1]


def random_shape(rng: Rng, height: int, width: int) -> Shape:
    label = int(rng.integers(len(SHAPES)))
    least, largest = RADII[0], RADII[1] * min(height, width)
    radius = float(np.exp(rng.uniform(np.log(least), np.log(largest))))  # as many small ones as large ones
    centre = rng.uniform((0.03 * width, 0.03 * height), (0.97 * width, 0.97 * height))
    angle = np.deg2rad(rng.uniform(-MOST_TILT_DEG, MOST_TILT_DEG))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outlines = tuple((radius * (corners @ turn) + centre).astype(np.float32) for corners in _unit_outlines(label))
    left, top = np.floor(outlines[0].min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(outlines[0].max(axis=0)).astype(int) + 1
    alpha = _soft_mask(outlines, int(left), int(top), int(bottom - top), int(right - left))
    return Shape(label, outlines, int(left), int(top), alpha)


def _unit_outlines(label: int) -> list[npt.NDArray[np.float64]]:
    """The outlines of an upright shape around the origin, reaching about 1; a second outline is a hole."""
    name = SHAPES[label]
    if name == "circle":
        return [_corners(64)]
    if name == "ring":
        return [_corners(64), 0.55 * _corners(64)]
    if name == "star":
        corners = 1.15 * _corners(10)
        corners[1::2] *= 0.45
        return [corners]
    if name == "square":
        return [1.15 * _corners(4, first=np.pi / 4)]
    return [1.15 * _corners(3)]


def _corners(count: int, first: float = -np.pi / 2) -> npt.NDArray[np.float64]:
    """(V,2) corners of a regular polygon on the unit circle; first: the angle of one of them, by default the top."""
    angles = first + np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _soft_mask(outlines: tuple[Floats, ...], left: int, top: int, height: int, width: int) -> Floats:
    """(h,w) share of each pixel that the outlines enclose, from FINE x FINE sub-pixels."""
    fine = np.zeros((height * FINE, width * FINE), dtype=np.uint8)
    # fillPoly's integers are centres of sub-pixels, hence the half.
    corners = [(outline - (left, top)) * FINE - 0.5 for outline in outlines]
    cv2.fillPoly(fine, [np.rint(c * 2**SHIFT).astype(np.int32) for c in corners], (255,), cv2.LINE_8, SHIFT)
    share = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA) / 255
    return np.asarray(share, dtype=np.float32)


def box_xywh(shape: Shape, height: int, width: int) -> tuple[float, float, float, float]:
    """The box of the whole shape, clipped to the picture, to a hundredth of a pixel as COCO's."""
    limits = np.array([width, height], dtype=np.float64)
    top_left = np.clip(shape.outlines[0].min(axis=0), 0, limits)
    size = np.clip(shape.outlines[0].max(axis=0), 0, limits) - top_left
    x, y, w, h = (round(float(v), 2) for v in (*top_left, *size))
    return x, y, w, h


def _window(shape: Shape, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the picture that the patch covers."""
    h, w = shape.alpha.shape
    return (slice(max(shape.top, 0), min(shape.top + h, height)), slice(max(shape.left, 0), min(shape.left + w, width)))


def under_patch(plane: Floats, shape: Shape) -> Floats:
    """The part of an (H,W) or (H,W,3) array that a shape's patch covers, as a view."""
    return plane[_window(shape, plane.shape[0], plane.shape[1])]


def _trim(patch: Floats, shape: Shape, height: int, width: int) -> Floats:
    """The part of an (h,w) or (h,w,3) array over the patch that lies inside the picture, as a view."""
    rows, columns = _window(shape, height, width)
    return patch[rows.start - shape.top : rows.stop - shape.top, columns.start - shape.left : columns.stop - shape.left]


def mask_inside(shape: Shape, height: int, width: int) -> Floats:
    """The part of the shape's mask that lies inside the picture."""
    return _trim(shape.alpha, shape, height, width)


# ---- the paint ----


def _paint(rng: Rng, image: Floats, shape: Shape) -> None:
    """Lay the shape with its soft shadow over the picture, in place."""
    height, width = image.shape[:2]
    shade = _shadow(shape)
    under = under_patch(image, shade)
    under *= 1 - 0.45 * mask_inside(shade, height, width)[:, :, None]
    first, second = _vivid_colours(rng)
    over = _trim(_texture(rng, shape.alpha.shape[0], shape.alpha.shape[1], first, second), shape, height, width)
    patch = under_patch(image, shape)
    patch += (over - patch) * mask_inside(shape, height, width)[:, :, None]


def _shadow(shape: Shape) -> Shape:
    """The mask two pixels lower and to the right, blurred."""
    alpha = cv2.GaussianBlur(cv2.copyMakeBorder(shape.alpha, 5, 5, 5, 5, cv2.BORDER_CONSTANT, value=(0,)), (0, 0), 1.8)
    return Shape(shape.label, shape.outlines, shape.left - 3, shape.top - 3, np.asarray(alpha, dtype=np.float32))


def _background(rng: Rng, height: int, width: int) -> Floats:
    """(H,W,3) in 0..255: two muted colours of like brightness, mixed by a pattern, with soft blotches over it."""
    brightness = rng.uniform(0.3, 0.85)
    first = _rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.35), brightness)
    second = _rgb(rng.uniform(0, 360), rng.uniform(0.05, 0.35), brightness + rng.uniform(-0.2, 0.15))
    image = _texture(rng, height, width, first, second)
    blotches = rng.normal(0, 12, (height // 16, width // 16)).astype(np.float32)
    return image + np.asarray(cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC))[:, :, None]


def _texture(rng: Rng, height: int, width: int, first: Floats, second: Floats) -> Floats:
    """(h,w,3): two colours mixed by a gradient, stripes, checks or noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(6, 20)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    kind = rng.choice(["gradient", "stripes", "checks", "noise"], p=[0.4, 0.25, 0.1, 0.25])
    if kind == "gradient":
        mix = (along - along.min()) / np.ptp(along)
    elif kind == "stripes":
        mix = _steep(np.sin(along * (2 * np.pi / period)))
    elif kind == "checks":
        mix = _steep(np.sin(along * (2 * np.pi / period)) * np.sin(across * (2 * np.pi / period)))
    else:
        cell = rng.uniform(5, 14)
        coarse = rng.uniform(0, 1, (int(height / cell) + 2, int(width / cell) + 2)).astype(np.float32)
        mix = np.clip(np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)), 0, 1)
    return np.asarray(first + (second - first) * mix[:, :, None], dtype=np.float32)


def _steep(wave: Floats) -> Floats:
    """-1..1 -> 0..1, with edges about a pixel wide."""
    return np.asarray(np.clip(wave * 2.5 + 0.5, 0, 1), dtype=np.float32)


def _vivid_colours(rng: Rng) -> tuple[Floats, Floats]:
    """Two neighbouring saturated colours: shapes stand out from the muted background, whatever their class."""
    hue, brightness = rng.uniform(0, 360), rng.uniform(0.75, 1.0)
    first = _rgb(hue, rng.uniform(0.65, 1.0), brightness)
    return first, _rgb(hue + rng.uniform(-40, 40), rng.uniform(0.4, 1.0), brightness * rng.uniform(0.55, 0.95))


def _rgb(hue: float, saturation: float, brightness: float) -> Floats:
    """(3,) in 0..255 from a hue in degrees and two shares."""
    turns = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    falloff = np.clip(np.minimum(turns, 4 - turns), 0, 1)
    return (255 * brightness * (1 - saturation * falloff)).astype(np.float32)


# ---- the command ----


def main(argv: list[str] | None = None) -> int:
    """Write a data set; 0, 2 on a user's mistake, 128 and its number when a signal stops it."""
    parser = argparse.ArgumentParser(prog="python -m gfl.data.synthetic", description="Write a generated data set.")
    parser.add_argument("--output", type=Path, required=True, help="the new folder, in COCO's layout")
    parser.add_argument("--train", type=int, default=400, help="training pictures (%(default)s)")
    parser.add_argument("--val", type=int, default=80, help="validation pictures (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures (%(default)s)")
    args = parser.parse_args(argv)
    try:
        write_synthetic(args.output, train=args.train, val=args.val, seed=args.seed)
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt as stopped:
        say(f"\nstopped; nothing was written to {args.output}", error=True)
        return exit_code(stopped)
    say(f"{args.output}: {args.train} training and {args.val} validation pictures of {', '.join(SHAPES)}")
    return 0


if __name__ == "__main__":
    interrupt_on_sigterm()
    sys.exit(main())

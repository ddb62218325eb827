"""Pictures that an export is checked on: the user's own, or generated ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.data.canvas import fit_canvas
from gfl.data.coco import read_coco
from gfl.data.coco_json import GroundTruth
from gfl.data.picture_files import PICTURES, PictureFile, is_picture, read_picture
from gfl.data.shards.pattern import Images
from gfl.data.synthetic import draw_scene
from gfl.data.transforms import Image, resize, resized_size
from gfl.errors import InputError
from gfl.runtime.description import INPUT_NAMES, Description
from gfl.runtime.inputs import stack
from gfl.shapes import Canvas

GENERATED_SHARES = ((1.0, 1.0), (0.7, 1.0), (1.0, 0.6), (0.5, 0.5))  # of the canvas: some leave room for padding
SMALLEST_DRAWN = 64  # px, the least that the generator draws

Feed = Mapping[str, NDArray[np.generic]]  # inputs of one run, by name


class Sample(NamedTuple):
    """A picture as the model gets it: resized, no larger than the canvas."""

    name: str
    image: Image  # uint8 (h,w,3) RGB
    original_hw: tuple[int, int]  # px


class SampleBatch(NamedTuple):
    """Samples on one canvas; slots without a picture are blank, with size (0,0) and no name."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]  # (B,3,H,W)
    image_sizes: NDArray[np.int32]  # (B,2) height, width
    originals_hw: tuple[tuple[int, int], ...]  # px, of the slots with a picture

    @property
    def inputs(self) -> Feed:
        """The batch under the names of the graph's inputs."""
        return dict(zip(INPUT_NAMES, (self.images, self.image_sizes), strict=True))


class Truth(NamedTuple):
    """The true boxes of the samples."""

    boxes: GroundTruth  # of all pictures of the annotation file
    image_ids: tuple[int, ...]  # of the samples, in their order: what of `boxes` counts


def picture_files(folder: Path, count: int) -> tuple[Path, ...]:
    """At most `count` pictures of a folder, spread evenly over its sorted names; InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with pictures; check the name")
    files = sorted(filter(is_picture, folder.iterdir()))
    if not files:
        raise InputError(f"{folder} holds no picture ({', '.join(PICTURES)}); give a folder that does")
    return tuple(files[i] for i in spread(len(files), count))


def can_be_read(path: PictureFile) -> bool:
    """Whether a file is a whole picture."""
    try:
        read_picture(path)
    except InputError:
        return False
    return True


def annotated_pictures(annotations: Path, images: Images, count: int) -> tuple[tuple[PictureFile, ...], Truth]:
    """As `picture_files`, of the pictures that a COCO file lists, with their true boxes. Raises as `read_coco`."""
    data = read_coco(annotations, images, keep_empty=True)
    present = [picture for picture in data.pictures if picture.path.is_file()]
    chosen = [present[i] for i in spread(len(present), count)]
    return tuple(picture.path for picture in chosen), Truth(data.truth, tuple(picture.id for picture in chosen))


def spread(length: int, count: int) -> list[int]:
    """At most `count` of the indices 0..length-1, evenly spread."""
    return [int(index) for index in np.linspace(0, length - 1, min(count, length)).round()]


def read_samples(files: Sequence[PictureFile], canvas: Canvas, short_side: int, long_side: int) -> Iterator[Sample]:
    """Read and resize pictures as evaluation does, one at a time; InputError naming a file that cannot be read."""
    for path in files:
        image = read_picture(path)
        height, width = image.shape[:2]
        wanted = resized_size(height, width, short_side, long_side)
        yield Sample(path.name, resize(image, fit_canvas(*wanted, [canvas])[1]), (height, width))


def read_feeds(files: Sequence[PictureFile], about: Description) -> Iterator[Feed]:
    """Pictures as the inputs of runs of a file of this description, for int8 to take its ranges from."""
    samples = read_samples(files, about.size, about.short_side, about.long_side)
    return (batch.inputs for batch in batches(samples, about.size, about.batch))


def draw_samples(canvas: Canvas, count: int) -> Iterator[Sample]:
    """Generated pictures of several sizes, the first as large as the canvas; always the same ones."""
    for index, shares in zip(range(count), cycle(GENERATED_SHARES), strict=False):
        height, width = (max(SMALLEST_DRAWN, round(side * share)) for side, share in zip(canvas, shares, strict=True))
        image = draw_scene(seed=0, split="val2017", index=index, size_hw=(height, width)).image
        size_hw = fit_canvas(image.shape[0], image.shape[1], [canvas])[1]
        yield Sample(f"generated {index}", resize(image, size_hw), (image.shape[0], image.shape[1]))


def batches(samples: Iterable[Sample], canvas: Canvas, batch: int) -> Iterator[SampleBatch]:
    """The samples in order, `batch` at a time, the last filled with blanks."""
    remaining = iter(samples)
    while chosen := list(islice(remaining, batch)):
        images, image_sizes = stack([sample.image for sample in chosen], canvas, batch)
        names = tuple(sample.name for sample in chosen)
        yield SampleBatch(names, images, image_sizes, tuple(sample.original_hw for sample in chosen))

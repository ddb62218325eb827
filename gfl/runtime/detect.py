"""`from gfl import load`: a model in any form as a function of pictures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from gfl.class_names import list_names, place_of_name
from gfl.data.depth import check_depth
from gfl.data.picture_rows import open_rows
from gfl.data.transforms import Image, place_on_canvas, resize
from gfl.errors import InputError
from gfl.runtime.batches import OWN_OPEN, InputPicture, batch_arrays, fill_batches
from gfl.runtime.ensemble import open_merged, read_looks
from gfl.runtime.inputs import OpenFile, Picture, Reading, as_image, check_layout
from gfl.runtime.model import Model
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice
from gfl.runtime.result import PictureInfo, Result, check_share, result_of
from gfl.runtime.slices import Decoded, Gathering, Rows, Slicing, count_views, read_slicing, views_of
from gfl.words import printable

Score: TypeAlias = "float | Mapping[str, float]"
OnError: TypeAlias = "Callable[[int, InputError], None]"


def load(
    path: str | Path | Sequence[str | Path],
    *,
    tta: str | float | Sequence[str | float] | None = None,
    merge: str | None = None,
    slice: int | None = None,
    overlap: float | None = None,
    provider: str = "auto",
    batch: int | None = None,
    threads: int = 0,
    allow_fallback: bool = False,
    provider_options: Mapping[str, str] | None = None,
    score: Score | None = None,
    class_agnostic: bool = False,
    depth: str = "auto",
    gin_file: str | Path | Sequence[str | Path] = (),
    gin_bindings: str | Sequence[str] = (),
    names: str | Path | Sequence[str] | None = None,
) -> Detect:
    """Open a trained model, in any form that this project writes, as a function of pictures.

    The function may be called from several threads at once, from the first call on.

    Args:
        path: a .pt, .pth, .safetensors, an exported or converted file, or a folder of these at several sizes; several,
            of the same classes and resize rule, detect together.
        tta: test-time augmentation: 'flip', scales of a checkpoint's own size, or both, e.g. 'flip 0.8 1.0 1.25'.
        merge: how what several views or models find is merged: 'nms' (the default), 'soft_linear', 'soft_gaussian',
            'voting' or 'fusion' (`gfl.runtime.merging`).
        slice: look at a picture in windows of this side, px of the picture, and at the whole of it; what they find is
            merged (`gfl.runtime.slices`).
        overlap: of neighbouring windows, as a share of their side, 0.2 by default.
        provider: what runs it: 'auto' (the best that is installed), 'cpu', 'cuda', 'cann' (an Ascend NPU) or 'openvino'
            (an .onnx by OpenVINO in place of ONNX Runtime).
        batch: pictures a run, 1 by default; an exported file has its own.
        threads: of the CPU; 0: the runtime's choice.
        allow_fallback: let the CPU run what the provider does not; otherwise that is an error.
        provider_options: of the provider, e.g. {"device_id": "1"}, for openvino {"precision": "bf16"}.
        score: leave out detections below it; {"dog": 0.5} sets it for some classes. What the model itself leaves out,
            below its own threshold, cannot be had back. It is also what `confident()` and `draw()` then go by.
        class_agnostic: of two detections of any classes that overlap by more than the model's NMS allows within one
            class, keep the better. It works on what the model's own NMS has left.
        depth: how pictures of more than 8 bits a channel become 8: 'auto', 'full', 'range' or a number of bits, as
            infer's --depth.
        gin_file: the settings of a model whose file does not hold them (the authors' .pth, a .safetensors).
        gin_bindings: settings that change those of the file or of gin_file, e.g. ["SHORT_SIDE = 640"].
        names: the classes of such a file, label 0 first, where it does not name them: a list, a text file with a name
            a line, or COCO annotations.

    Returns:
        The function, which gives the same results for every form of the model but for the last digits.

    Raises:
        InputError: the file is missing, damaged or not of this project, takes another batch, or the provider is not
            there; an option is of another type than it says above.

    Example:
        >>> detect = load("best.pt")  # doctest: +SKIP
        >>> detect("dog.jpg").names  # doctest: +SKIP
        ('dog', 'bicycle')
        >>> load("best.onx")
        Traceback (most recent call last):
        gfl.errors.InputError: got the model best.onx, expected one of .pt, .pth, .safetensors, .onnx, .pt2, .om, \
.xml, .mnn, .param, .tflite, .pte or a folder of exports; check the name
    """
    _check_switch("class_agnostic", class_agnostic)
    check_depth(depth)
    choice = ProviderChoice(provider, allow_fallback, {} if provider_options is None else provider_options)
    words = tta.split() if isinstance(tta, str) else [tta] if isinstance(tta, (int, float)) else tta
    paths = cast("Sequence[str | Path]", path if isinstance(path, (list, tuple)) else [path])
    open_one = partial(
        open_model,
        batch=batch,
        threads=threads,
        choice=choice,
        gin_files=_texts("gin_file", gin_file),
        gin_bindings=[str(binding) for binding in _texts("gin_bindings", gin_bindings)],
        names=names,
    )
    model = open_merged(paths, open_one, read_looks(words, merge, len(paths)))
    slicing = read_slicing(slice, overlap)
    return Detect(model, score=score, class_agnostic=class_agnostic, depth=depth, slicing=slicing)


class Detect:
    """An open model as a function: detect(picture) -> Result, detect([pictures]) -> their results in order.

    A picture is one of:

    - the name of a file, as a string or a path; or its content, as bytes or as a file open in binary mode;
    - an array (H,W), (H,W,1), (H,W,3) in RGB or (H,W,4) in RGBA, whose transparency is dropped as that of files is. Of
      other types than uint8 it is scaled by the rule of `depth`;
    - a Pillow picture of any mode, which is converted, and turned upright as its file would be;
    - a tensor, with its layout stated, since it is not guessed: detect(tensor, layout="CHW").
    """

    def __init__(
        self,
        model: Model,
        *,
        score: Score | None = None,
        class_agnostic: bool = False,
        depth: str = "auto",
        slicing: Slicing | None = None,
    ) -> None:
        """Raises InputError for a score that is none, and for one of a class that the model does not know."""
        self.model = model
        self._description = model.description
        self._least_scores: NDArray[np.float32] | None = None  # (K,)
        if score is not None:
            scores = _scores_of_classes(score, self.names)
            pairs = zip(model.description.score_thresholds, scores, strict=True)
            shown = tuple(own if given is None else given for own, given in pairs)
            self._description = replace(model.description, score_thresholds=shown)
            self._least_scores = np.array([0.0 if score is None else score for score in scores], np.float32)
        self._class_agnostic = class_agnostic
        self._depth = depth
        self._slicing = slicing

    def __repr__(self) -> str:
        canvases = self.model.canvases
        sizes = "each picture's own" if canvases is None else ", ".join(f"{h}x{w}" for h, w in canvases)
        return f"<Detect {printable(str(self.model.path))}: {list_names(map(printable, self.names))}; canvas {sizes}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, label 0 first."""
        return self.model.description.names

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a sequence, too: the first that fits counts
        self, pictures: Picture | OpenFile, *, layout: str | None = None, keep_images: bool | None = None
    ) -> Result: ...

    @overload
    def __call__(
        self, pictures: Sequence[Picture | OpenFile], *, layout: str | None = None, keep_images: bool | None = None
    ) -> list[Result]: ...

    @overload
    def __call__(
        self, pictures: Iterator[Picture | OpenFile], *, layout: str | None = None, keep_images: bool | None = None
    ) -> Iterator[Result]: ...

    def __call__(
        self,
        pictures: Picture | OpenFile | Sequence[Picture | OpenFile] | Iterator[Picture | OpenFile],
        *,
        layout: str | None = None,
        keep_images: bool | None = None,
    ) -> Result | list[Result] | Iterator[Result]:
        """Find the objects in one picture or in several.

        Args:
            pictures: a picture (see the class), a list or another sequence of them, or an iterator, whose results come
                one by one as of `stream`.
            layout: of arrays and tensors, 'HWC' or 'CHW'; arrays are (H,W,C) where it is not given.
            keep_images: whether results keep their pictures, as copies. By default that of one picture does, those of
                several that have no file do, and those of an iterator do not: `draw` reads a file again.

        Returns:
            The detections of the picture, in its own pixels; for several, one result a picture, in order.

        Raises:
            InputError: a file cannot be read as a picture, or a picture is of another kind.

        Example:
            >>> detect = load("best.onnx")  # doctest: +SKIP
            >>> first, second = detect(["dog.jpg", np.zeros((480, 640, 3), np.uint8)])  # doctest: +SKIP
            >>> first.boxes_xyxy[0], first.scores[0]  # doctest: +SKIP
            (array([131.2, 219.4, 310.8, 540.1], dtype=float32), 0.87)
        """
        if isinstance(pictures, Sequence) and not isinstance(pictures, (str, bytes, bytearray, memoryview)):
            return list(self.stream(pictures, layout=layout, keep_images=keep_images))
        if isinstance(pictures, Iterator) and not isinstance(pictures, OpenFile):
            return self.stream(pictures, layout=layout, keep_images=False if keep_images is None else keep_images)
        return next(self.stream([pictures], layout=layout, keep_images=True if keep_images is None else keep_images))

    def stream(
        self,
        pictures: Iterable[Picture | OpenFile],
        *,
        layout: str | None = None,
        keep_images: bool | None = False,
        on_error: OnError | None = None,
    ) -> Iterator[Result]:
        """Find the objects in any number of pictures, one result a picture, in order, as they are ready.

        Pictures are taken from the iterable as they are needed, and let go at once: memory holds the unfilled batches,
        one a canvas, and the results that wait for an earlier picture. With a batch of 1 each result comes before the
        next picture is taken.

        Args:
            pictures: pictures as of the class, e.g. a generator.
            layout: as of the call.
            keep_images: whether results keep their pictures, as copies; None: those that have no file.
            on_error: is called with the position, from 0, of a picture that cannot be read and with what is wrong; it
                then has no result. Where it is not given, the error is raised after the results of all pictures before.

        Raises:
            InputError: as the call.
        """
        check_layout(layout)
        if keep_images is not None:
            _check_switch("keep_images", keep_images)
        # Going through one picture would give letters, bytes or rows of pixels for pictures.
        is_one = isinstance(pictures, (str, bytes, bytearray, memoryview, OpenFile))
        is_one = is_one or getattr(pictures, "ndim", 0) in (2, 3)
        if is_one or not (hasattr(pictures, "__iter__") or hasattr(pictures, "__getitem__")):
            raise InputError(
                f"got one {type(pictures).__name__}, expected an iterable of pictures; call the model itself with it, "
                "or put it into a list"
            )
        return self._stream(pictures, Reading(layout, self._depth), keep_images, on_error)

    def _stream(
        self,
        pictures: Iterable[Picture | OpenFile],
        reading: Reading,
        keep_images: bool | None,
        on_error: OnError | None,
    ) -> Iterator[Result]:
        failures: list[InputError] = []
        gathering = Gathering(self._description)
        order: deque[int] = deque()  # of the pictures that are on their way

        def views() -> Iterator[InputPicture]:
            view = 0
            for index, picture in enumerate(pictures):
                try:
                    with self._open(picture, index, reading) as (rows, source):
                        info = self._info(rows, source, picture, keep_images)
                        gathering.begin(index, info, count_views(info.size_hw, self._slicing))
                        order.append(index)
                        for window, image in views_of(rows, self._slicing):
                            gathering.expect(view, index, window)
                            yield self._place(view, image, source)
                            view += 1
                except InputError as error:
                    if index in order:
                        gathering.drop(index)
                        order.remove(index)
                    if on_error is None:
                        failures.append(error)
                        return  # the unfilled batches still run
                    on_error(index, error)

        results: dict[int, Result] = {}
        most_open = OWN_OPEN if self.model.canvases is None else len(self.model.canvases)
        for batch in fill_batches(views(), self.model.batch, most_open):
            # A model of any canvas takes any number of pictures: blanks would only cost.
            outputs = self.model.run(
                *batch_arrays(batch, len(batch) if self.model.canvases is None else self.model.batch)
            )
            for slot, each in enumerate(batch):
                found = result_of(outputs, slot, each.info, self._description)
                if whole := gathering.add(each.position, found):
                    results[whole[0]] = self._choose(whole[1])
            while order and order[0] in results:
                yield results.pop(order.popleft())
        if failures:
            raise failures[0]

    @contextmanager
    def _open(self, picture: Picture | OpenFile, index: int, reading: Reading) -> Iterator[tuple[Rows, str]]:
        """A picture, decoded or to be read by rows, and what to call it."""
        rows = None
        if self._slicing is not None and isinstance(picture, (str, os.PathLike)):
            rows = open_rows(Path(os.fsdecode(picture)))
        if rows is None:
            image, source = as_image(picture, index, reading)
            yield Decoded(image), source
        else:
            with rows:
                yield rows, os.fsdecode(cast("str | os.PathLike[str]", picture))

    def _info(self, rows: Rows, source: str, picture: Picture | OpenFile, keep_image: bool | None) -> PictureInfo:
        """What a picture's result says of it; the image that is kept is never the caller's array."""
        if keep_image is None:
            keep_image = not isinstance(picture, (str, os.PathLike))
        kept = rows.image.copy() if keep_image and isinstance(rows, Decoded) else None
        return PictureInfo(source, rows.size_hw, rows.size_hw, kept)

    def _place(self, position: int, image: Image, source: str) -> InputPicture:
        """A view on its canvas."""
        height, width = image.shape[:2]
        canvas, resized_hw = self.model.canvas_for(height, width)
        planes = np.empty((3, *canvas), np.uint8)
        place_on_canvas(resize(image, resized_hw), planes)
        return InputPicture(position, PictureInfo(source, (height, width), resized_hw), planes)

    def _choose(self, result: Result) -> Result:
        """The detections that the options of `load` leave."""
        if self._least_scores is not None:
            result = result.select(result.scores >= self._least_scores[result.labels])
        return result.distinct(self._description.thresholds.nms_iou) if self._class_agnostic else result


def _scores_of_classes(score: Score, names: Sequence[str]) -> tuple[float | None, ...]:
    """The least score of each class; None for those that a mapping does not name."""
    if not isinstance(score, Mapping):
        return (check_share("score", score),) * len(names)
    least: list[float | None] = [None] * len(names)
    for name, value in score.items():
        place = place_of_name(str(name), names, f"got a score for {name!r}, which is no class of the model")
        least[place] = check_share(f"score for {name!r}", value)
    return tuple(least)


def _texts(name: str, value: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """One text or several, as a list; InputError for anything else."""
    several = [value] if isinstance(value, (str, Path)) else value
    if not isinstance(several, Sequence) or not all(isinstance(text, (str, Path)) for text in several):
        raise InputError(f"got {name}={value!r}, expected a text or a list of them; give ['...', '...']")
    return list(several)


def _check_switch(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise InputError(f"got {name}={value!r}, expected True or False; give one of them")

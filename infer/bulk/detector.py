"""A table of pictures in, a table of rows out, with a model that is opened once: what Ray, Spark and Daft call.

Tables are pyarrow's. Needs none of these engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import Table

from gfl.errors import InputError, first_line
from gfl.runtime.open import open_model
from gfl.runtime.providers import ProviderChoice, parse_options
from gfl.runtime.result import Result
from gfl.runtime.slices import read_slicing
from infer.bulk.sources import Listed
from infer.bulk.stored import Stored
from infer.opened import Source, check_reading
from infer.parquet import schema_of, table_of
from infer.pipeline import Failed, run_pictures
from infer.rows import Row, Selection, row_of, selected
from infer.sliced import SlicedPictures

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = schema_of()  # of the rows; a field's metadata says its unit
READERS = 4  # threads that read pictures ahead of the model: they mostly wait for storage
NEEDED = ("id", "file")  # columns; `bytes`, or those of `Listed`, say what is to be read


class Detector:
    """A model, opened once, that answers tables of pictures.

    Example:
        detector = Detector("best.onnx", min_score=0.3)
        rows = detector(pyarrow.table({"id": [1, 2], "file": ["a.jpg", "s3://bucket/b.jpg"]}))
    """

    def __init__(
        self,
        model: str | Path,
        *,
        slice: int | None = None,
        overlap: float | None = None,
        batch: int | None = None,
        threads: int = 1,
        provider: str = "auto",
        provider_options: Sequence[str] = (),
        allow_fallback: bool = False,
        min_score: float = 0.0,
        top: int | None = None,
        class_agnostic: bool = False,
        depth: str = "auto",
        most_pixels: int | None = None,
        readers: int = READERS,
    ) -> None:
        """The arguments are infer's flags (`infer/model_flags.py`); readers: threads that read pictures.

        Raises InputError as `open_model` does.
        """
        check_reading(depth, most_pixels)
        choice = ProviderChoice(provider, allow_fallback, parse_options(provider_options))
        self._model = open_model(model, batch=batch, threads=threads, choice=choice)
        iou = self._model.description.thresholds.nms_iou if class_agnostic else None
        self._selection = Selection(self._model.description.category_ids, min_score, top, iou)
        self._slicing = read_slicing(slice, overlap)
        self._depth, self._most_pixels, self._readers = depth, most_pixels, readers

    def __call__(self, pictures: Table) -> Table:
        """The rows of some pictures, in their order, as of `SCHEMA`; one that cannot be read has its reason.

        pictures: `id` (whole numbers) and `file` (what rows call it), and what is to be read: the column `bytes`, the
        columns of `Listed`, or neither, where `file` is a path or a URI. Raises InputError where columns are missing.
        """
        if missing := [name for name in NEEDED if name not in pictures.column_names]:
            raise InputError(
                f"got pictures with the columns {', '.join(pictures.column_names)}, expected {' and '.join(missing)} "
                "too; add them"
            )
        entries = pictures.to_pylist()
        sources = [self._source(entry) for entry in entries]
        rows = self._rows(sources, [entry["id"] for entry in entries])
        return table_of(rows, SCHEMA)

    def frame(self, pictures: DataFrame) -> DataFrame:
        """The same for pandas."""
        return self(Table.from_pandas(pictures, preserve_index=False)).to_pandas()

    def _source(self, entry: Mapping[str, Any]) -> Stored:
        listed = Listed(**{"uri": entry["file"], **{name: entry[name] for name in Listed._fields if name in entry}})
        content = entry.get("bytes")
        return Stored(listed, content if isinstance(content, bytes) else None, self._depth, self._most_pixels)

    def _rows(self, sources: Sequence[Source], ids: Sequence[int]) -> list[Row]:
        """The rows of some pictures. What the model fails on is tried again picture by picture."""
        found: dict[int, Row] = {}

        def take(position: int, outcome: Result | Failed) -> None:
            result = selected(outcome, self._selection) if isinstance(outcome, Result) else outcome
            found[position] = row_of(result, ids[position], self._selection.category_ids)

        try:
            if self._slicing is None:
                run_pictures(self._model, sources, take, readers=self._readers)
            else:
                sliced = SlicedPictures(self._slicing, self._model.description, take)
                run_pictures(self._model, sliced.views(sources), sliced.take, readers=self._readers)
        except Exception as error:  # whatever the runtime raises: the next picture may go well
            if len(sources) > 1:
                return [self._rows([source], [key])[0] for source, key in zip(sources, ids, strict=True)]
            failed = Failed(sources[0].name, f"the model failed on {sources[0].name}: {first_line(error)}")
            return [row_of(failed, ids[0], self._selection.category_ids)]
        return [found[position] for position in range(len(sources))]

"""Roboflow's COCO export: train/_annotations.coco.json beside its pictures, and the same in valid/ and test/.

Source: https://roboflow.com/formats/coco-json. Its YOLO exports are read as YOLO.
"""

from __future__ import annotations

from gfl.data.convert.coco_export import Export, Habits, read_exports
from gfl.data.convert.find import index_pictures
from gfl.data.convert.source import UNSPLIT, Notes, Request, Source, split_of
from gfl.errors import InputError

FILE = "_annotations.coco.json"


def read_roboflow(request: Request) -> Source:
    """Read the folder of a Roboflow export, or one of its files."""
    source = request.source
    if source.is_file():
        found = [source]
    else:
        found = sorted(path for path in (*source.glob(FILE), *source.glob(f"*/{FILE}")) if path.is_file())
    if not found:
        if (source / "data.yaml").is_file():
            raise InputError(f"{source}: has a data.yaml, so it is Roboflow's YOLO export; read it with --from yolo")
        raise InputError(
            f"{source}: got no train/{FILE} in it, expected Roboflow's export as COCO; export again, or give its folder"
        )
    notes: Notes = {}
    exports = []
    for path in found:
        split = split_of(path.parent.name)
        if split is None and len(found) > 1:
            raise InputError(
                f"{path}: got a folder called {path.parent.name!r}, expected train, valid or test; rename it"
            )
        exports.append(Export(split or UNSPLIT, path, index_pictures(request.images or path.parent)))
    if len(found) == 1 and source.is_file():
        exports = [exports[0]._replace(split=UNSPLIT)]
    splits, names = read_exports(exports, Habits(root_category=True), notes)
    return Source(splits, names, notes, indexes=[export.found_in for export in exports])

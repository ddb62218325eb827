"""VGG Image Annotator: a project's .json, its exported annotations as .json or .csv, and projects of version 3.

The class of a region is the value of one of its attributes, which VIA's users name as they like. Where several are in
use, --attribute says which.
Source: https://gitlab.com/vgg/via, CodeDoc.md of versions 2 and 3.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.data.convert.files import mapping, only_file, read_json, read_text, sequence
from gfl.data.convert.find import find_by_address, index_pictures
from gfl.data.convert.source import UNSPLIT, Box, Notes, Picture, Request, Source, note, sorted_names
from gfl.data.convert.via_shapes import Region, region_box, regions_of_3
from gfl.errors import InputError


class Annotated(NamedTuple):
    """A picture as VIA names it."""

    name: str
    regions: Sequence[Region]


def read_via(request: Request) -> Source:
    """Read VIA's file, or a folder that has one."""
    file = only_file(request.source, ("*.json", "*.csv"), "VIA's .json or .csv")
    notes: Notes = {}
    if file.suffix.lower() == ".csv":
        annotated, options = _read_csv(file, notes), dict[str, list[str]]()
    else:
        annotated, options = _read_json(file)
    attribute = _attribute([region for each in annotated for region in each.regions], request.attribute, file)
    index = index_pictures(request.images or file.parent)
    pictures = []
    for each in annotated:
        path = find_by_address(index, each.name, notes)
        if path is not None:
            boxes = [box for region in each.regions for box in _boxes(region, attribute, each.name, notes)]
            pictures.append(Picture(path, boxes))
    splits = {UNSPLIT: pictures}
    found_names = sorted_names(splits)
    ordered = options.get(attribute, [])
    return Source(splits, ordered + [name for name in found_names if name not in ordered], notes, indexes=[index])


def _read_json(file: Path) -> tuple[list[Annotated], dict[str, list[str]]]:
    """The pictures, and the options of each attribute in the order in which the project has them."""
    content = mapping(read_json(file))
    if "view" in content and "metadata" in content:
        by_name, options = regions_of_3(content)
        return [Annotated(name, regions) for name, regions in by_name.items()], options
    pictures = mapping(content.get("_via_img_metadata", content))
    annotated = []
    for entry in map(mapping, pictures.values()):
        if "filename" in entry and "regions" in entry:
            regions = entry["regions"]
            listed = list(regions.values()) if isinstance(regions, dict) else sequence(regions)  # version 1: an object
            annotated.append(Annotated(str(entry["filename"]), [_region(mapping(region)) for region in listed]))
    if not annotated:
        raise InputError(f"{file}: got no pictures with regions, expected VIA's project or annotations; export again")
    attributes = mapping(mapping(content.get("_via_attributes")).get("region"))
    options = {key: list(mapping(mapping(value).get("options"))) for key, value in attributes.items()}
    return annotated, options


def _region(region: dict[str, object]) -> Region:
    return Region(mapping(region.get("shape_attributes")), mapping(region.get("region_attributes")))


def _read_csv(file: Path, notes: Notes) -> list[Annotated]:
    """A row a region; a picture without one has a row of its own."""
    lines = csv.DictReader(io.StringIO(read_text(file).lstrip("#")))
    needed = {"filename", "region_shape_attributes", "region_attributes"}
    if not needed <= set(lines.fieldnames or ()):
        raise InputError(f"{file}: got no column {min(needed - set(lines.fieldnames or ()))}, expected VIA's .csv")
    by_name: dict[str, list[Region]] = {}
    for row in lines:
        regions = by_name.setdefault(row["filename"], [])
        try:
            shape, attributes = (mapping(json.loads(row[key] or "{}")) for key in sorted(needed - {"filename"})[::-1])
        except ValueError:
            note(notes, "rows that cannot be read, left out", row["filename"])
            continue
        if shape:
            regions.append(Region(shape, attributes))
    return [Annotated(name, regions) for name, regions in by_name.items()]


def _attribute(regions: Sequence[Region], wanted: str | None, file: Path) -> str:
    """The attribute that holds the class: the one that the user names, or the only one that has values."""
    counts: dict[str, int] = {}
    for region in regions:
        for key, value in region.attributes.items():
            counts[key] = counts.get(key, 0) + bool(value)
    in_use = [key for key, count in counts.items() if count]
    if wanted is not None:
        if regions and wanted not in counts:
            raise InputError(
                f"{file}: no region has the attribute {wanted!r}, expected one of {sorted(counts)}; choose one"
            )
        return wanted
    if len(in_use) > 1:
        shown = ", ".join(f"{key} ({counts[key]} of {len(regions)} regions)" for key in in_use)
        raise InputError(
            f"{file}: its regions have the attributes {shown}, expected one to be the class; say which with --attribute"
        )
    if regions and not in_use:
        raise InputError(
            f"{file}: none of its {len(regions)} regions has an attribute with a value, expected one that names its "
            "class; add one in VIA, under Attributes, and give the regions a value"
        )
    return in_use[0] if in_use else ""


def _boxes(region: Region, attribute: str, picture: str, notes: Notes) -> Iterator[Box]:
    value = region.attributes.get(attribute)
    chosen = [key for key, is_on in value.items() if is_on] if isinstance(value, dict) else [value]  # check boxes
    names = [str(name) for name in chosen if name not in (None, "")]
    if not names:
        note(notes, f"regions without a value of {attribute!r}, left out", picture)
        return
    if len(names) > 1:
        note(notes, "regions with several classes, each of which has a box", f"{picture} ({', '.join(names)})")
    corners = region_box(region, f"{picture} ({names[0]})", notes)
    if corners is not None:
        yield from (Box(name, corners) for name in names)

"""Small exports as annotation tools write them, all of the same six pictures with the same boxes.

Each picture has a size of its own, by which it is known whatever a tool makes of its name. Boxes are whole pixels, so
that no format has to round them. Integers, texts and the order of keys are as the tools write them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ("red fox", "cat", "dog")  # neither in alphabetical order nor in that of their first boxes


class Drawn(NamedTuple):
    """A picture and its boxes."""

    name: str
    width: int
    height: int
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...]  # class; x, y, width, height


TRAIN = (
    Drawn("one.jpg", 64, 48, (("cat", (4, 6, 20, 16)), ("dog", (30, 10, 24, 30)))),
    Drawn("two.jpg", 72, 52, (("red fox", (0, 0, 36, 26)),)),
    Drawn("three.png", 80, 56, (("cat", (10, 10, 30, 20)), ("cat", (44, 20, 30, 30)))),
    Drawn("four.jpg", 88, 60, ()),
)
VAL = (
    Drawn("five.jpg", 96, 64, (("dog", (8, 8, 40, 40)), ("red fox", (60, 20, 36, 44)))),
    Drawn("six.png", 104, 68, (("cat", (20, 12, 50, 40)),)),
)
PICTURES = TRAIN + VAL


def draw(path: Path, drawn: Drawn) -> Path:
    """Write the picture: grey, with its boxes in colours."""
    image: NDArray[np.uint8] = np.full((drawn.height, drawn.width, 3), 90, np.uint8)
    for name, (x, y, width, height) in drawn.boxes:
        image[y : y + height, x : x + width] = [(40, 40, 230), (230, 60, 40), (40, 200, 60)][CLASSES.index(name)]
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, image)
    assert done
    path.write_bytes(data.tobytes())
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# ---- Pascal VOC ----


def write_voc(folder: Path) -> Path:
    """As the development kit has it: pixels from 1, the last one included, and lists without suffixes."""
    for drawn in PICTURES:
        stem = Path(drawn.name).stem
        draw(folder / "JPEGImages" / drawn.name, drawn)
        write_voc_xml(folder / "Annotations" / f"{stem}.xml", drawn, [voc_object(*each) for each in drawn.boxes])
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, some in (("train", TRAIN), ("val", VAL), ("trainval", PICTURES)):
        (lists / f"{name}.txt").write_text("".join(f"{Path(drawn.name).stem}\n" for drawn in some))
    (lists / "cat_train.txt").write_text("one  1\ntwo -1\n")
    return folder


def write_voc_xml(path: Path, drawn: Drawn, objects: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation>\n\t<folder>VOC</folder>\n\t<filename>{drawn.name}</filename>\n"
        f"\t<size><width>{drawn.width}</width><height>{drawn.height}</height><depth>3</depth></size>\n"
        f"\t<segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
    )


def voc_object(name: str, xywh: tuple[float, float, float, float], more: str = "", start: int = 1) -> str:
    x, y, width, height = xywh
    return (
        f"\t<object><name>{name}</name><pose>Unspecified</pose>{more}<bndbox><xmin>{x + start}</xmin>"
        f"<ymin>{y + start}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>\n"
    )


# ---- YOLO ----


def yolo_line(name: str, xywh: tuple[int, int, int, int], drawn: Drawn) -> str:
    x, y, width, height = xywh
    shares = (x + width / 2) / drawn.width, (y + height / 2) / drawn.height, width / drawn.width, height / drawn.height
    return f"{CLASSES.index(name)} " + " ".join(f"{share:.6f}" for share in shares) + "\n"


def write_yolo_pair(image: Path, label: Path, drawn: Drawn) -> None:
    draw(image, drawn)
    label.parent.mkdir(parents=True, exist_ok=True)
    if drawn.boxes:
        label.write_text("".join(yolo_line(*each, drawn) for each in drawn.boxes))


def write_yolo(folder: Path) -> Path:
    """As ultralytics has it: images/train and labels/train below `path`, classes by number."""
    for split, some in (("train", TRAIN), ("val", VAL)):
        for drawn in some:
            label = folder / "labels" / split / f"{Path(drawn.name).stem}.txt"
            write_yolo_pair(folder / "images" / split / drawn.name, label, drawn)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\ntest:\nnames:\n{names}")
    return folder


def write_roboflow_yolo(folder: Path) -> Path:
    """As Roboflow has it: train/images and train/labels beside data.yaml, whose paths start from a folder beside it."""
    for split, some in (("train", TRAIN), ("valid", VAL)):
        for drawn in some:
            label = folder / split / "labels" / f"{Path(drawn.name).stem}.txt"
            write_yolo_pair(folder / split / "images" / drawn.name, label, drawn)
    (folder / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        f"nc: {len(CLASSES)}\nnames: {list(CLASSES)}\n\nroboflow:\n  workspace: me\n  version: 1\n"
    )
    return folder


def write_yolo_darknet(folder: Path) -> Path:
    """As CVAT's 'YOLO 1.1' has it: obj.data, obj.names, pictures beside their labels, lists from a folder data/."""
    (folder / "obj_train_data").mkdir(parents=True)
    for drawn in PICTURES:
        label = folder / "obj_train_data" / f"{Path(drawn.name).stem}.txt"
        write_yolo_pair(folder / "obj_train_data" / drawn.name, label, drawn)
    for name, some in (("train", TRAIN), ("valid", VAL)):
        (folder / f"{name}.txt").write_text("".join(f"data/obj_train_data/{drawn.name}\n" for drawn in some))
    (folder / "obj.names").write_text("\n".join(CLASSES) + "\n")
    (folder / "obj.data").write_text(
        f"classes = {len(CLASSES)}\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n"
        "backup = backup/\n"
    )
    return folder


def write_yolo_folders(folder: Path) -> Path:
    """As Label Studio's YOLO export has it: images/, labels/, classes.txt and no split."""
    for drawn in PICTURES:
        label = folder / "labels" / f"{Path(drawn.name).stem}.txt"
        write_yolo_pair(folder / "images" / drawn.name, label, drawn)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


# ---- COCO of several tools ----


def coco(pictures: tuple[Drawn, ...], name: Callable[[Drawn], str], start: int, **more: object) -> dict[str, object]:
    """A COCO file; ids of pictures, boxes and classes begin at `start`."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, drawn in enumerate(pictures, start):
        images.append({"id": number, "file_name": name(drawn), "height": drawn.height, "width": drawn.width})
        for label, xywh in drawn.boxes:
            own = {"id": start + len(annotations), "image_id": number, "category_id": 1 + CLASSES.index(label)}
            annotations.append({**own, "bbox": [*xywh], "area": xywh[2] * xywh[3], "segmentation": [], **more})
    categories = [{"id": number, "name": label} for number, label in enumerate(CLASSES, 1)]
    return {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}


def roboflow_name(drawn: Drawn) -> str:
    return f"{drawn.name.replace('.', '_')}.rf.0123456789abcdef{Path(drawn.name).suffix}"


def write_roboflow(folder: Path) -> Path:
    """A root category of id 0, which is the supercategory of the others."""
    for split, some in (("train", TRAIN), ("valid", VAL)):
        for drawn in some:
            draw(folder / split / roboflow_name(drawn), drawn)
        content = coco(some, roboflow_name, start=0, iscrowd=0)
        others = [{"id": number, "name": name, "supercategory": "animals"} for number, name in enumerate(CLASSES, 1)]
        content["categories"] = [{"id": 0, "name": "animals", "supercategory": "none"}, *others]
        write_json(folder / split / "_annotations.coco.json", content)
    return folder


def write_cvat_coco(folder: Path) -> Path:
    """One file; what was drawn with a brush is marked as a crowd."""
    for drawn in PICTURES:
        draw(folder / "images" / "default" / drawn.name, drawn)
    content = coco(PICTURES, lambda drawn: drawn.name, start=1, iscrowd=1, attributes={"occluded": False})
    write_json(folder / "annotations" / "instances_default.json", content)
    return folder


def write_labelstudio_coco(folder: Path) -> Path:
    """Ids from 0, names with images/ before them and, on Windows, backslashes."""
    for drawn in PICTURES:
        draw(folder / "images" / labelstudio_name(drawn), drawn)
    content = coco(PICTURES, lambda drawn: f"images\\{labelstudio_name(drawn)}", start=0, ignore=0, iscrowd=0)
    write_json(folder / "result.json", content)
    return folder


# ---- CVAT's XML ----


def write_cvat(folder: Path) -> Path:
    """CVAT for images 1.1."""
    for drawn in PICTURES:
        draw(folder / "images" / drawn.name, drawn)
    return write_cvat_xml(folder, "".join(cvat_image(number, drawn) for number, drawn in enumerate(PICTURES)))


def write_cvat_xml(folder: Path, images: str) -> Path:
    labels = "".join(
        f"<label><name>{name}</name><color>#fa3253</color><type>any</type><attributes></attributes></label>"
        for name in CLASSES
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task><id>1</id>'
        f"<name>animals</name><mode>annotation</mode><labels>{labels}</labels></task></meta>\n{images}</annotations>\n"
    )
    return folder


def cvat_image(number: int, drawn: Drawn, more: str = "") -> str:
    boxes = "".join(
        f'    <box label="{name}" source="manual" occluded="0" xtl="{x:.2f}" ytl="{y:.2f}" xbr="{x + width:.2f}" '
        f'ybr="{y + height:.2f}" z_order="0">\n    </box>\n'
        for name, (x, y, width, height) in drawn.boxes
    )
    size = f'width="{drawn.width}" height="{drawn.height}"'
    return f'  <image id="{number}" name="{drawn.name}" {size}>\n{boxes}{more}  </image>\n'


def write_cvat_video(folder: Path) -> Path:
    """CVAT for video 1.1: every shape is a track of one frame, ended by a shape that is outside."""
    tracks = ""
    for frame, drawn in enumerate(PICTURES):
        draw(folder / "images" / f"frame_{frame:06d}.png", drawn)
        for name, (x, y, width, height) in drawn.boxes:
            box = f'occluded="0" xtl="{x}" ytl="{y}" xbr="{x + width}" ybr="{y + height}" z_order="0"></box>'
            shown = f'<box frame="{frame}" keyframe="1" outside="0" {box}'
            tracks += (
                f'<track id="0" label="{name}">{shown}<box frame="{frame + 1}" keyframe="1" outside="1" {box}</track>'
            )
    return write_cvat_xml(folder, tracks)


# ---- Label Studio's JSON ----


def labelstudio_name(drawn: Drawn) -> str:
    return f"0a1b2c3d-{drawn.name}"


def rectangle(name: str, xywh: tuple[int, int, int, int], drawn: Drawn) -> dict[str, object]:
    """A region, its numbers in percent."""
    x, y, width, height = xywh
    return {
        "original_width": drawn.width,
        "original_height": drawn.height,
        "image_rotation": 0,
        "value": {
            "x": 100 * x / drawn.width,
            "y": 100 * y / drawn.height,
            "width": 100 * width / drawn.width,
            "height": 100 * height / drawn.height,
            "rotation": 0,
            "rectanglelabels": [name],
        },
        "id": "Dx_aB91ISN",
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
    }


def task(number: int, drawn: Drawn, result: list[dict[str, object]] | None = None) -> dict[str, object]:
    regions = [rectangle(*each, drawn) for each in drawn.boxes] if result is None else result
    annotation = {"id": number, "result": regions, "was_cancelled": False, "created_at": "2025-01-01T00:00:00Z"}
    data = {"image": f"/data/upload/1/{labelstudio_name(drawn)}"}
    return {"id": number, "annotations": [annotation], "predictions": [], "data": data}


def write_labelstudio(folder: Path) -> Path:
    """The list of tasks, beside the pictures as they were before they were uploaded."""
    for drawn in PICTURES:
        draw(folder / "pictures" / drawn.name, drawn)
    write_json(folder / "project-1-at-2025-01-01.json", [task(n, drawn) for n, drawn in enumerate(PICTURES, 1)])
    return folder


def write_labelstudio_min(folder: Path) -> Path:
    """JSON-MIN: the data of a task, and the values of its regions below the name of their control."""
    tasks: list[dict[str, object]] = []
    for number, drawn in enumerate(PICTURES, 1):
        draw(folder / "pictures" / drawn.name, drawn)
        regions = [rectangle(*each, drawn) for each in drawn.boxes]
        sizes = {"original_width": drawn.width, "original_height": drawn.height}
        values = [{**region["value"], **sizes} for region in regions]  # type: ignore[dict-item]  # it is a dict
        label: dict[str, object] = {"label": values} if values else {}
        own = {"image": f"/data/local-files/?d=pictures/{drawn.name}", "id": number}
        tasks.append({**own, **label, "annotator": 1, "annotation_id": number, "lead_time": 2.5})
    write_json(folder / "result.json", tasks)
    return folder


# ---- LabelMe ----


def labelme(drawn: Drawn, shapes: list[dict[str, object]] | None = None, **more: object) -> dict[str, object]:
    own = [labelme_shape(name, [[x, y], [x + w, y + h]]) for name, (x, y, w, h) in drawn.boxes]
    content = {"version": "5.5.0", "flags": {}, "shapes": own if shapes is None else shapes, "imagePath": drawn.name}
    return {**content, "imageData": None, "imageHeight": drawn.height, "imageWidth": drawn.width, **more}


def labelme_shape(name: str, points: list[list[float]], kind: str = "rectangle") -> dict[str, object]:
    shape = {"label": name, "points": points, "group_id": None, "description": "", "shape_type": kind}
    return {**shape, "flags": {}, "mask": None}


def write_labelme(folder: Path) -> Path:
    """Each .json in a folder beside that of the pictures, written on Windows."""
    for drawn in PICTURES:
        draw(folder / "pictures" / drawn.name, drawn)
        content = labelme(drawn, imagePath=f"..\\pictures\\{drawn.name}")
        write_json(folder / "labels" / f"{Path(drawn.name).stem}.json", content)
    return folder


# ---- VGG Image Annotator ----


def via_region(name: str, xywh: tuple[int, int, int, int]) -> dict[str, object]:
    shape = dict(zip(("x", "y", "width", "height"), xywh, strict=True))
    return {"shape_attributes": {"name": "rect", **shape}, "region_attributes": {"animal": name}}


def via_metadata(folder: Path) -> dict[str, object]:
    entries: dict[str, object] = {}
    for drawn in PICTURES:
        size = draw(folder / drawn.name, drawn).stat().st_size
        regions = [via_region(*each) for each in drawn.boxes]
        entries[f"{drawn.name}{size}"] = {
            "filename": drawn.name,
            "size": size,
            "regions": regions,
            "file_attributes": {},
        }
    return entries


def write_via(folder: Path) -> Path:
    """A project."""
    options = dict.fromkeys(CLASSES, "")
    region = {"animal": {"type": "dropdown", "description": "", "options": options, "default_options": {}}}
    content = {"_via_settings": {}, "_via_img_metadata": via_metadata(folder)}
    write_json(folder / "via_project.json", {**content, "_via_attributes": {"region": region, "file": {}}})
    return folder


def write_via_annotations(folder: Path) -> Path:
    """The annotations alone."""
    write_json(folder / "via_region_data.json", via_metadata(folder))
    return folder


def write_via_csv(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    header = ("#filename", "file_size", "file_attributes", "region_count", "region_id")
    with open(folder / "via_region_data.csv", "w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow((*header, "region_shape_attributes", "region_attributes"))
        for drawn in PICTURES:
            size = draw(folder / drawn.name, drawn).stat().st_size
            regions = [via_region(*each) for each in drawn.boxes] or [{"shape_attributes": {}, "region_attributes": {}}]
            for number, region in enumerate(regions):
                shapes = json.dumps(region["shape_attributes"]), json.dumps(region["region_attributes"])
                lines.writerow((drawn.name, size, "{}", len(drawn.boxes), number, *shapes))
    return folder


def write_via_3(folder: Path) -> Path:
    """A project of version 3, whose attributes hold the ids of options."""
    files, views, metadata = {}, {}, {}
    for number, drawn in enumerate(PICTURES, 1):
        draw(folder / drawn.name, drawn)
        files[str(number)] = {"fid": str(number), "fname": drawn.name, "type": 2, "loc": 1, "src": ""}
        views[str(number)] = {"fid_list": [str(number)]}
        for name, xywh in drawn.boxes:
            entry = {"vid": str(number), "flg": 0, "z": [], "xy": [2, *xywh], "av": {"1": str(CLASSES.index(name))}}
            metadata[f"{number}_{len(metadata)}"] = entry
    options = {str(number): name for number, name in enumerate(CLASSES)}
    attribute = {"1": {"aname": "animal", "anchor_id": "FILE1_Z0_XY1", "type": 3, "options": options}}
    content = {"project": {"data_format_version": "3.1.1"}, "config": {}, "attribute": attribute, "file": files}
    write_json(folder / "via_project.json", {**content, "metadata": metadata, "view": views})
    return folder

"""The two pictures of the README, from a finished `make demo`: `python docs/pictures/make.py runs/demo/<time>`.

edges.jpg: the first lying pictures of the generated validation set, what the demo's detector finds, how sure it is of
each edge. report.png: the top of the run's report.html, by Chromium without a window.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from gfl import load
from gfl.data.picture_files import read_picture
from gfl.report.draw import draw
from gfl.report.sheets import jpeg, sheet

HERE = Path(__file__).resolve().parent
PICTURES = Path("data/synthetic/val2017")
COUNT, COLUMNS, TIMES = 6, 3, 2  # pictures, and how many times they are enlarged
WINDOW = "1200,1260"  # px of the report


def edges(run: Path) -> np.ndarray:
    """The sheet of pictures with detections and whiskers."""
    detect = load(run / "best.pt")
    drawn = []
    for path in sorted(PICTURES.iterdir()):
        picture = read_picture(path)
        if picture.shape[0] < picture.shape[1] and len(drawn) < COUNT:
            found = detect(picture).confident().distinct()
            large = cv2.resize(picture, None, fx=TIMES, fy=TIMES, interpolation=cv2.INTER_CUBIC)
            boxes, spread = TIMES * found.boxes_xyxy, TIMES * found.edge_std
            drawn.append(draw(large, boxes, found.scores, found.labels, found.names, edge_std=spread))
    return sheet(drawn, COLUMNS, max(drawn[0].shape))


def main() -> None:
    run = Path(sys.argv[1])
    (HERE / "edges.jpg").write_bytes(jpeg(edges(run), 80))
    page, target = (run / "report.html").resolve().as_uri(), HERE / "report.png"
    flags = ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WINDOW}", f"--screenshot={target}"]
    subprocess.run(["chromium", *flags, page], check=True)


if __name__ == "__main__":
    main()

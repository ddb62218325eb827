"""The formats of `python -m export.to`, a file each."""

from __future__ import annotations

from export.formats import coreml, executorch, litert, mnn, ncnn, opencv, openvino, rknn, tensorrt
from export.formats.interface import Format

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (openvino, mnn, ncnn, litert, executorch, coreml, rknn, opencv, tensorrt)
}

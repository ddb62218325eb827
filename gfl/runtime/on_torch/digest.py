"""One number for what a trained model computes: files that were exported of the same one carry the same."""

from __future__ import annotations

import hashlib

from gfl.data.sizes import eval_short_side
from gfl.engine.checkpoints import TrainedModel
from gfl.tensors.variables import flatten


def digest_of(model: TrainedModel, *, outputs: str, precision: str) -> str:
    """sha256, in hexadecimal, over the weights and every setting that an exported file's results depend on.

    Not over the canvas and the batch, in which the files of one model differ.
    """
    total = hashlib.sha256()
    data = model.run.data
    settings = (
        outputs,
        precision,
        model.run.detector,
        model.names,
        model.category_ids,
        model.score_thresholds,
        (eval_short_side(data), data.long_side),
    )
    total.update(repr(settings).encode("utf-8", "backslashreplace"))
    for path, tensor in sorted(flatten(model.variables).items()):
        array = tensor.detach().cpu().contiguous().numpy()
        total.update(f"{path} {array.dtype} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()

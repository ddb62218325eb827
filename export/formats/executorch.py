"""ExecuTorch's format, for phones and boards: one .pte, whose convolutions XNNPACK computes."""

from __future__ import annotations

import warnings
from pathlib import Path

from export.formats.interface import Conversion, Format
from gfl.packages import import_package
from gfl.runtime.model import StaticFile
from gfl.runtime.on_torch.pt2_file import load_program


def convert(job: Conversion) -> None:
    """Write the program in float32: what XNNPACK takes goes to it, portable kernels of ExecuTorch do the rest."""
    needed = "the format executorch needs the package executorch, which"
    mend = "pip install 'gflv2[executorch]'"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, of what it will change
        exir = import_package("executorch.exir", needed, mend)
        xnnpack = import_package("executorch.backends.xnnpack.partition.xnnpack_partitioner", needed, mend)
        program = load_program(job.source)[0].run_decompositions({})
        lowered = exir.to_edge_transform_and_lower(
            program,
            partitioner=[xnnpack.XnnpackPartitioner()],
            # Its check knows the operators of PyTorch's core set alone; a portable kernel of each of ours is there.
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),
        ).to_executorch()
    job.target.write_bytes(lowered.buffer)


def open_file(path: Path, threads: int) -> StaticFile:
    """Open what `convert` wrote."""
    from gfl.runtime.on_torch.pte_file import open_pte

    return open_pte(path, threads=threads)


FORMAT = Format(
    name="executorch",
    suffix=".pte",
    source=".pt2",
    forms=("detections", "decoded"),
    precisions=("fp32",),
    packages=("executorch",),
    runtime="executorch",
    extra="executorch",
    convert=convert,
    open=open_file,
    remarks=("the file runs in the ExecuTorch of its own version or a newer one; its threads are one a core",),
)

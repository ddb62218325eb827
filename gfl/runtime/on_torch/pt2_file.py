"""A .pt2: a torch.export program with its description, run by PyTorch without the project's model code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from gfl.errors import InputError, first_line
from gfl.runtime.description import Arrays, Description
from gfl.runtime.on_torch.device import to_arrays, torch_device_of
from gfl.runtime.on_torch.pt2_archive import DESCRIPTION, copy_checked
from gfl.runtime.providers import ProviderChoice, ProviderReport

NODE_FACTS = ("val", "unbacked_bindings")  # what a program needs to know of its nodes: shapes and dtypes


def save_program(
    program: ExportedProgram, description: Description, output_names: Sequence[str], stream: IO[bytes]
) -> None:
    """Write a program, its description and the names of its outputs.

    In place, the program's nodes forget where they were traced: the paths of this machine.
    """
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key in NODE_FACTS}
    metadata = {**description.to_metadata(), "output_names": json.dumps(list(output_names))}
    torch.export.save(program, stream, extra_files={DESCRIPTION: json.dumps(metadata, ensure_ascii=False)})


def load_program(path: Path) -> tuple[ExportedProgram, Description, tuple[str, ...]]:
    """A .pt2's program, description and output names; nothing in the file is executed but the operators of its graph.

    Raises InputError for one that is damaged, not of this project, or holds more than this project writes.
    """
    try:
        copy, metadata = copy_checked(path)
        description = Description.from_metadata(metadata, path)
        output_names = tuple(json.loads(metadata["output_names"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, about parts of the format that we do not use
            program = torch.export.load(copy)
        if not all(isinstance(name, str) for name in output_names):
            raise ValueError("names of its outputs that are no text")
        if len(output_names) != len(program.graph_signature.user_outputs):
            raise ValueError(f"{len(output_names)} names for {len(program.graph_signature.user_outputs)} outputs")
    except InputError:
        raise
    except Exception as error:  # of many types for a damaged file
        raise InputError(
            f"{path} cannot be read as a torch.export program ({first_line(error)}); export or copy it again"
        ) from error
    return program, description, output_names


@dataclass(frozen=True)
class Program:
    """An open .pt2."""

    path: Path
    description: Description
    output_names: tuple[str, ...]
    module: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    device: torch.device
    report: ProviderReport

    def run(self, images: NDArray[np.uint8], image_sizes: NDArray[np.int32]) -> Arrays:
        """As `gfl.runtime.model.RunBatch`; InputError where the program takes others than its description says."""
        inputs = (torch.from_numpy(array).to(self.device) for array in (images, image_sizes))
        try:
            with torch.inference_mode():
                return to_arrays(self.module(*inputs), self.output_names)
        except AssertionError as error:  # of the guards that torch.export puts before a program
            raise InputError(
                f"{self.path} does not take the pictures that it describes ({first_line(error)}); export it again from "
                "its checkpoint"
            ) from error

    def provider_report(self) -> ProviderReport:
        """PyTorch's device."""
        return self.report


def open_program(path: Path, *, threads: int = 0, choice: ProviderChoice = ProviderChoice()) -> Program:  # noqa: B008
    """Open a .pt2; InputError as `load_program` and `torch_device_of`."""
    device, report = torch_device_of(choice)
    if threads:
        torch.set_num_threads(threads)
    program, description, output_names = load_program(path)
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return Program(path, description, output_names, program.module(), device, report)

"""Core ML's format, for Macs, iPhones and iPads: one .mlpackage, a folder, by coremltools. Never run by us."""

from __future__ import annotations

import logging
import warnings

import torch
from torch.export import ExportedProgram

from export.formats.interface import Conversion, Format
from export.formats.quiet import quiet
from gfl.packages import import_package
from gfl.runtime.description import INPUT_NAMES
from gfl.runtime.on_torch.pt2_file import load_program


def convert(job: Conversion) -> None:
    """Write the program in float32, for macOS 14 and iOS 17 or newer, with its description as the model's metadata."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)  # it warns of every torch newer than its release
    with warnings.catch_warnings(), quiet():  # its progress bars
        warnings.simplefilter("ignore")
        tools = import_package(
            "coremltools", "the format coreml needs the package coremltools, which", "pip install 'gflv2[coreml]'"
        )
        program = changed(load_program(job.source)[0])
        model = tools.convert(
            program,
            outputs=[tools.TensorType(name=name) for name in job.output_names],
            convert_to="mlprogram",
            compute_precision=tools.precision.FLOAT32,  # it halves the weights unless told otherwise
            minimum_deployment_target=tools.target.iOS17,
            skip_model_load=True,  # a Mac would compile it here
        )
        model.user_defined_metadata.update(job.description.to_metadata())
        model.save(str(job.target))


def changed(program: ExportedProgram) -> ExportedProgram:
    """The same function of images in float32, for Core ML has no uint8 input, with the project's names of the inputs.

    The operators are those of PyTorch's core set, which coremltools knows, but for `alias`, which it does not. A check
    of a tensor's dtype would now fail.
    """
    program = program.run_decompositions()
    names = dict(zip(program.graph_signature.user_inputs, INPUT_NAMES, strict=True))
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
        elif node.name in names:
            node.name = names[node.name]
            if node.name == "images":
                node.meta["val"] = node.meta["val"].float()
    for spec in program.graph_signature.input_specs:
        spec.arg.name = names.get(spec.arg.name, spec.arg.name)
    return program


FORMAT = Format(
    name="coreml",
    suffix=".mlpackage",
    source=".pt2",
    forms=("detections", "decoded"),
    precisions=("fp32",),
    packages=("coremltools",),
    runtime="",
    extra="coreml",
    convert=convert,
    open=None,
    remarks=(
        "never run by us; on a Mac with macOS 14 or newer: coremltools.models.MLModel('FILE.mlpackage', "
        "compute_units=coremltools.ComputeUnit.CPU_ONLY).predict({'images': pictures, 'image_sizes': sizes}) gives the "
        "outputs by name",
        "images are float32 (1,3,H,W) in RGB, 0 to 255; image_sizes int32 (1,2); CPU_ONLY keeps float32, the neural "
        "engine computes in float16",
    ),
)

"""Programs of other people that read an exported file as it stands: nothing of this project lies between the two.

NumPy alone is needed here, so that each program may have a Python of its own. Shapes: H, W the sides of the canvas, px.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Run = Callable[[Array, Array], Sequence[Array]]  # images (1,3,H,W) uint8, sizes (1,2) int32 -> outputs, as in the file
FAILURE = re.compile(r"error|failed|please|\bnot\b|fault", re.IGNORECASE)


class Job(NamedTuple):
    """One file to read."""

    file: Path  # not to be changed
    names: Sequence[str]  # of its outputs
    size: tuple[int, int]  # H, W
    threads: int
    folder: Path  # for what is written on the way


class Reader(NamedTuple):
    """A program that reads exported files."""

    title: str
    suffix: str  # '.onnx' or '.pt2': what it reads
    packages: tuple[str, ...]  # whose versions are shown; 'name==4.' where only these versions count
    licence: str  # as the metadata of its packages says
    open: Callable[[Job], Run | None]  # None: converted, and nothing here runs it


def tool(*words: str | Path, folder: Path) -> None:
    """Run a converter that is a program of its own; RuntimeError with the last line that says why where it fails."""
    done = subprocess.run(
        [*map(str, words)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(reason(done.stdout) or f"exit status {done.returncode}")


def reason(said: str) -> str:
    """The last line that names a failure; where none does, the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if FAILURE.search(line)), lines[-1] if lines else "")


# ---- readers of the .onnx --------------------------------------------------------------------------------------------


def onnxruntime(job: Job) -> Run:
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = runtime.InferenceSession(str(job.file), options, providers=["CPUExecutionProvider"])
    return lambda images, sizes: session.run(None, {"images": images, "image_sizes": sizes})


def ort_format(job: Job) -> Run:
    shutil.copyfile(job.file, job.folder / "model.onnx")
    words = ("-m", "onnxruntime.tools.convert_onnx_models_to_ort", job.folder, "--optimization_style", "Fixed")
    tool(sys.executable, *words, folder=job.folder)
    return onnxruntime(job._replace(file=job.folder / "model.ort"))


def onnxsim(job: Job) -> Run:
    onnx = import_module("onnx")
    simplified, _ = import_module("onnxsim").simplify(onnx.load(job.file))
    onnx.save(simplified, job.folder / "model.onnx")
    return onnxruntime(job._replace(file=job.folder / "model.onnx"))


def onnxslim(job: Job) -> Run:
    import_module("onnxslim").slim(str(job.file), str(job.folder / "model.onnx"))
    return onnxruntime(job._replace(file=job.folder / "model.onnx"))


def openvino(job: Job) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(job.threads)}
    compiled = import_module("openvino").Core().compile_model(str(job.file), "CPU", settings)
    return lambda images, sizes: compiled([images, sizes]).to_tuple()


def mnn(job: Job) -> Run:
    written = str(job.folder / "model.mnn")
    import_module("_tools").mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", str(job.file), "--MNNModel", written]
    )
    nn, expr = import_module("MNN.nn"), import_module("MNN.expr")
    runtime = nn.create_runtime_manager(({"backend": 0, "precision": "high", "numThread": job.threads},))
    net = nn.load_module_from_file(written, ["images", "image_sizes"], [*job.names], runtime_manager=runtime)

    def run(images: Array, sizes: Array) -> list[Array]:
        feed = ((images, expr.uint8), (sizes, expr.int))
        return [each.read() for each in net.forward([expr.const(a, a.shape, expr.NCHW, kind) for a, kind in feed])]

    return run


def opencv(job: Job, engine: str = "") -> Run:
    cv2 = import_module("cv2")
    cv2.setNumThreads(job.threads)
    net = cv2.dnn.readNetFromONNX(str(job.file), **({"engine": getattr(cv2.dnn, engine)} if engine else {}))

    def run(images: Array, sizes: Array) -> Sequence[Array]:
        net.setInput(images, "images")
        net.setInput(sizes, "image_sizes")
        outputs: Sequence[Array] = net.forward([*job.names])
        return outputs

    return run


def tract(job: Job) -> Run:
    model = import_module("tract").onnx().load(job.file).into_model().into_runnable()
    return lambda images, sizes: [each.to_numpy() for each in model.run([images, sizes])]


def iree(job: Job) -> Run:
    source = job.folder / "model.mlir"
    tool(sys.executable, "-m", "iree.compiler.tools.import_onnx", job.file, "-o", source, folder=job.folder)
    compiled = import_module("iree.compiler").compile_file(
        str(source), input_type="onnx", target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=host"]
    )
    module = import_module("iree.runtime").load_vm_flatbuffer(compiled, driver="local-sync")
    call = module[
        next(name for name in module.vm_module.function_names if not name.startswith("__") and "$" not in name)
    ]
    return lambda images, sizes: [each.to_host() for each in call(images, sizes)]


def tvm(job: Job) -> Run:
    tvm, relax = import_module("tvm"), import_module("tvm.relax")
    imported = import_module("tvm.relax.frontend.onnx").from_onnx(import_module("onnx").load(job.file))
    machine = relax.VirtualMachine(tvm.compile(relax.get_pipeline("zero")(imported), target="llvm"), tvm.cpu())
    return lambda images, sizes: [each.numpy() for each in machine["main"](*map(tvm.runtime.tensor, (images, sizes)))]


def onnx2tf(job: Job) -> Run:
    copy = shutil.copyfile(job.file, job.folder / "model.onnx")  # which it overwrites
    import_module("onnx2tf").convert(
        input_onnx_file_path=str(copy),
        output_folder_path=str(job.folder / "out"),
        output_signaturedefs=True,
        keep_ncw_or_nchw_or_ncdhw_input_names=["images"],
        not_use_onnxsim=True,
        disable_strict_mode=True,
        verbosity="error",
    )
    call = litert(job.folder / "out" / "model_float32.tflite", job.threads)

    def run(images: Array, sizes: Array) -> list[Array]:
        outputs = call(images=images, image_sizes=sizes)
        return [outputs[name] for name in job.names]

    return run


def litert(file: Path, threads: int) -> Callable[..., Mapping[str, Array]]:
    """LiteRT's function of a file's inputs by name."""
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(str(file), num_threads=threads)
    call: Callable[..., Mapping[str, Array]] = interpreter.get_signature_runner()
    return call


def rknn(job: Job) -> None:
    build = import_module("rknn.api").RKNN()
    build.config(target_platform="rk3588")
    if build.load_onnx(str(job.file)) != 0 or build.build(do_quantization=False) != 0:
        raise RuntimeError("refused without a word")


def onnx2torch(job: Job) -> Run:
    torch = import_module("torch")
    torch.set_num_threads(job.threads)
    module = import_module("onnx2torch").convert(str(job.file)).eval()

    def run(images: Array, sizes: Array) -> list[Array]:
        with torch.inference_mode():
            outputs = module(torch.from_numpy(images), torch.from_numpy(sizes))
        # A node's outputs come together, where the graph names one: five of a Split, of a TopK the first of two.
        if len(outputs) < len(job.names):
            outputs = itertools.chain.from_iterable(outputs)
        return [(each[0] if isinstance(each, tuple) else each).numpy() for each in outputs]

    return run


# ---- of both ---------------------------------------------------------------------------------------------------------


def pnnx(job: Job) -> None:
    copy = shutil.copyfile(job.file, job.folder / f"model{job.file.suffix}")
    tool(import_module("pnnx").EXEC_PATH, copy, "fp16=0", folder=job.folder)


# ---- readers of the .pt2 ---------------------------------------------------------------------------------------------


def samples(job: Job) -> tuple[object, object]:
    """Inputs to trace with."""
    torch = import_module("torch")
    return torch.zeros(1, 3, *job.size, dtype=torch.uint8), torch.tensor([job.size], dtype=torch.int32)


def litert_torch(job: Job) -> Run:
    program = import_module("torch").export.load(job.file)
    import_module("litert_torch").convert(program.module(), samples(job)).export(str(job.folder / "model.tflite"))
    call = litert(job.folder / "model.tflite", job.threads)

    def run(images: Array, sizes: Array) -> list[Array]:
        outputs = call(args_0=images, args_1=sizes)
        return [outputs[f"output_{place}"] for place in range(len(job.names))]

    return run


def executorch(job: Job) -> Run:
    torch, exir = import_module("torch"), import_module("executorch.exir")
    xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    lowered = exir.to_edge_transform_and_lower(
        torch.export.load(job.file).run_decompositions({}),
        partitioner=[xnnpack.XnnpackPartitioner()],
        compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),
    ).to_executorch()
    (job.folder / "model.pte").write_bytes(lowered.buffer)
    method = import_module("executorch.runtime").Runtime.get().load_program(job.folder / "model.pte")
    forward = method.load_method("forward")
    return lambda images, sizes: [
        each.numpy() for each in forward.execute([torch.from_numpy(images), torch.from_numpy(sizes)])
    ]


def coreml(job: Job) -> None:
    tools, torch = import_module("coremltools"), import_module("torch")
    program = torch.export.load(job.file).run_decompositions({})
    tools.convert(program, minimum_deployment_target=tools.target.iOS17).save(str(job.folder / "model.mlpackage"))


# nncase is not among them: its package cannot be imported without the .NET runtime.
READERS: Mapping[str, Reader] = {
    "onnxruntime": Reader("ONNX Runtime", ".onnx", ("onnxruntime",), "MIT", onnxruntime),
    "onnxruntime-1.16": Reader("ONNX Runtime", ".onnx", ("onnxruntime==1.16.",), "MIT", onnxruntime),
    "ort": Reader("ONNX Runtime, .ort", ".onnx", ("onnxruntime",), "MIT", ort_format),
    "openvino": Reader("OpenVINO, float32", ".onnx", ("openvino",), "Apache-2.0", openvino),
    "mnn": Reader("MNN", ".onnx", ("MNN",), "BSD-3", mnn),
    "opencv": Reader(
        "OpenCV, new engine",
        ".onnx",
        ("opencv-python-headless==5.",),
        "Apache-2.0",
        partial(opencv, engine="ENGINE_NEW"),
    ),
    "opencv-classic": Reader(
        "OpenCV, classic engine",
        ".onnx",
        ("opencv-python-headless==5.",),
        "Apache-2.0",
        partial(opencv, engine="ENGINE_CLASSIC"),
    ),
    "opencv-4": Reader("OpenCV", ".onnx", ("opencv-python-headless==4.",), "Apache-2.0", opencv),
    "tract": Reader("tract", ".onnx", ("tract",), "MIT or Apache-2.0", tract),
    "iree": Reader("IREE", ".onnx", ("iree-base-compiler",), "Apache-2.0", iree),
    "tvm": Reader("TVM, untuned", ".onnx", ("apache-tvm",), "Apache-2.0", tvm),
    "onnx2tf": Reader("LiteRT by onnx2tf", ".onnx", ("onnx2tf", "ai-edge-litert"), "MIT; Apache-2.0", onnx2tf),
    "ncnn": Reader("ncnn by pnnx", ".onnx", ("pnnx", "ncnn"), "BSD-3", pnnx),
    "rknn": Reader("RKNN for rk3588, conversion alone", ".onnx", ("rknn-toolkit2",), "none named", rknn),
    "onnx2torch": Reader("onnx2torch", ".onnx", ("onnx2torch", "torch"), "Apache-2.0", onnx2torch),
    "onnxsim": Reader("onnxsim", ".onnx", ("onnxsim",), "MIT and (Apache-2.0 or BSD-2-Clause)", onnxsim),
    "onnxslim": Reader("onnxslim", ".onnx", ("onnxslim",), "MIT", onnxslim),
    "litert-torch": Reader(
        "LiteRT by litert-torch", ".pt2", ("litert-torch", "ai-edge-litert"), "Apache-2.0", litert_torch
    ),
    "executorch": Reader("ExecuTorch, XNNPACK", ".pt2", ("executorch",), "BSD-3-Clause", executorch),
    "coreml": Reader("Core ML, conversion alone", ".pt2", ("coremltools",), "BSD", coreml),
    "pnnx-pt2": Reader("pnnx", ".pt2", ("pnnx",), "BSD-3", pnnx),
}

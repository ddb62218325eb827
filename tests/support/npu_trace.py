"""A training step through torch_npu's own dispatcher, on a machine without an NPU: `make npu-trace`.

The real torch_npu wheel goes into a virtual environment of its own, over stub libraries in place of CANN: every symbol
that the wheel leaves unresolved or looks up by name becomes a function that returns 0. Under FakeTensorMode on device
'npu' a step then dispatches as it would there, and nothing is computed. That checks operators, dtypes and devices.
It is no hardware test: no kernel runs, no number is right or wrong.

Exit code 0 when every rule holds, or with the reason when it cannot be set up here; 1 when a rule is broken, or the
stubs stand for no device.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-npu-trace"
CANVASES = ((800, 1088), (800, 1344), (1344, 800))

OPENED_BY_NAME = "libacl_tdt_channel.so"  # beside those that the wheel is linked with
# What the wheel looks up by name: all of CANN but the operators themselves (aclnn...).
LOOKED_UP = re.compile(rb"\0((?:acl|aclrt|aclop|aclmdl|aclprof|Hccl|rt)[A-Z][A-Za-z0-9_]*)(?=\0)")
HANDLE = "int {}(void **handle) {{ static long there; *handle = &there; return 0; }}"
MEMORY = "int {}(void **memory, unsigned long size) {{ *memory = malloc(size); return 0; }}"
# Those whose answer matters: one device, and handles and memory that are not null.
ANSWERS = {
    "aclrtGetDeviceCount": "int {}(unsigned *count) {{ *count = 1; return 0; }}",
    "aclrtGetDevice": "int {}(int *device) {{ *device = 0; return 0; }}",
    "aclGetCompileoptSize": "unsigned long {}(int option) {{ return 16; }}",
    "aclrtGetCurrentContext": HANDLE,
}
ANSWERS_BY_PREFIX = {
    "aclrtCreateStream": HANDLE,
    "aclrtCreateEvent": HANDLE,
    "aclrtCreateContext": HANDLE,
    "aclrtMalloc": MEMORY,
}
NOTHING = "int {}(void) {{ return 0; }}"


class CannotSetUpError(Exception):
    """Why the trace cannot be made here, in one sentence."""


# ---- the environment ----


def set_up(folder: Path, version: str) -> dict[str, str]:
    """A virtual environment with torch_npu over stubs; the environment variables of its programs."""
    if not sys.platform.startswith("linux"):
        raise CannotSetUpError(f"torch_npu has no wheel for {sys.platform}")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=False)
    # torch and what the project needs come from the environment that runs this; only torch_npu is added.
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    if not (site / "torch_npu").is_dir():
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
        run([*pip, f"torch-npu=={version}", "pyyaml"])
    make_stubs(folder / "stubs", site / "torch_npu")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder / "stubs"),
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # `import torch` alone shall not load torch_npu
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # no warning that a CANN without a version is old
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }


def make_stubs(folder: Path, wheel: Path) -> None:
    """A library for each that the wheel misses; each holds all functions, for a look-up asks one of them."""
    folder.mkdir(exist_ok=True)
    libraries = [*sorted(wheel.glob("lib/*.so")), *sorted(wheel.glob("_C*.so"))]
    missing, found = linked(libraries)
    defined = set().union(*(symbols("--defined-only", library) for library in (*found, *libraries)))
    wanted = set().union(*(symbols("--undefined-only", library) for library in libraries))
    unresolved = {name for name in wanted - defined if not name.startswith(("Py", "_Py"))}
    source = folder / "stubs.c"
    source.write_text(stub_source(unresolved | looked_up(libraries)))
    for name in {*missing, OPENED_BY_NAME}:
        run(["cc", "-w", "-shared", "-fPIC", "-fno-builtin", str(source), "-o", str(folder / name)])


def linked(libraries: Iterable[Path]) -> tuple[set[str], set[Path]]:
    """The libraries that are not found when these are loaded beside torch, by name, and those that are."""
    beside_torch = {**os.environ, "LD_LIBRARY_PATH": f"{sysconfig.get_paths()['purelib']}/torch/lib"}
    missing: set[str] = set()
    found: set[Path] = set()
    for library in libraries:
        said = run(["ldd", str(library)], beside_torch)
        missing |= set(re.findall(r"(\S+) => not found", said))
        found |= {Path(path) for path in re.findall(r"=> (/\S+)", said)}
    return missing, found


def symbols(which: str, library: Path) -> set[str]:
    """Names of a library's dynamic symbols; of those that it may do without, none."""
    entries = (line.split() for line in run(["nm", "-D", which, str(library)]).splitlines())
    return {entry[-1].split("@")[0] for entry in entries if entry[-2] != "w"}


def looked_up(libraries: Iterable[Path]) -> set[str]:
    return {name.decode() for library in libraries for name in LOOKED_UP.findall(library.read_bytes())}


def stub_source(names: Iterable[str]) -> str:
    """C functions of these names."""
    return "\n".join(["#include <stdlib.h>", *(answer(name).format(name) for name in sorted(names)), ""])


def answer(name: str) -> str:
    by_prefix = (body for prefix, body in ANSWERS_BY_PREFIX.items() if name.startswith(prefix))
    return ANSWERS.get(name) or next(by_prefix, NOTHING)


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a program prints; CannotSetUpError when it is not there or fails."""
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise CannotSetUpError(f"there is no {command[0]} here") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["it says nothing"]
        raise CannotSetUpError(f"{' '.join(command[:3])} fails: {said[-1]}") from error


# ---- the trace, inside that environment ----


def trace() -> int:
    """Trace R50's steps and prediction on device 'npu', print a line each; 1 when a rule is broken."""
    import torch

    with redirect_stdout(StringIO()):  # it says that there is no CANN
        import torch_npu
    from torch._subclasses.fake_tensor import FakeTensorMode

    from gfl.engine.state import step
    from gfl.model import detector
    from gfl.operators.fake_step import RATE, fake_batch, fake_state
    from gfl.settings import OptimConfig, RunConfig

    runs = {
        "fp32, sgd": RunConfig(optim=OptimConfig(ema=0.999, clip=35.0)),
        "o1, sgd": RunConfig(optim=OptimConfig(ema=0.999), precision="o1"),
        "o1, adamw, dynamic scale": RunConfig(optim=OptimConfig("adamw"), precision="o1", loss_scale="dynamic"),
        "bf16, sgd": RunConfig(precision="bf16"),
    }
    npu, auditor, broken = torch.device("npu"), auditor_of_device(), 0
    print(f"torch {torch.__version__}, torch_npu {torch_npu.__version__}, no device: dispatch alone is checked")
    for name, cfg in runs.items():
        with FakeTensorMode():
            state = fake_state(cfg, CANVASES, npu)
            for canvas in CANVASES:
                batch = fake_batch(canvas, 2, 32, device=npu)
                with auditor() as audit:
                    step(state, [batch], RATE, cfg.optim)
                broken += tell(f"step {canvas[0]}x{canvas[1]} {name}", audit)
    with FakeTensorMode(), torch.no_grad():
        module = fake_state(runs["fp32, sgd"], CANVASES, npu).module
        for canvas in CANVASES:
            batch = fake_batch(canvas, 2, 32, device=npu)
            with auditor() as audit:
                prepared = detector.prepare(module.variables(), module.constants)
                detector.predict(prepared, batch.images, batch.image_sizes, module.grids[canvas], module.cfg)
            broken += tell(f"predict {canvas[0]}x{canvas[1]}", audit)
    return 1 if broken else 0


def auditor_of_device():  # type: ignore[no-untyped-def]  # a class, made where torch may be imported
    """The auditor, which besides asks the dispatcher itself for a kernel and runs no operator without a fake one."""
    from audit import Auditor, described
    from torch import _C

    from gfl.operators.npu import COMPOSITE, npu_support
    from gfl.operators.trace import Op, shaped

    without_fake_kernel = ("_fused_sgd_", "_fused_adamw_", "_amp_foreach_non_finite_check_and_unscale_")

    def kernel_on_device(operator: str) -> bool:
        has_kernel = _C._dispatch_has_kernel_for_dispatch_key
        forms = [operator]
        if has_kernel(operator, "CompositeExplicitAutogradNonFunctional"):  # structured: its out form's kernel runs
            packet, _, overload = operator.partition(".")
            forms += [form for form in (f"{packet}.{overload}_out", f"{packet}.out") if _C._dispatch_has_kernel(form)]
        return any(has_kernel(form, "PrivateUse1") for form in forms)

    class DeviceAuditor(Auditor):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            name = func.name()
            if func.namespace == "aten" and npu_support(name) != COMPOSITE and not kernel_on_device(name):
                self.violations.append(f"{name}({described((args, kwargs))}): the dispatcher has no kernel for the NPU")
            if func.overloadpacket.__name__ in without_fake_kernel:
                self.ops.append(Op(func, shaped((args, dict(kwargs or {}))), None))
                return None
            return super().__torch_dispatch__(func, types, args, kwargs)

    return DeviceAuditor


def tell(what: str, audit) -> int:  # type: ignore[no-untyped-def]
    """A line for a trace and one for each violation; how many there are."""
    kinds = len({op.name for op in audit.ops})
    print(f"{what}: {len(audit.ops):,} operators of {kinds} kinds, {len(audit.violations)} violations", flush=True)
    for sentence in audit.violations:
        print(f"  {sentence}")
    return len(audit.violations)


def main(argv: Sequence[str] | None = None) -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--folder", type=Path, default=FOLDER, help=f"the environment (default {FOLDER.name})")
    flags.add_argument("--inside", action="store_true", help="trace in the environment that runs this")
    arguments = flags.parse_args(argv)
    if arguments.inside:
        return trace()
    python = str(arguments.folder.resolve() / "bin" / "python")
    try:
        environment = set_up(arguments.folder.resolve(), metadata.version("torch").split("+")[0])
    except CannotSetUpError as error:
        print(f"npu-trace skipped: {error}")
        return 0
    count = "import torch_npu; print(torch_npu.npu.device_count())"
    seen = subprocess.run([python, "-c", count], env=environment, capture_output=True, text=True)
    if seen.stdout.split()[-1:] != ["1"]:
        print(f"npu-trace failed: torch_npu does not see the stubs' device\n{seen.stdout}{seen.stderr}")
        return 1
    return subprocess.run([python, __file__, "--inside"], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())

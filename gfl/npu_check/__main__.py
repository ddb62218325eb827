"""Everything that a person with an NPU should run, with one report to send back: `make npu-check`.

    DEVICE=npu make npu-check
    python -m gfl.npu_check --device npu --soc_version Ascend310P3

The parts: what gfl.doctor says; parity with the goldens of the authors' code; training steps without any fallback to
the CPU; O1 beside float32; two ranks beside one; a small model that learns; export; its detections by the checkpoint on
the device, through CANN's provider and as a .om; speed. Each runs in processes of its own and writes a log. On a
machine without the device it says what is missing and exits 2; DEVICE=cpu runs the same with a tiny model. Exit 1 where
a part failed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError
from gfl.files import make_folder
from gfl.npu_check.check import Check, Failed, Skipped, python_path
from gfl.npu_check.parts import PARTS, Part, spelled
from gfl.npu_check.processes import run
from gfl.npu_check.report import FAILED, PASSED, REPORT, SKIPPED, Outcome, Report, write_report
from gfl.npu_check.sizes import CPU, DEVICE

PROBE_S = 300.0  # CANN may take its time the first time


class About(NamedTuple):
    """What `gfl.npu_check.probe` says of a device."""

    device_name: str
    devices: int
    providers: list[str]  # of the installed onnxruntime

    def soc_version(self) -> str | None:
        """The name that ATC knows an NPU by: that which torch_npu gives it, e.g. Ascend310P3."""
        last = self.device_name.split()[-1]
        return last if last.startswith("Ascend") else None


def probe(python: str, device: str) -> About:
    """What the device offers, from a process of its own; InputError with what is missing where it is not there."""
    command = (python, "-m", "gfl.npu_check.probe", device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = {"PYTHONPATH": python_path()}
        finished = run(command, folder / "probe.log", folder=folder, variables=variables, limit_s=PROBE_S)
        said = finished.said().removeprefix("error: ")
    if finished.code is None:
        raise InputError(f"DEVICE={device} did not answer within {PROBE_S:g} s; check `npu-smi info`")
    if finished.code:
        ended = f"{' '.join(command)} ended with {finished.code} ({said}); run it by hand to see all it says"
        raise InputError(said if finished.code == 2 else ended)
    return About(**json.loads(said))


def run_part(check: Check, name: str, part: Part) -> Outcome:
    """One part, whatever becomes of it."""
    check.commands.clear()
    started = time.monotonic()
    status, reason, tail = PASSED, "", ""
    figures: Mapping[str, object] = {}
    try:
        figures = part(check)
    except Skipped as skipped:
        status, reason = SKIPPED, str(skipped)
    except Failed as failure:
        status, reason, figures, tail = FAILED, str(failure), failure.figures, failure.tail
    except Exception as error:  # a file that is not as expected; the next part must run all the same
        status, reason = FAILED, f"{type(error).__name__}: {error}"
    commands = tuple(map(spelled, check.commands))
    return Outcome(name, status, reason, figures, time.monotonic() - started, commands, tail)


def run_all(check: Check, about: Mapping[str, object], parts: Mapping[str, Part]) -> Report:
    """All parts in order; the report is written after each."""
    outcomes: list[Outcome] = []
    left = list(parts)
    report = Report(check.device, about, time.strftime("%Y-%m-%dT%H:%M:%S%z"), outcomes, left, "")
    for name, part in parts.items():
        print(f"{name:10} ", end="", flush=True)
        outcome = run_part(check, name, part)
        outcomes.append(outcome)
        left.remove(name)
        print(
            f"{outcome.status} in {outcome.seconds:.0f} s{f': {outcome.reason}' if outcome.reason else ''}", flush=True
        )
        write_report(check.folder, report._replace(doctor=doctor_text(check.folder)))
    return report


def doctor_text(folder: Path) -> str:
    """What gfl.doctor printed, where it ran."""
    log = folder / "doctor.log"
    return log.read_text(encoding="utf-8", errors="backslashreplace").strip() if log.is_file() else ""


def chosen_parts(names: Sequence[str]) -> dict[str, Part]:
    """The parts asked for, in their usual order; InputError for one that is not there."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise InputError(f"got --parts {' '.join(unknown)}, expected some of {', '.join(PARTS)}")
    return {name: part for name, part in PARTS.items() if name in names or not names}


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m gfl.npu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--device", default="npu", choices=("npu", "cuda", "cpu"), help="what to check (default npu)")
    flags.add_argument("--output", type=Path, help="a new folder (default runs/npu_check/<time>)")
    flags.add_argument("--parts", nargs="+", default=[], metavar="PART", help=f"only these of {', '.join(PARTS)}")
    flags.add_argument("--soc_version", help="of the NPU, for ATC (default: the name that torch_npu gives it)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Check as the command line says; 0, 1 where a part failed, 2 on a user's mistake or without the device."""
    arguments = parser().parse_args(argv)
    folder = (arguments.output or Path("runs") / "npu_check" / time.strftime("%Y%m%d-%H%M%S")).resolve()
    try:
        parts = chosen_parts(arguments.parts)
        if folder.exists():
            raise InputError(f"{folder} is there already, expected a new folder; give another --output")
        about = probe(sys.executable, arguments.device)
        make_folder(folder)
        sizes = CPU if arguments.device == "cpu" else DEVICE
        check = Check(
            device=arguments.device,
            devices=about.devices,
            providers=about.providers,
            sizes=sizes,
            folder=folder,
            python=sys.executable,
            soc_version=arguments.soc_version or about.soc_version(),
        )
        devices = f"{about.devices} device{'s' if about.devices > 1 else ''}"
        print(f"checking {about.device_name} ({devices}); logs and report in {folder}", flush=True)
        for recipe in (sizes.steps, sizes.learning):
            recipe.write_data(check.data(recipe.name))
        report = run_all(check, about._asdict(), parts)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; what is known so far is in {folder}", file=sys.stderr)
        return 130
    counts = ", ".join(f"{count} {status}" for status, count in report.counts().items())
    print(f"\n{counts}\nsend back {folder / f'{REPORT}.md'}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a batch system sends: end the running part, too
    sys.exit(main())

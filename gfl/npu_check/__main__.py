"""Everything that a person with an NPU should run, with one report to send back: `make npu-check`.

    DEVICE=npu make npu-check
    python -m gfl.npu_check --device npu --soc_version Ascend310P3

The parts: the report of gfl.doctor; parity with the goldens of the authors' code; training steps with fallback to the
CPU forbidden; O1 compared with float32; two ranks compared with one; a small model that learns; export; the detections
of the checkpoint on the device, of CANN's provider and of a .om; speed. Each runs in processes of its own and writes a
log. Without the device the program says what is missing and exits 2; DEVICE=cpu runs the same with a tiny model. It
exits 1 where a part failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gfl.data.synthetic import write_synthetic
from gfl.errors import InputError
from gfl.files import make_folder
from gfl.npu_check.check import Check, Failed, Skipped, python_path
from gfl.npu_check.parts import PARTS, Part
from gfl.npu_check.processes import run
from gfl.npu_check.report import FAILED, PASSED, REPORT, SKIPPED, Outcome, Report, write_report
from gfl.npu_check.sizes import CPU, DEVICE
from gfl.say import say
from gfl.signals import exit_code, interrupt_on_sigterm

PROBE_TIMEOUT_S = 300.0  # CANN may be slow the first time


class DeviceInfo(NamedTuple):
    """What `gfl.npu_check.probe` reports of a device."""

    device_name: str
    devices: int
    providers: list[str]  # of the installed onnxruntime

    def soc_version(self) -> str | None:
        """The name of an NPU for ATC, e.g. Ascend310P3: torch_npu gives the same; None for other devices."""
        last = self.device_name.split()[-1]
        return last if last.startswith("Ascend") else None


def probe(python: str, device: str) -> DeviceInfo:
    """Ask a process of its own about the device; InputError with what is missing where it is not there."""
    command = (python, "-m", "gfl.npu_check.probe", device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variables = {"PYTHONPATH": python_path()}
        finished = run(command, folder / "probe.log", folder=folder, variables=variables, limit_s=PROBE_TIMEOUT_S)
        answer = finished.last_line().removeprefix("error: ")
    if finished.code is None:
        raise InputError(f"DEVICE={device} did not answer within {PROBE_TIMEOUT_S:g} s; check `npu-smi info`")
    if finished.code:
        ended = f"{' '.join(command)} ended with {finished.code} ({answer}); run it by hand to see all it says"
        raise InputError(answer if finished.code == 2 else ended)
    return DeviceInfo(**json.loads(answer))


def run_part(check: Check, name: str, part: Part) -> Outcome:
    """Run one part; whatever it raises is in the outcome."""
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
    except Exception as error:  # a file that is not as expected; the next part must still run
        status, reason = FAILED, f"{type(error).__name__}: {error}"
    commands = tuple(finished.shell_text() for finished in check.commands)
    return Outcome(name, status, reason, figures, time.monotonic() - started, commands, tail)


def run_all(check: Check, info: Mapping[str, object], parts: Mapping[str, Part]) -> Report:
    """Run all parts in order, and write the report after each. info: of the device, for the report."""
    report = Report(check.device, info, time.strftime("%Y-%m-%dT%H:%M:%S%z"), [], list(parts))
    for name, part in parts.items():
        say(f"{name:10} ", end="")
        outcome = run_part(check, name, part)
        report.outcomes.append(outcome)
        report.left.remove(name)
        reason = f": {outcome.reason}" if outcome.reason else ""
        write_report(check.folder, report)
        say(f"{outcome.status} in {outcome.seconds:.0f} s{reason}")
    return report


def chosen_parts(names: Sequence[str]) -> dict[str, Part]:
    """The parts of these names in their usual order, all for no names; InputError for an unknown name."""
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
        info = probe(sys.executable, arguments.device)
        make_folder(folder)
        sizes = CPU if arguments.device == "cpu" else DEVICE
        check = Check(
            device=arguments.device,
            devices=info.devices,
            providers=info.providers,
            sizes=sizes,
            folder=folder,
            python=sys.executable,
            soc_version=arguments.soc_version or info.soc_version(),
        )
        devices = f"{info.devices} device{'s' if info.devices > 1 else ''}"
        say(f"checking {info.device_name} ({devices}); logs and report in {folder}")
        for recipe in (sizes.steps, sizes.learning):
            pictures = check.data(recipe.name)
            write_synthetic(pictures, train=recipe.train, val=recipe.val, size_hw=recipe.pictures_hw)
        report = run_all(check, info._asdict(), parts)
    except InputError as error:
        say(f"error: {error}", error=True)
        return 2
    except KeyboardInterrupt as stopped:
        say(f"\nstopped; what is known so far is in {folder}", error=True)
        return exit_code(stopped)
    say(f"\n{report.counts_text()}\nsend back {folder / f'{REPORT}.md'}")
    return 1 if report.counts()[FAILED] else 0


if __name__ == "__main__":
    interrupt_on_sigterm()  # the running part ends, too
    sys.exit(main())

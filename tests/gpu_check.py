"""Runs what needs a GPU, part by part, and writes one report: bash tools/gpu_check.sh OUT_DIR [--device cpu]."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import torch

from cankd.openmmlab.analysis.benchmark import environment, headline, markdown_table
from cankd.openmmlab.compat import TESTED
from cankd.utils.command_line import one_line_errors
from cankd.utils.files import write_text
from tests.conftest import ROOT

STEP = "configs/distill/mmdet/cankd/cankd_fpn_retinanet_r101_retinanet_r50_2x_coco.py"
OPTIONS = "channels_last fused fused+channels_last eval bfloat16 bfloat16+fused+channels_last"


@dataclass(frozen=True)
class Part:
    """One command of the check.

    Attributes:
        name: name of the part and of its files.
        limit: seconds that are planned for it.
        arguments: what the interpreter is given.
        report: function of the part's folder that returns its results in Markdown.
    """

    name: str
    limit: int
    arguments: Sequence[str]
    report: Callable[[Path], str]


def read_tests(folder: Path) -> str:
    """Returns how many tests passed, failed and were skipped, and the names of those that failed."""
    cases = list(xml.etree.ElementTree.parse(folder / "junit.xml").iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    names = [f"- failed: {case.get('classname')}::{case.get('name')}" for case in failed]
    passed = len(cases) - len(failed) - len(skipped)
    return "\n".join([f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped.", "", *names])


def read_quickstart(folder: Path) -> str:
    """Returns AP, AP50 and seconds of the quickstart."""
    summary = json.loads((folder / "out/summary.json").read_text())
    rows = [
        [name, *(f"{summary[name][key]:.1f}" for key in ("AP", "AP50"))] for name in ("teacher", "student", "cankd")
    ]
    seconds = ", ".join(f"{name} {value} s" for name, value in summary["seconds"].items())
    return f"{markdown_table(['model', 'AP', 'AP50'], rows)}\n\n{summary['iterations']} iterations; {seconds}."


def make_parts(out: Path, device: str) -> list[Part]:
    """Returns the parts of the check.

    Args:
        out: folder to write to; each part has a folder of its name there.
        device: ``cuda``, or ``cpu`` for a rehearsal at small sizes.
    """

    def part(name: str, limit: int, report: Callable[[Path], str], command: str) -> Part:
        return Part(name, limit, command.format(folder=out / name).split(), report)

    def table(tool: str) -> Callable[[Path], str]:
        return lambda folder: (folder / f"{tool}.md").read_text()

    loss = "tools/analysis_tools/benchmark_loss.py --out {folder} --device " + device
    step = "tools/analysis_tools/benchmark_step.py --out {folder} --device " + device
    quickstart = "tools/quickstart.py --out {folder}/out --data {folder}/data"
    tests = "-m pytest -q -m gpu -p no:cacheprovider --junitxml {folder}/junit.xml --device " + device
    loss_report, step_report = table("benchmark_loss"), table("benchmark_step")
    if device == "cuda":
        # TF32 is what torch uses by itself for convolutions, float16 what mixed precision uses.
        loss += " --levels P2 P3 P4 P5 seg --dtypes float32 tf32 float16 bfloat16"
        step += f" {STEP} --shape 800 1344 --batch 2 --amp --steps plain teacher"
        quickstart += " --iterations 300 --train-images 1000 --val-images 100"
        return [
            part("loss", 70, loss_report, loss),
            part("step", 90, step_report, f"{step} published ours {OPTIONS}"),
            part("compiled_teacher", 70, step_report, f"{step} ours compiled"),
            part("quickstart", 110, read_quickstart, quickstart),
            part("tests", 190, read_tests, f"{tests} tests"),
        ]
    step += " configs/demo/quickstart_cankd.py --shape 64 64 --repeats 1 --steps plain published ours"
    quickstart += " --iterations 2 --train-images 16 --val-images 4"
    return [
        part("tests", 80, read_tests, f"{tests} tests/losses/test_precision.py"),
        part("loss", 110, loss_report, f"{loss} --levels 1x16x40x48 --implementations naive ours --repeats 3"),
        part("step", 110, step_report, step),
        part("quickstart", 230, read_quickstart, quickstart),
    ]


def run(part: Part, folder: Path, limit: float) -> dict[str, Any]:
    """Runs a part and returns its command, its seconds, its outcome and its results.

    Args:
        part: part to run.
        folder: folder of the part; the log is written beside it.
        limit: seconds after which it is stopped, with all processes that it started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, start = folder.with_suffix(".log"), time.time()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *part.arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # a part that is stopped leaves its whole log
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
            outcome = "passed" if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            outcome = f"stopped after {limit:.0f} s"
    try:
        results = part.report(folder)
    except (OSError, xml.etree.ElementTree.ParseError):
        results = f"No results. The log, {log.name}, ends:\n\n```text\n{log.read_text(errors='replace')[-2000:]}\n```"
    command = " ".join(["python", *part.arguments])
    return {"command": command, "seconds": round(time.time() - start, 1), "outcome": outcome, "results": results}


def write_report(out: Path, report: dict[str, Any]) -> None:
    """Writes ``gpu_check.json`` and ``gpu_check.md``."""
    lines = [
        "# Check on a GPU" if report["machine"]["cuda"] else "# Rehearsal on a CPU",
        headline(report["machine"]),
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"GPUs: {report['gpus']}. Two processes: {report['two_processes']}.",
    ]
    parts = report["parts"]
    rows = [[name, part["outcome"], f"{part['seconds']:.0f}", f"`{part['command']}`"] for name, part in parts.items()]
    lines += [markdown_table(["part", "outcome", "seconds", "command"], rows)]
    lines += [f"## {name}: {part['outcome']}\n\n{part['results'].strip()}" for name, part in parts.items()]
    write_text(out / "gpu_check.json", json.dumps(report, indent=1) + "\n")
    write_text(out / "gpu_check.md", "\n\n".join(lines) + "\n")


def check(parts: Sequence[Part], out: Path, device: str, tell: Callable[[str], None]) -> bool:
    """Runs all parts, writes the report after each, and returns whether all passed.

    Args:
        parts: parts to run in turn; time that one leaves over is added to the next one's.
        out: folder to write to.
        device: ``cuda`` or ``cpu``.
        tell: takes a line about each part.
    """
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    report: dict[str, Any] = {
        "machine": {**environment(device), "command": f"bash tools/gpu_check.sh {out} --device {device}"},
        "versions": {name: str(importlib.import_module(name).__version__) for name in TESTED},
        "gpus": gpus,
        "two_processes": "NCCL" if gpus > 1 else "gloo on the CPU; NCCL needs two GPUs and was not run",
        "parts": {},
    }
    end = time.time()
    for part in parts:
        end += part.limit
        tell(f"{part.name} ...")
        done = run(part, out / part.name, end - time.time())
        tell(f"{part.name}: {done['outcome']}, {done['seconds']:.0f} s")
        report["parts"][part.name] = done
        write_report(out, report)
    tell(f"Wrote gpu_check.md and gpu_check.json to {out}")
    return all(part["outcome"] == "passed" for part in report["parts"].values())


@one_line_errors()
def main() -> None:
    """Runs the check.

    Raises:
        SystemExit: with status 1 if a part failed.
    """
    parser = argparse.ArgumentParser(prog="bash tools/gpu_check.sh", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder to write to")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal at small sizes")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device: got cuda on a machine without a GPU. Use --device cpu for a rehearsal.")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the parts; their tools would choose a GPU
    out = args.out.resolve()
    if out.exists() and any(out.iterdir()):
        sys.exit(f"OUT_DIR: got {args.out}, which holds files, expected a new or an empty folder.")
    sys.exit(not check(make_parts(out, args.device), out, args.device, functools.partial(print, flush=True)))


if __name__ == "__main__":
    main()

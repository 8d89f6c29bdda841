"""Measures what a distillation step costs beside a plain training step of the student.

python tools/analysis_tools/benchmark_step.py CONFIG [--shape H W] [--batch N] [--device cpu|cuda] [--amp]
    [--steps plain teacher published ours ...] [--repeats N] [--rounds N] [--threads N] [--out DIR]
    [--cfg-options KEY=VALUE ...]

Steps: `plain` is the student alone, `teacher` the teacher's forward pass alone, as far as its recorders
need it, `published` mmrazor's algorithm with CanKD's loss in the paper's order, `ours` PartialTeacherDistill
with this package's loss; the others are `ours` with options of the teacher. The images are random.
Weights are random, too, unless teacher_ckpt=FILE is among the --cfg-options; either is the same in
each step. A measurement is from the images to the optimizer's step, on a CPU in a process of its own.
If the first step's losses differ between `published` and `ours`, nothing is printed. Writes
benchmark_step.json and benchmark_step.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Sequence

import torch

from cankd.openmmlab.analysis.benchmark import environment, headline, joined, measuring
from cankd.openmmlab.analysis.benchmark_step import ALGORITHMS, STEPS, check, check_config, measure_one, table
from cankd.openmmlab.commands.arguments import add_cfg_options
from cankd.openmmlab.configs import read_config
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = command_parser(__doc__)
    parser.add_argument("config", help=f"a distillation configuration, of {', '.join(ALGORITHMS)}")
    parser.add_argument("--shape", nargs=2, type=at_least(1), help="image size; 800 1344 on a GPU, 400 672 on a CPU")
    parser.add_argument("--batch", type=at_least(1), default=2 if gpu else 1, help="images in a step")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if gpu else "cpu")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision, on a GPU")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=[step for step in STEPS if step != "compiled"])
    parser.add_argument("--repeats", type=at_least(1), default=7, help="timed steps of each kind")
    parser.add_argument(
        "--rounds",
        type=at_least(1),
        default=1,
        help="repetitions of the whole list of steps, so that a drift of the machine's speed affects all alike",
    )
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark_step"), help="folder to write to")
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    args.shape = args.shape or ([800, 1344] if args.device == "cuda" else [400, 672])
    return args


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_config(read_config(args.config, args.cfg_options))
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device: got cuda on a machine without a GPU. Use --device cpu.")
    if args.amp and args.device == "cpu":
        sys.exit("--amp: got --device cpu, which AmpOptimWrapper does not support. Leave it out.")
    options = {key: getattr(args, key) for key in ("shape", "batch", "device", "amp", "repeats", "threads")}
    start = time.time()
    measured: dict[str, list] = {step: [] for step in args.steps}
    with measuring(args.device) as call:
        for step in args.steps * args.rounds:
            print(f"[{time.time() - start:4.0f} s] {step}", file=sys.stderr, flush=True)
            measured[step].append(call(measure_one, step, args.config, args.cfg_options, options))
    rows = [joined(rounds) for rounds in measured.values()]
    check(rows, args.device)
    report = {"machine": environment(args.device), "config": args.config, **options, "rows": rows}
    size = f"{args.batch} x {args.shape[0]} x {args.shape[1]}{', AMP' if args.amp else ''}"
    lines = [f"{Path(args.config).stem}, {size}. {headline(report['machine'])}", "", table(rows, args.batch), ""]
    for name, cost in next((row["checkpoint"] for row in rows if "checkpoint" in row), {}).items():
        lines.append(f"weights in a checkpoint {name}: {cost['bytes'] / 1e6:.1f} MB, {cost['seconds']:.2f} s")
    write_text(args.out / "benchmark_step.json", json.dumps(report, indent=1) + "\n")
    write_text(args.out / "benchmark_step.md", "\n".join(lines).strip() + "\n")
    print("\n".join(lines))
    print(f"Wrote benchmark_step.json and .md to {args.out}")

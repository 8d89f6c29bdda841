"""Compares methods on the same data over several seeds, two trainings side by side.

python tools/study.py [MATRIX.yml] [--only PATTERN ...] [--list]

The matrix names data sets, students, teachers and rows; configs/study/study.yml is the default. Runs whose record is
there are left out, and a training that was stopped goes on from its newest checkpoint, so that a study can be stopped
at any time and started again. Names of runs are DATA/ROW/seedN; --only 'bccd/cankd*' chooses some of them.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import signal
import sys
from pathlib import Path
from typing import Sequence

from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.compat import configs_folder
from cankd.openmmlab.study import Run, Study, carry_out, measure_costs
from cankd.utils.command_line import at_least, command_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    matrix = configs_folder() / "study" / "study.yml"
    parser.add_argument("matrix", type=Path, nargs="?", default=matrix, help="default configs/study/study.yml")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of the runs; default: all")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/study"), help="default work_dirs/study")
    parser.add_argument("--records", type=Path, default=Path("logfile/study"), help="default logfile/study")
    parser.add_argument("--processes", type=at_least(1), default=2, help="trainings at a time; default 2")
    parser.add_argument("--list", action="store_true", help="print the runs and their results, and train nothing")
    parser.add_argument(
        "--costs",
        action="store_true",
        help="measure the time of a step and the memory of each row anew, and train nothing",
    )
    parser.add_argument(
        "--robustness", action="store_true", help="measure the robustness of the runs trained here, and train nothing"
    )
    return parser.parse_args(argv)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    tell = functools.partial(print, flush=True)
    study = Study.read(args.matrix, args.out, args.records)

    def wanted(run: Run) -> bool:
        return any(fnmatch.fnmatch(run.name, pattern) for pattern in args.only)

    chosen = [run for run in study.runs() if wanted(run)]
    if not chosen:
        raise ValueError(f"--only: got {' '.join(args.only)}, which no run matches. --list prints their names.")
    if args.list:
        for run in chosen:
            result = study.result(run)
            print(f"{run.name:40}{'to do' if result is None else f'{result:.2f}'}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))  # so that the trainings end, too
    if args.costs:
        measure_costs(study, wanted, tell)
        return
    failed = carry_out(study, wanted, args.processes, tell, args.robustness)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}. The .log files beside their work dirs say why.")

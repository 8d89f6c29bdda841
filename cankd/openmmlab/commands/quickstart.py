"""Distils a small detector on the spot and shows what it gained.

Trains the same student twice, alone and under the shipped teacher: same initial weights, same
order of the data, same schedule. Writes summary.json, pictures and report.html to work_dirs/quickstart.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from pathlib import Path
from typing import Sequence

from mmengine.logging import MMLogger

from cankd.openmmlab.quickstart import distil
from cankd.utils.command_line import at_least, command_parser, one_line_errors


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of initial weights and order of the data")
    parser.add_argument("--iterations", type=at_least(1), default=1200, help="training iterations of each student")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/quickstart"))
    parser.add_argument("--data", type=Path, default=Path("data/quickstart"))
    parser.add_argument("--train-images", type=at_least(1), default=6000, help="generated training scenes")
    parser.add_argument("--val-images", type=at_least(1), default=400, help="generated validation scenes")
    parser.add_argument("--train-teacher", action="store_true", help="train the teacher anew (about 40 minutes)")
    return parser.parse_args(argv)


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))  # so that the trainings end, too
    MMLogger.get_current_instance().setLevel("WARNING")  # initialisation logs every tensor
    summary = distil(**vars(args), tell=functools.partial(print, flush=True))
    print(f"\n{'':10}{'AP':>6}{'AP50':>7}")
    for name in ("teacher", "student", "cankd"):
        print(f"{name:10}{summary[name]['AP']:6.1f}{summary[name]['AP50']:7.1f}")
    print(f"\n{summary['seconds']['all']:.0f} s. Pictures and summary.json are in {args.out}.")

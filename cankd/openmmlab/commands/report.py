"""Writes one HTML page about trainings: curves, comparison, pictures, cost and configurations; it needs no network.

python tools/analysis_tools/report.py WORK_DIR [WORK_DIR ...] [--out report.html] [--images N]

A WORK_DIR is a folder that a training wrote, or one that contains such folders at any depth. Runs are grouped by data,
method and seed, and each method is compared with the student alone. Results of `cankd robustness --out
WORK_DIR/robustness.pkl` are shown, too.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Sequence

from mmengine.device import get_device

from cankd.openmmlab.commands.arguments import add_cfg_options, add_trust_argument
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.report import write_report
from cankd.utils.command_line import at_least, command_parser
from cankd.utils.files import check_writable


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("work_dirs", nargs="+", type=Path, metavar="WORK_DIR", help="folders of trainings")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write; default report.html")
    parser.add_argument(
        "--images",
        type=at_least(0),
        default=100,
        help="validation images of the confusion matrices, the first of which are drawn with predictions and maps; "
        "default 100, 0 for none",
    )
    parser.add_argument("--device", default=get_device(), help="device of the models; a GPU by default if there is one")
    add_cfg_options(parser)
    add_trust_argument(parser)
    return parser.parse_args(argv)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_writable(args.out)
    tell = functools.partial(print, flush=True)
    write_report(args.work_dirs, args.out, args.images, args.device, args.cfg_options, tell)
    print(f"Wrote {args.out}, {args.out.stat().st_size / 1e6:.1f} MB")

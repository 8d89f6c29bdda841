"""Draws accuracy and losses of several runs over time, side by side (supplement, Figure 3).

python tools/analysis_tools/plot_curves.py RUN [RUN ...] --out FILE.png [--names NAME ...] [--keys PATTERN ...]

A RUN is a work dir or a scalars.json. Writes FILE.png, one chart for each quantity with one curve
for each run, and FILE.csv with the same numbers.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Sequence

from cankd.openmmlab.analysis.curves import choose, find_scalars, read_curves, to_csv
from cankd.openmmlab.visualization.charts import draw_chart_grid
from cankd.utils.command_line import command_parser, one_line_errors
from cankd.utils.files import write_text

# The accuracy of a detector, a segmenter, a classifier, and every loss.
DEFAULT_KEYS = ("*bbox_mAP", "*mIoU", "*accuracy/top1", "*loss*")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("runs", nargs="+", help="work dirs or scalars.json files")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write; the CSV lies beside it")
    parser.add_argument("--names", nargs="+", help="names of the runs, in their order; the paths by default")
    parser.add_argument(
        "--keys",
        nargs="+",
        default=DEFAULT_KEYS,
        help="names of what to draw, * and ? stand for any text; accuracies and losses by default",
    )
    parser.add_argument(
        "--level",
        action="append",
        nargs=3,
        default=[],
        metavar=("KEY", "NAME", "VALUE"),
        help="a horizontal line, such as the teacher's accuracy: --level coco/bbox_mAP teacher 0.605",
    )
    parser.add_argument("--iterations-per-epoch", type=float, help="draw over epochs instead of iterations")
    return parser.parse_args(argv)


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    names = args.names or args.runs
    if len(names) != len(args.runs) or len(set(names)) != len(names):
        sys.exit(f"--names: got {names}, expected {len(args.runs)} different names, one for each run.")
    if args.out.suffix.lower() != ".png":
        sys.exit(f"--out: got {args.out}, expected a name that ends in .png.")
    if args.iterations_per_epoch is not None and args.iterations_per_epoch <= 0:
        sys.exit(f"--iterations-per-epoch: got {args.iterations_per_epoch}, expected a positive number.")
    levels: dict[str, dict[str, float]] = {}
    logged = {name: read_curves(find_scalars(run)) for name, run in zip(names, args.runs)}
    for key, name, value in args.level:
        levels.setdefault(key, {})[name] = float(value)

    runs, chosen = choose(logged, args.keys, list(levels))
    per_x = args.iterations_per_epoch or 1
    charts = {
        key: {
            run: ([x / per_x for x in curves[key].iterations], curves[key].values)
            for run, curves in runs.items()
            if key in curves
        }
        for key in chosen
    }
    write_text(args.out.with_suffix(".csv"), to_csv(runs))
    draw_chart_grid(charts, "epoch" if args.iterations_per_epoch else "iteration", args.out, levels)
    print(f"Wrote {len(charts)} charts of {len(runs)} runs to {args.out} and {args.out.with_suffix('.csv')}")

"""Measures time and memory of CanKD's loss, forward and backward, in the paper's order and in linear order.

python tools/analysis_tools/benchmark_loss.py [--levels P3 P4 | BxCxHxW ...] [--dtypes float32 bfloat16]
    [--device cpu|cuda] [--implementations naive linear ours compiled] [--repeats N] [--out DIR]

`naive` is the plain specification in the paper's order of products (cankd/losses/cankd_naive.py), `linear`
the same code in linear order, `ours` NLKDINLoss, and `compiled` NLKDINLoss under torch.compile. The floor is
the least time that the device needs, by its measured bandwidth and its measured rate of matrix products.
On a CPU every measurement runs in a process of its own. First all implementations are compared with the naive loss:
on small odd sizes value by value, and on the measured sizes by the norms of loss and gradients. If they
differ, nothing is printed. Writes benchmark_loss.json, benchmark_loss.md and benchmark_loss.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Sequence

import torch

from cankd.openmmlab.analysis.benchmark import available_bytes, environment, headline, measuring
from cankd.openmmlab.analysis.benchmark_loss import (
    DTYPES,
    LEVELS,
    attention_bytes,
    check,
    check_norms,
    draw,
    floor_seconds,
    measure_one,
    measure_rates,
    table,
)
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import write_text


def shape_of(level: str) -> tuple[int, ...]:
    """Returns the shape of a map from the name of a level or from BxCxHxW.

    Raises:
        argparse.ArgumentTypeError: if it is neither.
    """
    parts = level.split("x")
    if level not in LEVELS and not (len(parts) == 4 and all(part.isdigit() and int(part) > 1 for part in parts[1:])):
        raise argparse.ArgumentTypeError(
            f"got {level!r}, expected one of {', '.join(LEVELS)}, or BxCxHxW as 2x256x100x168, each of C, H, W over 1."
        )
    return LEVELS.get(level) or tuple(map(int, parts))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--levels", nargs="+", type=shape_of, metavar="LEVEL", default=[LEVELS[n] for n in LEVELS])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--implementations",
        nargs="+",
        choices=["naive", "linear", "ours", "compiled"],
        default=["naive", "linear", "ours"],
    )
    parser.add_argument("--repeats", type=at_least(1), default=11, help="timed passes of each measurement")
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark_loss"), help="folder to write to")
    return parser.parse_args(argv)


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device: got cuda on a machine without a GPU. Use --device cpu.")
    names = {shape: name for name, shape in LEVELS.items()}
    options = {"device": args.device, "threads": args.threads, "repeats": args.repeats}
    start = time.time()

    def tell(what: str) -> None:
        print(f"[{time.time() - start:4.0f} s] {what}", file=sys.stderr, flush=True)

    tell("comparing with the naive loss")
    check(args.implementations, args.dtypes, args.device)
    rows, left_out = [], []
    with measuring(args.device) as call:
        for kind in args.dtypes:
            tell(f"{kind}: what the device can do")
            rates = call(measure_rates, "rates", kind, options)
            for shape in args.levels:
                level = names.get(shape, "x".join(map(str, shape)))
                common = {"level": level, "shape": shape, "dtype": kind}
                for implementation in args.implementations:
                    tell(f"{level} {kind} {implementation}")
                    needed = attention_bytes(shape, kind)
                    if implementation == "naive" and needed > 0.9 * available_bytes(args.device):
                        left_out.append({**common, "implementation": "naive", "needed_bytes": needed})
                        continue
                    label = f"{level} {kind} {implementation}"
                    result = call(measure_one, label, implementation, shape, kind, options)
                    rows.append({**common, "implementation": implementation, **result})
                least = floor_seconds(shape, kind, rates)
                rows.append({**common, "implementation": "floor", "median": least, **rates})
    measured = [row for row in rows if row["implementation"] != "floor"]
    check_norms(measured)
    machine = environment(args.device)
    report = {"machine": machine, "rows": rows, "left_out": left_out}
    lines = [headline(machine), "", table(rows), ""]
    for row in left_out:
        gigabytes = f"{row['needed_bytes'] / 1e9:.1f} GB"
        lines.append(f"{row['level']} {row['dtype']}: the paper's order needs over {gigabytes}; not run.")
    write_text(args.out / "benchmark_loss.json", json.dumps(report, indent=1) + "\n")
    write_text(args.out / "benchmark_loss.md", "\n".join(lines).strip() + "\n")
    draw(rows, machine, args.out / "benchmark_loss.png")
    print("\n".join(lines))
    print(f"Wrote benchmark_loss.json, .md and .png to {args.out}")

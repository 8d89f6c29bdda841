"""Counts parameters and multiply-adds of distillation losses: supplement Table 5, and what it leaves out.

python tools/analysis_tools/complexity.py [--shape 2 256 64 64] [--out FILE.json]

The first count is the table's, by thop: convolutions and norms. The second also has the matrix
products, CanKD's in the paper's order and in the linear order that cankd computes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cankd  # noqa: F401  (makes mmrazor's modules importable)
from cankd.analysis.complexity import loss_costs
from cankd.analysis.files import one_line_errors, write_text

# Supplement, Table 5, for 2 x 256 x 64 x 64: FLOPs in G and parameters in M.
PAPER = {"FKD": (3.23, 0.46), "MGD": (9.66, 1.18), "FGD": (None, 0.14), "CanKD, paper's order": (1.09, 0.13)}
PAPER_SHAPE = (2, 256, 64, 64)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=4, type=int, default=PAPER_SHAPE, help="of both maps, B C H W")
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args()


def figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main() -> None:
    args = parse_args()
    shape = tuple(args.shape)
    if min(shape) < 1 or min(shape[1:]) < 2:
        sys.exit(f"--shape: got {shape}, expected B C H W, at least 1 2 2 2.")
    costs = loss_costs(shape)
    print(f"two maps of {' x '.join(map(str, shape))}, G multiply-adds of a forward pass\n")
    print(f"{'':22}{'parameters, M':>14}{'paper':>7}{'by thop':>10}{'paper':>7}{'with products':>15}")
    for name, cost in costs.items():
        flops, parameters = PAPER.get(name, (None, None)) if shape == PAPER_SHAPE else (None, None)
        cells = f"{cost.parameters / 1e6:14.3f}{figure(parameters, 2):>7}{cost.thop / 1e9:10.3f}{figure(flops, 2):>7}"
        print(f"{name:22}{cells}{cost.counted / 1e9:15.3f}")
    if args.out:
        rows = {name: cost._asdict() for name, cost in costs.items()}
        with one_line_errors():
            write_text(args.out, json.dumps({"shape": shape, "multiply_adds": rows}, indent=1) + "\n")
        print(f"\nWrote {args.out}")


if __name__ == "__main__":
    main()

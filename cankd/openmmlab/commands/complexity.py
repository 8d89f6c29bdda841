"""Counts parameters and multiply-adds: of distillation losses, or of a configuration's models.

python tools/analysis_tools/complexity.py [--shape 2 256 64 64] [--out FILE.json]

Supplement Table 5, and what it leaves out. The first count is the table's, by thop: convolutions and norms.
The second also has the matrix products, CanKD's in the paper's order and in the linear order that cankd computes.

python tools/analysis_tools/complexity.py CONFIG [--input-shape H W] [--out FILE.json]

Student and teacher of a distillation, or a single model, as mmengine counts them. Table 4's columns are those
without auxiliary heads, norms and resizing, for 1024 x 2048. No checkpoint is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Sequence

from cankd.openmmlab.analysis.complexity import loss_costs, model_cost
from cankd.openmmlab.configs import is_distillation_config, read_config, repo_of
from cankd.openmmlab.loading import ROLES
from cankd.utils.command_line import command_parser, figure, one_line_errors
from cankd.utils.files import write_text

# Supplement, Table 5, for 2 x 256 x 64 x 64: FLOPs in G and parameters in M.
PAPER = {"FKD": (3.23, 0.46), "MGD": (9.66, 1.18), "FGD": (None, 0.14), "CanKD, paper's order": (1.09, 0.13)}
PAPER_SHAPE = (2, 256, 64, 64)
IMAGES = {"mmdet": (800, 1333), "mmseg": (1024, 2048)}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", nargs="?", help="count this configuration's models instead of the losses")
    parser.add_argument("--shape", nargs=4, type=int, default=PAPER_SHAPE, help="shape of both maps, B C H W")
    parser.add_argument(
        "--input-shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="size of the image; by default 800 1333 for detectors, 1024 2048 for segmenters, 224 224 for classifiers",
    )
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args(argv)


def count_losses(shape: tuple[int, int, int, int]) -> dict:
    """Prints the losses' costs and returns them."""
    costs = loss_costs(shape)
    print(f"two maps of {' x '.join(map(str, shape))}, G multiply-adds of a forward pass\n")
    print(f"{'':22}{'parameters, M':>14}{'paper':>7}{'by thop':>10}{'paper':>7}{'with products':>15}")
    for name, cost in costs.items():
        flops, parameters = PAPER.get(name, (None, None)) if shape == PAPER_SHAPE else (None, None)
        cells = f"{cost.parameters / 1e6:14.3f}{figure(parameters, 2):>7}{cost.thop / 1e9:10.3f}{figure(flops, 2):>7}"
        print(f"{name:22}{cells}{cost.counted / 1e9:15.3f}")
    return {"shape": shape, "multiply_adds": {name: cost._asdict() for name, cost in costs.items()}}


def count_models(config: str, shape: tuple[int, int] | None) -> dict:
    """Prints the models' costs and returns them."""
    cfg = read_config(config)
    shape = shape or IMAGES.get(repo_of(cfg), (224, 224))
    print(f"one image of {shape[0]} x {shape[1]}, multiply-adds and the like of a forward pass\n")
    print(f"{'':10}{'parameters, M':>14}{'as table 4':>12}{'operations, G':>15}{'as table 4':>12}")
    costs = {}
    for role in ROLES if is_distillation_config(cfg) else ("model",):
        cost = costs[role] = model_cost(cfg, shape, role if role in ROLES else "student")
        operations, parameters = cost.printed
        cells = f"{cost.parameters / 1e6:14.2f}{parameters / 1e6:12.2f}{cost.total / 1e9:15.2f}{operations / 1e9:12.2f}"
        uncounted = "".join(f"   not counted: {calls} {name}" for name, calls in cost.uncounted.items())
        print(f"{role:10}{cells}{uncounted}", flush=True)
    return {"config": config, "image": shape, "models": {role: cost._asdict() for role, cost in costs.items()}}


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    shape = tuple(args.shape)
    if min(shape) < 1 or min(shape[1:]) < 2:
        sys.exit(f"--shape: got {shape}, expected B C H W, at least 1 2 2 2.")
    if args.input_shape and (not args.config or min(args.input_shape) < 32):
        sys.exit(f"--input-shape: got {args.input_shape}, expected H W of at least 32 behind a CONFIG.")
    costs = count_models(args.config, args.input_shape) if args.config else count_losses(shape)
    if args.out:
        write_text(args.out, json.dumps(costs, indent=1) + "\n")
        print(f"\nWrote {args.out}")

"""Evaluates a checkpoint: the student of a distillation configuration, or the model of any other.

The checkpoint may be a distillation's or the model's own, whichever the configuration is; a tensor that is
missing from it or does not fit is an error.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out PREDICTIONS.pkl] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from typing import Sequence

from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.commands.running import add_run_arguments, leave_process_group, load_config, run_errors
from cankd.openmmlab.engine.predictions import DumpPredictions
from cankd.openmmlab.engine.runner import StudentRunner, unwrapped
from cankd.openmmlab.loading import load_weights
from cankd.utils.command_line import command_parser
from cankd.utils.files import check_writable


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file or URL, or 'none' to evaluate initial weights")
    parser.add_argument("--out", help="write the predictions to this .pkl file, for the analysis tools")
    return parser.parse_args(argv)


def test(args: argparse.Namespace) -> None:
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out: got {args.out}, expected a name that ends in .pkl.")
    if args.out:
        check_writable(args.out)
    cfg = load_config(args, derive=False)  # the student alone is built
    cfg.load_from = None
    runner = StudentRunner.from_cfg(cfg)
    if args.checkpoint != "none":
        checkpoint = Checkpoint.read(args.checkpoint)
        load_weights(unwrapped(runner.model), checkpoint.weights(), args.checkpoint, cfg.filename)
    if args.out:
        runner.test_evaluator.metrics.append(DumpPredictions(out_file_path=args.out))
    runner.test()


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with run_errors(args.debug):
        test(args)
        leave_process_group()

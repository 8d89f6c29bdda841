"""Evaluates a checkpoint: the student of a distillation configuration, or a student-only one.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out PREDICTIONS.pkl] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

import cankd  # noqa: F401  (registers everything before the configuration is read)
from cankd.engine.launch import add_run_arguments, leave_process_group, load_config
from cankd.engine.predictions import DumpPredictions
from cankd.engine.runner import Runner


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint")
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file, or 'none' to evaluate initial weights")
    parser.add_argument("--out", help="write the predictions to this .pkl file, for the analysis tools")
    return parser.parse_args()


def evaluate(cfg: Config, out: str | None) -> None:
    runner = Runner.from_cfg(cfg)
    if out:
        runner.test_evaluator.metrics.append(DumpPredictions(out_file_path=out))
    runner.test()


def main() -> None:
    args = parse_args()
    if args.checkpoint != "none" and not Path(args.checkpoint).is_file():
        raise FileNotFoundError(f"checkpoint: got {args.checkpoint}, expected an existing file (or 'none').")
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out: got {args.out}, expected a name that ends in .pkl.")
    cfg = load_config(args)
    cfg.load_from = None if args.checkpoint == "none" else args.checkpoint
    if "teacher" in cfg.model:
        cfg.model.teacher_ckpt = None  # the student is evaluated, and its weights are in the checkpoint
    evaluate(cfg, args.out)
    leave_process_group()


if __name__ == "__main__":
    main()

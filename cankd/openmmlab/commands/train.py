"""Trains a distillation algorithm, or any model that mmengine's runner can train.

python tools/train.py CONFIG [--work-dir DIR] [--amp] [--auto-scale-lr] [--resume] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Sequence

from mmengine.device import get_device
from mmengine.dist import is_main_process

from cankd.openmmlab.analysis.benchmark import environment
from cankd.openmmlab.commands.running import (
    add_run_arguments,
    check_teacher_file,
    leave_process_group,
    load_config,
    run_errors,
)
from cankd.openmmlab.configs import is_distillation_config
from cankd.openmmlab.doctor import StartSummaryHook
from cankd.openmmlab.engine.runner import Runner
from cankd.utils.command_line import command_parser
from cankd.utils.files import write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add_run_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="train with automatic mixed precision")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in the work dir")
    return parser.parse_args(argv)


def train(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    if args.amp:
        if get_device() == "cpu":
            raise ValueError("--amp: got a machine without a GPU, which AmpOptimWrapper needs. Leave it out.")
        kind = cfg.optim_wrapper.get("type", "OptimWrapper")
        if kind not in ("OptimWrapper", "AmpOptimWrapper"):
            raise ValueError(f"--amp: got optim_wrapper.type={kind!r}, expected OptimWrapper or AmpOptimWrapper.")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ValueError("--auto-scale-lr: the config has no auto_scale_lr.base_batch_size; add it.")
        cfg.auto_scale_lr.enable = True
    cfg.resume = args.resume
    check_teacher_file(cfg)
    runner = Runner.from_cfg(cfg)
    if is_main_process():
        facts = json.dumps(environment(get_device()), indent=1)
        write_text(Path(runner.work_dir, runner.timestamp, "environment.json"), facts + "\n")
    if is_distillation_config(cfg):
        runner.register_hook(StartSummaryHook())
    runner.train()


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with run_errors(args.debug):
        train(args)
        leave_process_group()

"""Examines a distillation before it trains, and tells what to change.

python tools/doctor.py CONFIG [--teacher-ckpt FILE] [--data real|synthetic] [--cfg-options KEY=VALUE ...]

Builds both models, takes two training steps on small images on the CPU, and prints a line for each check: recorders
and maps, the teacher's weights, accuracy, state and images, the student's start, data and classes, losses, their share
of the gradient, the optimizer's parameters, memory, learning rate, libraries and GPU. Weights and data that are not on
disk are replaced by random ones; what depends on them reads `not checked`. Nothing is fetched or written. The exit
status is 1 if there is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from typing import Sequence

from mmengine.logging import MMLogger

from cankd.openmmlab.commands.arguments import add_cfg_options, add_trust_argument
from cankd.openmmlab.commands.running import read_run_config, tool_errors
from cankd.openmmlab.configs import is_distillation_config
from cankd.openmmlab.doctor import ERROR, Finding, all_changes, examine
from cankd.openmmlab.pairing import python_code
from cankd.utils.command_line import at_least, command_parser


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="configuration of a distillation")
    parser.add_argument("--teacher-ckpt", help="the teacher's weights, like --cfg-options teacher_ckpt=FILE")
    parser.add_argument("--steps", type=at_least(1), default=2, help="training steps; default 2")
    parser.add_argument("--data", choices=["real", "synthetic"], help="images; default: real ones if they are on disk")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_cfg_options(parser)
    add_trust_argument(parser)
    return parser


def findings_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Finding]:
    """Examines the configuration of a command line; one that cannot be read is an error of the command line."""
    options = {**args.cfg_options, **({"teacher_ckpt": args.teacher_ckpt} if args.teacher_ckpt else {})}
    try:
        cfg = read_run_config(args.config, options)
    except FileNotFoundError as error:
        parser.error(str(error))
    except ValueError as error:
        if str(error).startswith("--cfg-options"):
            parser.error(str(error))
        return [Finding("configuration", ERROR, str(error))]
    if not is_distillation_config(cfg):
        return [Finding("configuration", ERROR, f"got a single model in {args.config}, expected a distillation.")]
    return examine(cfg, args.steps, args.data)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel("CRITICAL")  # it writes to standard output
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the findings
        findings = findings_of(parser, args)
    lines = [f"{key} = {python_code(value)}" for key, value in all_changes(findings).items()]
    if args.json:
        report = dict(
            config=args.config,
            findings=[{key: value for key, value in part._asdict().items() if key != "changes"} for part in findings],
            lines=lines,
        )
        print(json.dumps(report, indent=2))
    else:
        print(*findings, sep="\n")
        if lines:
            print("\nLines for the end of the configuration:", *lines, sep="\n")
        counts = Counter(finding.state for finding in findings)
        print(f"\n{len(findings)} checks: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    if any(finding.state == ERROR for finding in findings):
        sys.exit(1)

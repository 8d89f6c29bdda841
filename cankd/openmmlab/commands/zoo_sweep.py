"""Tries each family of mmdet or mmsegmentation: its smallest model learns from its largest for one training step.

python tools/analysis_tools/zoo_sweep.py --package mmdet --out results.jsonl [--families NAME ...] [--page FILE.md]

Each family gets a configuration as tools/make_config.py writes it, and a process of its own. Results are appended to
the file as they come; families that it holds are left out, so that a sweep can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Sequence

from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.zoo_sweep import TEACHERS, families, page, read_results, sweep
from cankd.utils.command_line import at_least, command_parser
from cankd.utils.files import write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("--package", choices=[*TEACHERS], default="mmdet", help="default mmdet")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="folders of configurations; default: all")
    parser.add_argument("--out", type=Path, required=True, help="results, one JSON object in each line")
    parser.add_argument("--timeout", type=at_least(1), default=300, help="seconds for each family; default 300")
    parser.add_argument("--page", type=Path, help="page of all results to write, in Markdown")
    return parser.parse_args(argv)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    known = families(args.package)
    names = args.families or [*known]
    for name in names:
        if name not in known:
            raise ValueError(f"--families: got {name}, expected some of {args.package}'s: {', '.join(known)}.")
    done = {result["family"] for result in read_results(args.out) if result["package"] == args.package}
    left = [name for name in names if name not in done]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for result in sweep(args.package, left, args.timeout):
        with args.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        outcome = "trains" if result["reason"] is None else result["reason"]
        print(f"{result['family']}: {outcome} ({result['seconds']:.0f} s)", flush=True)
    if args.page:
        write_text(args.page, page(read_results(args.out)))
        print(f"Wrote {args.page}")

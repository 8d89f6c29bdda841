"""Prints what a configuration resolves to, and which file each value comes from.

python tools/print_config.py CONFIG [--only KEY] [--cfg-options KEY=VALUE ...]

All bases are merged, the distiller is written out in mmrazor's long form and stock models with all of their keys. The
files that were read stand above, numbered; the number behind a line is that of the file that the value comes from, or
all values of the dict that begins there. A file that repeats the value of its base is not named. What is printed is a
configuration itself.
"""

from __future__ import annotations

import argparse
from typing import Any, Sequence

from cankd.openmmlab.commands.arguments import add_cfg_options
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.config_sources import Resolved, resolve, resolved_text
from cankd.utils.command_line import command_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="configuration of a distillation or of one model")
    parser.add_argument("--only", metavar="KEY", help="print this part alone, such as model.distiller")
    add_cfg_options(parser)
    return parser.parse_args(argv)


def part_of(resolved: Resolved, key: str) -> Resolved:
    """Returns one part of a resolved configuration under the last name of its dotted key, and its sources."""
    *parents, name = key.split(".")
    part: Any = resolved.config
    for parent in parents:
        part = part.get(parent) if isinstance(part, dict) else None
    if not isinstance(part, dict) or name not in part:
        raise ValueError(f"--only: got {key}, expected a key of the configuration such as model.distiller. Correct it.")
    place, above = (*parents, name), len(parents)
    inside = {other[above:]: source for other, source in resolved.sources.items() if other[: above + 1] == place}
    return Resolved({name: part[name]}, inside, resolved.files)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    resolved = resolve(args.config, args.cfg_options)
    print(resolved_text(part_of(resolved, args.only) if args.only else resolved), end="")

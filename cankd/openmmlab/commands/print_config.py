"""Prints what a configuration resolves to, and which file each value comes from.

python tools/print_config.py CONFIG [--only KEY] [--cfg-options KEY=VALUE ...]

All bases are merged, the distiller is written out in mmrazor's long form and stock models with all of their keys. The
comment behind a line names the file that the value comes from, or all values of the dict that begins there; a file that
repeats the value of its base is not named. What is printed is a configuration itself.
"""

from __future__ import annotations

import argparse
from typing import Any, Sequence

from cankd.openmmlab.commands.arguments import add_cfg_options
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.config_sources import Sources, resolve, resolved_text
from cankd.utils.command_line import command_parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="configuration of a distillation or of one model")
    parser.add_argument("--only", metavar="KEY", help="print this part alone, such as model.distiller")
    add_cfg_options(parser)
    return parser.parse_args(argv)


def part_of(config: dict[str, Any], sources: Sources, key: str) -> tuple[dict[str, Any], Sources]:
    """Returns one part of a resolved configuration under the last name of its dotted key, and its sources."""
    *parents, name = key.split(".")
    part: Any = config
    for parent in parents:
        part = part.get(parent) if isinstance(part, dict) else None
    if not isinstance(part, dict) or name not in part:
        raise ValueError(f"--only: got {key}, expected a key of the configuration such as model.distiller. Correct it.")
    place, above = (*parents, name), len(parents)
    inside = {other[above:]: source for other, source in sources.items() if other[: above + 1] == place}
    return {name: part[name]}, inside


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    config, sources = resolve(args.config, args.cfg_options)
    if args.only:
        config, sources = part_of(config, sources, args.only)
    print(resolved_text(config, sources), end="")

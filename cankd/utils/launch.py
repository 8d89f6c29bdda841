"""Trains or tests with several processes on this machine, or with those of several nodes.

python tools/launch.py GPUS train|test [arguments of the command]

Without a GPU the processes use the CPU. Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT in the environment.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from cankd.utils.command_line import at_least, command_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command under torchrun; the last line is that of the process that failed.

    Args:
        argv: arguments of the command. Defaults to the command line's.

    Raises:
        SystemExit: with the status of the process that failed first.
    """
    parser = command_parser(__doc__)
    parser.add_argument("gpus", type=at_least(1), help="processes on this machine, one for each GPU")
    parser.add_argument("command", choices=["train", "test"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the command")
    args = parser.parse_args(argv)
    os.environ["CANKD_LAUNCHER"] = str(os.getpid())  # with which the processes end
    place = {"nnodes": ("NNODES", "1"), "node_rank": ("NODE_RANK", "0")}
    place.update(master_addr=("MASTER_ADDR", "127.0.0.1"), master_port=("PORT", "29500"))
    options = [f"--{option}={os.environ.get(name, default)}" for option, (name, default) in place.items()]
    program = ["-m", "cankd", args.command, *args.arguments, "--launcher", "pytorch"]
    try:
        run.main([*options, f"--nproc_per_node={args.gpus}", *program])
    except ChildFailedError as error:  # torchrun's own traceback would hide why
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 128 - status)  # killed by a signal: the status that a shell gives

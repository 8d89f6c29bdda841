"""torchrun that leaves the last word to the process that failed: its own traceback would hide why.

python tools/launch.py [arguments of torchrun]
"""

from __future__ import annotations

import sys
from typing import Sequence

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs torchrun.

    Args:
        argv: its arguments. Defaults to the command line's.

    Raises:
        SystemExit: with the status of the process that failed first.
    """
    try:
        run.main(argv)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 128 - status)  # killed by a signal: as a shell says it

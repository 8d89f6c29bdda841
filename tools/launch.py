"""torchrun that leaves the last word to the process that failed: its own traceback would hide why.

python tools/launch.py [arguments of torchrun]
"""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        sys.exit(status if status > 0 else 128 - status)  # killed by a signal: as a shell says it

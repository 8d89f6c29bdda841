"""Ends processes together with those that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from cankd.utils.files import is_alive

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def end_with_parent() -> None:
    """Ends this process when its parent ends, for any reason (Linux only).

    As ``preexec_fn`` of a ``Popen`` it holds for the program that is started.
    """
    if _libc:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def end_with_launcher() -> None:
    """Ends this process with torch's launcher that started it, also if the launcher has ended already.

    Raises:
        SystemExit: if the launcher that ``cankd launch`` named in ``CANKD_LAUNCHER`` has ended.
    """
    end_with_parent()
    launcher = os.environ.get("CANKD_LAUNCHER")
    if launcher and not is_alive(int(launcher)):
        sys.exit(f"The launcher, process {launcher}, has ended; so does this process.")

"""Kills the process that imports this module by SIGKILL, at the moment in the environment variable ``KILL_AT``.

``KILL_AT`` is an audit event of Python ("open", "os.rename", "os.remove"), the beginning of a file's name, and
"now" (before it happens), "after", "write" (before the first write to the file) or "written" (after it, not closed).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _profile(frame: Any, event: str, called: Any) -> None:
    writes = getattr(called, "__name__", "") == "write"
    if PHASE == "after" or (writes and event == {"write": "c_call", "written": "c_return"}[PHASE]):
        _die()


def _audit(event: str, arguments: tuple) -> None:
    if event != EVENT or not Path(str(arguments[0])).name.startswith(FILE):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    if PHASE == "now":
        _die()
    sys.setprofile(_profile)


if "KILL_AT" in os.environ:
    EVENT, FILE, PHASE = os.environ["KILL_AT"].split()
    sys.addaudithook(_audit)

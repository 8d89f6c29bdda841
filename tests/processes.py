"""Waits for processes and finds them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable


def wait_until(until: Callable[[], bool], seconds: float) -> None:
    """Waits for a condition, at most so many seconds."""
    deadline = time.time() + seconds
    while not until():
        assert time.time() < deadline
        time.sleep(0.1)


def processes_of(folder: Path) -> list[str]:
    """Returns the commands of the living processes that name a folder."""
    commands = [file.read_bytes().decode() for file in Path("/proc").glob("[0-9]*/cmdline")]
    return [command for command in commands if str(folder) in command]

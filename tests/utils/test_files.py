"""Files that are written whole."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from cankd.utils.files import is_alive, remove_leftovers


def test_only_what_dead_processes_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    zombie = dead.pid
    deadline = time.time() + 60
    while is_alive(zombie):  # it ends, and nobody asks how
        assert time.time() < deadline
        time.sleep(0.05)
    names = {"left": f"iter_2.pth.{zombie}.part", "living": f"iter_4.pth.{os.getpid()}.part", "other": "notes.part"}
    for name in names.values():
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == [tmp_path / names["left"]]
    assert {file.name for file in tmp_path.iterdir()} == {names["living"], names["other"]}
    dead.wait()

"""Processes that end with those that started them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

from cankd.openmmlab.engine.processes import end_with_launcher


def test_a_worker_whose_launcher_has_ended_ends(monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    for launcher, status in ((os.getpid(), 0), (gone.pid, 1)):
        monkeypatch.setenv("CANKD_LAUNCHER", str(launcher))
        worker = multiprocessing.get_context("fork").Process(target=end_with_launcher)
        worker.start()
        worker.join()
        assert worker.exitcode == status
        gone.wait()

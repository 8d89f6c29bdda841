"""Runs Python programs in processes of their own, forked from a server that has imported the libraries already.

A fresh interpreter spends about eight seconds on the imports alone. What differs from one is only that: the
process has its own memory, arguments, environment, folder and output, and may be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Mapping, Sequence

import torch

# The libraries look for a GPU when they are imported, and CUDA's own way of looking forbids it to forked processes.
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import cankd.openmmlab  # noqa: F401  (the server imports it once for all)

ROOT = Path(__file__).resolve().parents[1]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.forked"])


def _program(command: Sequence[str], env: Mapping[str, str], output: str) -> None:
    """The forked process: becomes ``python COMMAND`` with its output in a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.path[:0] = env.get("PYTHONPATH", "").split(os.pathsep)
    if "OMP_NUM_THREADS" in env:
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    if command[0] == "-m":
        sys.argv = list(command[1:])
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")


def run(*command: str, timeout: int, env: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Runs ``python COMMAND`` from the checkout's root.

    Args:
        *command: a file, or ``-m`` and a module, then its arguments.
        timeout: seconds after which it is killed.
        env: all of its environment.

    Returns:
        Its exit status, and what it printed to both streams.

    Raises:
        subprocess.TimeoutExpired: if it was killed.
    """
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        process = _context.Process(target=_program, args=(command, dict(env), output.name))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout, output.read())
        return subprocess.CompletedProcess(command, process.exitcode or 0, output.read())

"""Measures time and memory of a function in a process of its own."""

from __future__ import annotations

import contextlib
import datetime
import functools
import gc
import multiprocessing
import os
import platform
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence, TypeVar

import numpy as np
import torch

Result = TypeVar("Result")


# Steps on a GPU before those that are timed: they load kernels, and the allocator's cache grows.
GPU_WARM_UP = 3


def _call_in(pool: ProcessPoolExecutor, function: Callable[..., Result], *args: Any) -> Result:
    try:
        return pool.submit(function, *args).result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a measurement was killed ({args[0]}), most likely for its memory. Choose smaller sizes, or leave it out."
        ) from error


def in_own_process(function: Callable[..., Result], *args: Any) -> Result:
    """Calls a function in a process of its own, so that no measurement inherits another's memory.

    The process is forked from one that has imported the libraries and done nothing else.

    Args:
        function: function of a module to call; function, arguments and result are pickled.
        *args: arguments of the function.

    Returns:
        The result of the function.

    Raises:
        ChildProcessError: if the process died, as it does when memory runs out.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return _call_in(pool, function, *args)


@contextlib.contextmanager
def measuring(device: str) -> Iterator[Callable[..., Any]]:
    """Yields a function that calls another as :func:`in_own_process` does.

    On a CPU each call has a process of its own. On a GPU one new interpreter serves all calls: CUDA does not work in
    forked processes, and torch counts the memory of each step by itself.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield in_own_process if device == "cpu" else functools.partial(_call_in, pool)


def _proc_bytes(file: str, field: str) -> int | None:
    """Returns a field in kB of one of Linux's /proc files, in bytes; None on other systems."""
    path = Path("/proc", file)
    found = re.search(rf"^{field}:\s*(\d+) kB", path.read_text(), re.MULTILINE) if path.exists() else None
    return int(found.group(1)) * 1024 if found else None


def peak_resident() -> int:
    """Returns the process's largest resident memory so far, in bytes."""
    # Not ru_maxrss on Linux: it begins with the parent's.
    return _proc_bytes("self/status", "VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _reset_peak_resident() -> int:
    """Resets the peak where the system can, and returns the memory that is resident now, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then a peak counts only if it is higher than those before
    return peak_resident()


def peak_extra_bytes(step: Callable[[], Any], device: str) -> int:
    """Returns the peak of memory during one step above the memory in use before it.

    Args:
        step: function to measure. It should have run once, on small inputs, to load its code.
        device: ``cpu``, for the process's resident memory, or ``cuda``, for what torch has allocated.

    Returns:
        Bytes.
    """
    if device == "cuda":
        gc.collect()  # so that nothing of an earlier measurement is freed during the step
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _reset_peak_resident()
    step()
    return peak_resident() - before


def measure(step: Callable[[], Any], device: str, repeats: int) -> dict[str, Any]:
    """Measures the memory of one step, which also warms up, and the time of some more.

    On a GPU a few more steps warm up, and each time ends when the GPU has finished.

    Args:
        step: function to measure; see :func:`peak_extra_bytes`.
        device: ``cpu`` or ``cuda``.
        repeats: number of steps that are timed, at least 1.

    Returns:
        ``peak_extra_bytes``, ``seconds`` (of each step), ``median`` and ``quartiles`` (first and third).
    """
    peak = peak_extra_bytes(step, device)
    for _ in range(GPU_WARM_UP if device == "cuda" else 0):
        step()
    seconds = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {**spread(seconds), "peak_extra_bytes": peak}


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Summarises repeated times: the ``seconds`` themselves, their ``median`` and ``quartiles``."""
    first, median, third = np.percentile(seconds, [25, 50, 75])
    return {"median": float(median), "quartiles": [float(first), float(third)], "seconds": list(seconds)}


def joined(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins several measurements of the same step into one: all times, and the largest peak.

    Args:
        rounds: results of :func:`measure`, to which other entries may have been added.

    Returns:
        The first one, with the times and the peak of all.
    """
    seconds = [time for result in rounds for time in result["seconds"]]
    return {**rounds[0], **spread(seconds), "peak_extra_bytes": max(result["peak_extra_bytes"] for result in rounds)}


def available_bytes(device: str) -> int:
    """Returns the bytes of memory that are free for a measurement."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return _proc_bytes("meminfo", "MemAvailable") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _processor() -> str:
    found = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return found.group(1) if found else platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:  # there is no git
        return "unknown"
    return done.stdout.strip() or "unknown"


def environment(device: str) -> dict[str, Any]:
    """Returns the circumstances of a measurement: device, versions, commit, command, date."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "python": platform.python_version(),
        "commit": _commit(),
        "command": " ".join(sys.argv if sys.argv[0].startswith("cankd ") else ["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
    }


def headline(machine: dict[str, Any]) -> str:
    """Returns one line that says where, when and how something was measured."""
    values = [
        f"{key} {machine[key]}" for key in ("threads", "torch", "cuda", "python", "commit", "date") if machine[key]
    ]
    return f"{machine['device']}, {', '.join(values)}: `{machine['command']}`"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose columns line up in a terminal, too."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines)

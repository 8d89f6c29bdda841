"""Finds the checkpoint of an interrupted run, and restores random state and position in the data."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import UnsafeCheckpoint


def find_checkpoint(work_dir: str | Path) -> tuple[str, dict[str, Any]] | None:
    """Finds the checkpoint that a run goes on from: what ``last_checkpoint`` names, else the newest.

    A file that is missing, broken or without a run's state is skipped with a warning. ``best_*.pth``, which
    have no optimizer, come last.

    Args:
        work_dir: folder of the run; if ``last_checkpoint`` names a file in another one, that is searched, too.

    Returns:
        The file and its ``meta``, or None if there is none. One that is not local is not read: its ``meta`` is empty.

    Raises:
        UnsafeCheckpoint: if a file carries code.
    """
    pointer = Path(work_dir, "last_checkpoint")
    named = pointer.read_text(errors="replace").strip().replace("\0", "") if pointer.is_file() else ""
    if "://" in named:
        return named, {}
    if pointer.is_file() and not named:
        _warn(f"{pointer} is empty.")
    folders = dict.fromkeys([Path(work_dir), *([Path(named).parent] if named else [])])
    others = [file for folder in folders for file in folder.glob("*.pth")]
    others.sort(key=lambda file: (file.name.startswith("best_"), -file.stat().st_mtime_ns))
    for file in dict.fromkeys([*([Path(named)] if named else []), *others]):
        try:
            checkpoint = Checkpoint.read(file)
        except UnsafeCheckpoint:
            raise
        except (FileNotFoundError, ValueError) as error:
            _warn(f"a checkpoint is skipped. {error}")
            continue
        if checkpoint.holds_run:
            return str(file), checkpoint.meta
        _warn(f"{file} is skipped: it holds no run's state.")
    return None


def _warn(message: str) -> None:
    print_log(f"--resume: {message}", logger="current", level=logging.WARNING)


def random_state() -> dict[str, Any]:
    """Returns the state of this process's random number generators, in tensors and plain values.

    Returns:
        The states of Python's, NumPy's and torch's generators, and of the current GPU's if there is one.
    """
    algorithm, keys, *position = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": (algorithm, np.asarray(keys).tolist(), *position),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Sets the random number generators to a state that :func:`random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class ResumedData:
    """Iterates over a training loop's data, and restores a random state when the batches already seen are skipped.

    mmengine skips batches by loading and augmenting them (0.10.5) or by the sampler (``skip_iter``, OneDL), and
    torch draws a number where it starts to read a data set: both come before the state is restored.

    Args:
        iterator: ``dataloader_iterator`` of the loop.
        seen: number of batches that the loop skips.
        state: random state of the checkpoint, from :func:`random_state`.
    """

    def __init__(self, iterator: Any, seen: int, state: dict[str, Any]) -> None:
        self._iterator, self._seen, self._state = iterator, seen, state

    def skip_iter(self, count: int) -> None:
        """Skips ``count`` batches, where mmengine can."""
        self._iterator.skip_iter(count)
        self._seen = 0

    def __next__(self) -> Any:
        if self._seen == 0:
            # OneDL's mmengine starts its workers in this private method, at the first batch or here.
            if hasattr(self._iterator, "_ensure_iterator"):
                self._iterator._ensure_iterator()
            set_random_state(self._state)
        self._seen -= 1
        return next(self._iterator)

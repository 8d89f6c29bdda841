"""What a run needs to go on from a checkpoint as if it had not been interrupted."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log

from cankd.openmmlab.checkpoint_files import UnsafeCheckpoint, load_checkpoint_file


def find_checkpoint(work_dir: str | Path) -> tuple[str, dict[str, Any]] | None:
    """Finds the checkpoint that a run goes on from: what ``last_checkpoint`` names, else the newest.

    A file that is missing, broken or no run's is passed over with a warning. ``best_*.pth``, which
    have no optimizer, come last.

    Args:
        work_dir: the run's folder; if ``last_checkpoint`` names a file in another one, that is looked into, too.

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
            checkpoint = load_checkpoint_file(file)
        except UnsafeCheckpoint:
            raise
        except (FileNotFoundError, ValueError) as error:
            _warn(f"passes over a checkpoint. {error}")
            continue
        if holds_run(checkpoint):
            return str(file), checkpoint["meta"]
        _warn(f"passes over {file}, which holds no run's state.")
    return None


def holds_run(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint is one that a run can go on from, not weights alone."""
    return "message_hub" in checkpoint and {"epoch", "iter"} <= set(checkpoint.get("meta", {}))


def _warn(message: str) -> None:
    print_log(f"--resume: {message}", logger="current", level=logging.WARNING)


def random_state() -> dict[str, Any]:
    """The random numbers that this process draws next, in tensors and plain values.

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
    """Makes this process draw the random numbers that followed :func:`random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class ResumedData:
    """A training loop's data that takes up a random state once what the run has seen is passed over.

    mmengine passes over data by loading and augmenting it (0.10.5) or by the sampler (``skip_iter``, OneDL), and
    torch draws a number where it starts to read a data set: both come before the state is taken up.

    Args:
        iterator: the loop's ``dataloader_iterator``.
        seen: batches that the loop passes over.
        state: of :func:`random_state`, from the checkpoint.
    """

    def __init__(self, iterator: Any, seen: int, state: dict[str, Any]) -> None:
        self._iterator, self._seen, self._state = iterator, seen, state

    def skip_iter(self, count: int) -> None:
        """Passes over ``count`` batches, where mmengine can."""
        self._iterator.skip_iter(count)
        self._seen = 0

    def __next__(self) -> Any:
        if self._seen == 0:
            if hasattr(self._iterator, "_ensure_iterator"):
                self._iterator._ensure_iterator()
            set_random_state(self._state)
        self._seen -= 1
        return next(self._iterator)

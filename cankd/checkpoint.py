"""Reading distillation checkpoints safely and writing files whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cankd.analysis.files import whole
from cankd.stack import load_safely

STUDENT_PREFIX = "architecture."
TEACHER_PREFIX = "teacher."


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without running code from it.

    Args:
        path: a ``.pth`` file.

    Returns:
        What it holds, tensors on the CPU; a bare state dict is put under ``state_dict``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, or holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint: got {path}, expected an existing .pth file. Check the path.")
    try:
        checkpoint = load_safely(str(path))
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be read as a checkpoint of tensors and plain values ({type(error).__name__}). Give a .pth "
            "file that tools/train.py wrote."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path}: got a {type(checkpoint).__name__}, expected a checkpoint (a dict).")
    return checkpoint if "state_dict" in checkpoint else {"state_dict": checkpoint}


def keep_teacher(state_dict: dict[str, Any], teacher: nn.Module, prefix: str = "") -> None:
    """Puts a teacher's own tensors in place of those that a state dict has for it, if any.

    Args:
        state_dict: of a distillation algorithm, about to be loaded; changed in place.
        teacher: the algorithm's teacher, whose weights stay as they are.
        prefix: of the algorithm's keys.
    """
    prefix += TEACHER_PREFIX
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]
    state_dict.update({prefix + key: value for key, value in teacher.state_dict().items()})


def is_distillation_state_dict(state_dict: dict[str, Any]) -> bool:
    """Whether a state dict is a distillation algorithm's: a student under its prefix, beside the algorithm's parts.

    Its teacher may be left out, and a distiller need not have weights.
    """
    parts = (TEACHER_PREFIX, "distiller.")
    return any(key.startswith(STUDENT_PREFIX) for key in state_dict) and (
        any(key.startswith(parts) for key in state_dict)
        or all(key.startswith((STUDENT_PREFIX, "data_preprocessor.")) for key in state_dict)
    )


def student_state_dict(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The student's tensors of a distillation state dict, under the names of the student alone.

    Args:
        state_dict: of a distillation algorithm, key -> tensor.

    Returns:
        Key -> tensor, the student's prefix removed where it is the prefix.

    Raises:
        ValueError: if it is not a distillation algorithm's.
    """
    if not is_distillation_state_dict(state_dict):
        some = ", ".join(list(state_dict)[:3]) or "none"
        raise ValueError(
            f"not a distillation checkpoint: expected keys that start with '{STUDENT_PREFIX}', and beside them "
            f"at most a teacher's, a distiller's and a preprocessor's, got {some}. A student's own checkpoint needs no "
            "conversion."
        )
    return {key[len(STUDENT_PREFIX) :]: value for key, value in state_dict.items() if key.startswith(STUDENT_PREFIX)}


def save_whole(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        checkpoint: what to save.
        path: the file; its folder is made if needed.
    """
    with whole(path) as part:
        torch.save(checkpoint, part)

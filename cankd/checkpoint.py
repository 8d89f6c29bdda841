"""Reading distillation checkpoints safely and writing files whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import nn

from cankd.analysis.files import whole
from cankd.stack import load_safely

STUDENT_PREFIX = "architecture."
TEACHER_PREFIX = "teacher."


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without running code from it.

    Args:
        path: a ``.pth`` file, or the URL of one, which is fetched as the libraries do.

    Returns:
        What it holds, tensors on the CPU; a bare state dict is put under ``state_dict``.

    Raises:
        FileNotFoundError: if there is no such file.
        ConnectionError: if it cannot be fetched.
        ValueError: if it is no checkpoint, or holds more than tensors and plain values.
    """
    path = _fetch(str(path)) if "://" in str(path) else path
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


def local_file(name: str | Path) -> Path:
    """Where a checkpoint lies: its path, or for a URL the file in which torch keeps what it fetched."""
    if "://" not in str(name):
        return Path(name)
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(str(name)).path).name)


def why_not_fetched(url: str, error: Exception) -> str:
    """What to say where a download fails: what was wanted, and what helps without a network."""
    return f"{url} could not be fetched ({error}). Fetch it elsewhere and put it at {local_file(url)}"


def _fetch(url: str) -> Path:
    file = local_file(url)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except Exception as error:
            raise ConnectionError(f"{why_not_fetched(url, error)}.") from error
    return file


def load_teacher(teacher: BaseModule, name: str) -> None:
    """Loads a frozen teacher's weights; what does not fit is logged.

    Args:
        teacher: the model.
        name: of its checkpoint, a path or URL.

    Raises:
        ValueError: if nothing fits, in which case the teacher would be noise.
    """
    content = CheckpointLoader.load_checkpoint(name, map_location="cpu")
    given = {key[7:] if key.startswith("module.") else key: v for key, v in content.get("state_dict", content).items()}
    if is_distillation_state_dict(given):
        raise ValueError(
            f"teacher_ckpt: {name} is a distillation's checkpoint, expected a model's own. Convert it with "
            "tools/model_converters/convert_kd_ckpt_to_student.py first."
        )
    own = teacher.state_dict()
    if not any(key in own and own[key].shape == getattr(value, "shape", None) for key, value in given.items()):
        raise ValueError(
            f"teacher_ckpt: no tensor of {name} fits the teacher, whose first is {next(iter(own), None)}; the file's "
            f"is {next(iter(given), None)}. Give the checkpoint of the model that the configuration calls teacher."
        )
    load_state_dict(teacher, given, strict=False, logger="current")
    teacher._is_init = True  # or its own initialisation would come after


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

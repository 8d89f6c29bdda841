"""Splits a checkpoint into student, teacher and distiller."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from cankd.openmmlab.checkpoint_files import load_checkpoint_file, local_file

# Part of a distillation algorithm -> key prefix of its tensors.
PREFIXES = {"student": "architecture.", "teacher": "teacher.", "distiller": "distiller."}
WRAPPER_PREFIX = "module."  # of torch's wrappers for several processes


class Checkpoint:
    """The content of a checkpoint of a distillation or of a single model.

    A checkpoint is a distillation's if it holds a student under its prefix, beside other parts of the algorithm
    alone. Its teacher may be left out, and a distiller need not have weights.

    Args:
        content: content of the file: ``state_dict``, ``meta`` and others, or a bare state dict.
        name: name of the file in errors.

    Attributes:
        content: content of the file, unchanged.
        name: name of the file.
        state_dict: name -> tensor; the prefix of a wrapper for several processes is removed.
        meta: facts about the training, as mmengine saves them; may be empty.

    Example:
        >>> from cankd.openmmlab.checkpoint import Checkpoint
        >>> checkpoint = Checkpoint.read("configs/demo/quickstart_teacher.pth")
        >>> checkpoint.is_distillation, len(checkpoint.weights("student"))
        (False, 244)
    """

    def __init__(self, content: dict[str, Any], name: str | Path = "checkpoint") -> None:
        self.content = content
        self.name = str(name)
        self.state_dict: dict[str, Any] = _unwrapped(content.get("state_dict", content))
        self.meta: dict[str, Any] = content.get("meta", {})

    @classmethod
    def read(cls, name: str | Path) -> Checkpoint:
        """Reads a file, URL or name as :func:`~cankd.openmmlab.checkpoint_files.load_checkpoint_file` does."""
        return cls(load_checkpoint_file(name), name)

    @property
    def holds_run(self) -> bool:
        """Returns whether a run can go on from the checkpoint, which takes more than weights."""
        return "message_hub" in self.content and {"epoch", "iter"} <= set(self.meta)

    @property
    def is_distillation(self) -> bool:
        """Returns whether the checkpoint is a distillation's."""
        others = (PREFIXES["teacher"], PREFIXES["distiller"])
        only_student = all(key.startswith((PREFIXES["student"], "data_preprocessor.")) for key in self.state_dict)
        return self.holds("student") and (only_student or any(key.startswith(others) for key in self.state_dict))

    def holds(self, part: str) -> bool:
        """Returns whether there are tensors of ``student``, ``teacher`` or ``distiller``."""
        return any(key.startswith(PREFIXES[part]) for key in self.state_dict)

    def tensors(self, part: str) -> dict[str, Any]:
        """Returns the tensors of ``student``, ``teacher`` or ``distiller`` under the part's own names, if any."""
        prefix = PREFIXES[part]
        return {key[len(prefix) :]: value for key, value in self.state_dict.items() if key.startswith(prefix)}

    def part(self, part: str) -> dict[str, Any]:
        """Returns the tensors of one part of a distillation, under the part's own names.

        Args:
            part: ``student``, ``teacher`` or ``distiller``.

        Returns:
            Name -> tensor.

        Raises:
            ValueError: if the checkpoint is no distillation's, or holds nothing of the part.
        """
        if self.is_distillation and self.holds(part):
            return self.tensors(part)
        if part != "student":
            raise ValueError(
                f"the checkpoint holds no {part}. Give one that a distillation run of `cankd train` wrote."
            )
        some = ", ".join(list(self.state_dict)[:3]) or "none"
        raise ValueError(
            f"not a distillation checkpoint: expected keys that start with '{PREFIXES['student']}', and beside them "
            f"at most a teacher's, a distiller's and a preprocessor's, got {some}. A student's own checkpoint needs no "
            "conversion."
        )

    def weights(self, role: str = "student") -> dict[str, Any]:
        """Returns a model's tensors under its own names: one of a distillation's two, or those of a single model.

        Args:
            role: ``student`` (default) or ``teacher``, for a distillation's checkpoint.

        Raises:
            ValueError: if a distillation's checkpoint holds nothing of it.
        """
        return self.part(role) if self.is_distillation else self.state_dict

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """Returns class names and palette of the training data, if the checkpoint has them."""
        return self.meta.get("dataset_meta")

    @property
    def teacher_name(self) -> str | None:
        """Returns file or URL of the teacher of a distillation, if the checkpoint names it."""
        in_config = re.search(r"teacher_ckpt\s*=\s*['\"]([^'\"]+)", str(self.meta.get("cfg", "")))
        return self.meta.get("teacher_ckpt") or (in_config.group(1) if in_config else None)

    def source(self, role: str, cfg: Config) -> Checkpoint:
        """Finds the checkpoint that holds a model's weights.

        Args:
            role: ``student`` or ``teacher``.
            cfg: configuration of the model; its ``teacher_ckpt`` precedes the one that the checkpoint names.

        Returns:
            This checkpoint, or the teacher's own where a distillation's leaves the teacher out.

        Raises:
            FileNotFoundError: if the teacher's own file is not here.
        """
        if role != "teacher" or not self.is_distillation or self.holds("teacher"):
            return self
        name = str(cfg.model.get("teacher_ckpt") or self.teacher_name)
        file = local_file(name)
        if not file.is_file():
            raise FileNotFoundError(
                f"{self.name} holds no teacher, and its teacher_ckpt is {name}, which is not at {file}. Fetch it there "
                "or give --cfg-options teacher_ckpt=FILE."
            )
        return Checkpoint.read(file)

    def converted(self) -> dict[str, Any]:
        """Returns the content of the student's own checkpoint, made of a distillation's.

        Raises:
            ValueError: if the checkpoint is no distillation's.
        """
        return {"meta": self.meta, "state_dict": self.part("student")}

    def shrunk(self) -> dict[str, Any]:
        """Returns content with the weights alone, each in half precision unless it would become infinite."""
        return {"meta": {}, "state_dict": {name: _halved(value) for name, value in self.state_dict.items()}}

    def keep_teacher(self, teacher: nn.Module) -> None:
        """Puts a teacher's own tensors into the content, so that loading it changes nothing in the teacher."""
        state_dict = self.content.get("state_dict", self.content)
        drop_teacher(state_dict)
        state_dict.update({PREFIXES["teacher"] + key: value for key, value in teacher.state_dict().items()})


def _unwrapped(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Removes the prefix of a wrapper for several processes from the names, if any has it."""
    if not any(key.startswith(WRAPPER_PREFIX) for key in state_dict):
        return state_dict  # with what torch notes in it about the versions of modules
    cut = len(WRAPPER_PREFIX)
    return {key[cut:] if key.startswith(WRAPPER_PREFIX) else key: value for key, value in state_dict.items()}


def is_wide(value: Any) -> bool:
    """Returns whether a value is a tensor that half precision would make smaller or coarser."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.half


def _halved(value: Any) -> Any:
    """Returns a tensor in half precision unless a finite value would become infinite; anything else as it is."""
    if not is_wide(value):
        return value
    half = value.half()
    return half if bool((half.isfinite() | ~value.isfinite()).all()) else value


def drop_teacher(state_dict: dict[str, Any]) -> None:
    """Removes the teacher from a state dict of a distillation, or of a wrapper around one, in place."""
    prefixes = (PREFIXES["teacher"], WRAPPER_PREFIX + PREFIXES["teacher"])
    for key in [key for key in state_dict if key.startswith(prefixes)]:
        del state_dict[key]


def any_fits(state_dict: dict[str, Any], module: nn.Module) -> bool:
    """Returns whether a module has a tensor of the name and shape of one of a state dict."""
    own = module.state_dict()
    return any(key in own and own[key].shape == getattr(value, "shape", None) for key, value in state_dict.items())

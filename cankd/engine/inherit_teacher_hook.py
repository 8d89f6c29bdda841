"""The inheriting strategy (rows marked with a dagger in the paper)."""

from __future__ import annotations

from typing import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

# What is inherited unless a configuration says otherwise. The paper's two-stage rows leave the RPN out.
DEFAULT_MODULES = ("neck", "bbox_head", "roi_head.bbox_head", "decode_head", "head")


def _find(model: nn.Module, name: str) -> nn.Module | None:
    """The submodule of that name, or None."""
    for part in name.split("."):
        model = getattr(model, part, None)  # type: ignore[assignment]
    return model


@HOOKS.register_module()
class InheritTeacherHook(Hook):
    """Starts the student's neck and head from the teacher's weights.

    The weights are those that the algorithm's teacher holds, hence of ``teacher_ckpt``,
    whatever the command line made of it. A cascade teacher gives its first head. Tensors of
    another shape stay as they were initialised; each is logged. Nothing is done when a run
    resumes.

    Args:
        modules: names of the student's modules that inherit; those it lacks are passed over.
            Defaults to :data:`DEFAULT_MODULES`.

    Raises:
        ValueError: before training, if there is no ``teacher_ckpt``, or if no tensor of one of
            the modules fits.
    """

    priority = "VERY_LOW"

    def __init__(self, modules: Sequence[str] = DEFAULT_MODULES) -> None:
        self.modules = tuple(modules)

    def before_train(self, runner) -> None:
        """Copies the weights and logs, by tensor, what did not fit."""
        if runner.iter > 0:
            return
        if not runner.cfg.model.get("teacher_ckpt"):
            raise ValueError(
                "InheritTeacherHook: got a teacher without weights, expected model.teacher_ckpt. Set it in the "
                "config or with --cfg-options teacher_ckpt=FILE."
            )
        algorithm = runner.model.module if is_model_wrapper(runner.model) else runner.model
        found = [name for name in self.modules if isinstance(_find(algorithm.student, name), nn.Module)]
        if not found:
            raise ValueError(f"InheritTeacherHook: the student has none of the modules {', '.join(self.modules)}.")
        for name in found:
            self._inherit(runner, name, algorithm)

    def _inherit(self, runner, name: str, algorithm: nn.Module) -> None:
        student = _find(algorithm.student, name)  # type: ignore[arg-type]
        teacher = _find(algorithm.teacher, name)  # type: ignore[arg-type]
        if isinstance(teacher, nn.ModuleList) and not isinstance(student, nn.ModuleList):
            teacher = teacher[0]
        own = student.state_dict()  # type: ignore[union-attr]
        if not own:  # a classifier's pooling
            return
        given = teacher.state_dict() if isinstance(teacher, nn.Module) else {}
        taken = [key for key, value in own.items() if key in given and given[key].shape == value.shape]
        for key in sorted(set(own) - set(taken)):
            theirs = f"has shape {tuple(given[key].shape)}" if key in given else "does not exist"
            runner.logger.warning(
                f"Not inherited: {name}.{key} has shape {tuple(own[key].shape)}, the teacher's {theirs}."
            )
        if not taken:
            raise ValueError(
                f"InheritTeacherHook: got no tensor of the teacher that fits the student's {name}, expected some. "
                "List the modules that do fit in the hook's `modules`."
            )
        with torch.no_grad():
            for key in taken:
                own[key].copy_(given[key])
        runner.logger.info(f"Inherited from the teacher: {len(taken)} of {len(own)} tensors of {name}.")

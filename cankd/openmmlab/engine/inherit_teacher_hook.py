"""The inheriting strategy (rows marked with † in the paper)."""

from __future__ import annotations

from typing import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

from cankd.openmmlab.engine.runner import unwrapped

# What is inherited unless a configuration says otherwise. The paper's two-stage rows leave the RPN out.
DEFAULT_MODULES = ("neck", "bbox_head", "roi_head.bbox_head", "decode_head", "head")


def _find(model: nn.Module, name: str) -> nn.Module | None:
    """Returns the submodule of that name, or None."""
    for part in name.split("."):
        model = getattr(model, part, None)  # type: ignore[assignment]
    return model


@HOOKS.register_module()
class InheritTeacherHook(Hook):
    """Starts the student's neck and head from the teacher's weights.

    The weights are those that the algorithm's teacher was loaded with from ``teacher_ckpt``, also
    where the command line replaced it. Of a cascade teacher the first head is used. The modules
    count as initialised then, so that tensors of another shape keep the values of their
    constructors; each is logged. That is what ``init_cfg`` of type ``Pretrained`` does, with which the
    published configurations inherit. Nothing is done when a run resumes.

    Args:
        modules: names of the student's modules that inherit; names that it lacks are ignored.
            Defaults to :data:`DEFAULT_MODULES`.
        lasting: whether the teacher's weights are copied again after the student's
            ``init_weights``. DINO's initialises the matrices of its encoder and decoder again; with
            False they keep those values, as in the runs that the paper reports. Defaults to True.

    Raises:
        ValueError: before training, if there is no ``teacher_ckpt``, or if no tensor of one of
            the modules fits.
    """

    priority = "VERY_LOW"

    def __init__(self, modules: Sequence[str] = DEFAULT_MODULES, lasting: bool = True) -> None:
        self.modules = tuple(modules)
        self.lasting = lasting

    def before_run(self, runner) -> None:
        """Copies the weights before the model is initialised, and excludes the modules from its initialisation."""
        if runner.iter > 0 or not isinstance(runner.optim_wrapper, BaseOptimWrapper):
            return
        if not runner.cfg.model.get("teacher_ckpt"):
            raise ValueError(
                "InheritTeacherHook: got a teacher without weights, expected model.teacher_ckpt. Set it in the "
                "config or with --cfg-options teacher_ckpt=FILE."
            )
        algorithm = unwrapped(runner.model)
        for name in self.inherit(algorithm):
            _find(algorithm.student, name).is_init = True  # type: ignore[arg-type, union-attr]

    def before_train(self, runner) -> None:
        """Copies the weights again if they are to last, and logs how many the student starts with."""
        if runner.iter > 0:
            return
        if self.lasting:
            self.inherit(unwrapped(runner.model))
        for name, (own, given) in self._tensors(unwrapped(runner.model)).items():
            for key, value in own.items():
                if key not in given or given[key].shape != value.shape:
                    theirs = f"has shape {tuple(given[key].shape)}" if key in given else "does not exist"
                    runner.logger.warning(
                        f"Not inherited: {name}.{key} has shape {tuple(value.shape)}, the teacher's {theirs}."
                    )
            equal = sum(key in given and torch.equal(value, given[key]) for key, value in own.items())
            runner.logger.info(f"Inherited from the teacher: {equal} of {len(own)} tensors of {name}.")

    def _tensors(self, algorithm) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Returns the tensors of student and teacher by the name of the module, for modules that the student has."""
        found = {}
        for name in self.modules:
            student, teacher = _find(algorithm.student, name), _find(algorithm.teacher, name)  # type: ignore[arg-type]
            if isinstance(teacher, nn.ModuleList) and not isinstance(student, nn.ModuleList):
                teacher = teacher[0]
            if isinstance(student, nn.Module):
                found[name] = (student.state_dict(), teacher.state_dict() if isinstance(teacher, nn.Module) else {})
        if not found:
            raise ValueError(f"InheritTeacherHook: the student has none of the modules {', '.join(self.modules)}.")
        return {name: pair for name, pair in found.items() if pair[0]}  # a classifier's pooling has no tensors

    def inherit(self, algorithm) -> list[str]:
        """Copies the teacher's tensors that fit into the student.

        Args:
            algorithm: distillation algorithm, not wrapped.

        Returns:
            Names of the student's modules that inherit.

        Raises:
            ValueError: if no tensor of one of the modules fits.
        """
        tensors = self._tensors(algorithm)
        for name, (own, given) in tensors.items():
            taken = [key for key, value in own.items() if key in given and given[key].shape == value.shape]
            if not taken:
                raise ValueError(
                    f"InheritTeacherHook: got no tensor of the teacher that fits the student's {name}, expected some. "
                    "List the modules that do fit in the hook's `modules`."
                )
            with torch.no_grad():
                for key in taken:
                    own[key].copy_(given[key])
        return list(tensors)

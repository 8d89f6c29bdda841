"""Summarises at the start of a training what can be told without a further pass through a model."""

from __future__ import annotations

from typing import Any, Sequence

from mmengine.hooks import Hook

from cankd.openmmlab.doctor.environment import check_gpu, check_learning_rate, check_versions
from cankd.openmmlab.doctor.finding import OK, WARNING, Finding, some
from cankd.openmmlab.doctor.models import (
    check_preprocessing,
    check_student_start,
    check_teacher_state,
    check_teacher_weights,
)
from cankd.openmmlab.doctor.subject import Subject, pretrained_parts
from cankd.openmmlab.engine.inherit_teacher_hook import InheritTeacherHook
from cankd.openmmlab.engine.run_checks import RunChecksHook
from cankd.openmmlab.engine.runner import unwrapped


class StartSummaryHook(Hook):
    """Logs four lines before the first step: the teacher, the student, the losses, and how the run is set up.

    A line that holds a warning is logged as one. What makes a training useless ends it before, by
    :class:`~cankd.openmmlab.engine.run_checks.RunChecksHook`. ``cankd train`` adds this hook to every distillation.
    """

    priority = "LOWEST"  # behind the hooks that load, inherit and check weights

    def __init__(self) -> None:
        self._done = False

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Logs the summary, once the models are in training mode."""
        if self._done:
            return
        self._done = True
        algorithm = unwrapped(runner.model)
        subject = Subject(runner.cfg, algorithm, runner.cfg.model.get("teacher_ckpt"))
        subject.pretrained = pretrained_parts(algorithm.student)
        subject.inherited = [
            name for hook in runner.hooks if isinstance(hook, InheritTeacherHook) for name in hook.modules
        ]
        missing = next((hook.missing for hook in runner.hooks if isinstance(hook, RunChecksHook)), None)
        groups = {
            "Teacher": [
                check_teacher_weights(subject, missing, []),
                check_teacher_state(algorithm),
                check_preprocessing(algorithm),
            ],
            "Student": [check_student_start(subject)],
            "Losses": [_check_losses(runner)],
            "Run": [check_learning_rate(runner.cfg), check_gpu(), check_versions()],
        }
        for group, findings in groups.items():
            log = runner.logger.warning if any(part.state == WARNING for part in findings) else runner.logger.info
            log(f"{group}: {_joined(findings)}")


def _joined(findings: Sequence[Finding]) -> str:
    parts = []
    for finding in findings:
        about = finding.check.split("'s ")[-1]  # the line names the model already
        parts.append(f"{about} {finding.text}".strip().rstrip("."))
    return "; ".join(parts) + "."


def _check_losses(runner) -> Finding:
    """Checks that the optimizer has what the losses and connectors learn."""
    distiller = unwrapped(runner.model).distiller
    wrappers = runner.optim_wrapper.values() if isinstance(runner.optim_wrapper, dict) else [runner.optim_wrapper]
    there = {id(value) for wrapper in wrappers for group in wrapper.param_groups for value in group["params"]}
    learnt = {name: value for name, value in distiller.named_parameters() if value.requires_grad}
    left_out = [name for name, value in learnt.items() if id(value) not in there]
    names = ", ".join(distiller.distill_losses) or type(unwrapped(runner.model)).__name__
    if left_out:
        return Finding("", WARNING, f"{names}; the optimizer leaves out {some(left_out)}.")
    return Finding("", OK, f"{names}; {len(learnt)} parameters of their own, all in the optimizer")

"""Runs all checks on a configuration."""

from __future__ import annotations

from mmengine.config import Config

from cankd.openmmlab.doctor.distillation import (
    check_losses,
    check_maps,
    check_parameters,
    check_recorders,
    check_shares,
    check_unused,
)
from cankd.openmmlab.doctor.environment import check_gpu, check_learning_rate, check_memory, check_versions
from cankd.openmmlab.doctor.finding import ERROR, NOT_CHECKED, Finding
from cankd.openmmlab.doctor.models import (
    check_data,
    check_preprocessing,
    check_student_start,
    check_teacher_accuracy,
    check_teacher_state,
    check_teacher_weights,
)
from cankd.openmmlab.doctor.steps import take_steps
from cankd.openmmlab.doctor.subject import build_subject, take_batch


def examine(cfg: Config, count: int = 2, data: str | None = None) -> list[Finding]:
    """Builds the distillation of a configuration, takes a few training steps on the CPU and looks at all of it.

    Nothing is fetched: weights and data that are not on disk are replaced by random ones, and what cannot be told
    without them is *not checked*.

    Args:
        cfg: configuration of a distillation, as ``cankd train`` reads it.
        count: number of training steps. Defaults to 2.
        data: ``real`` or ``synthetic`` images; with the latter no data set is read, so that the teacher is not
            evaluated. Defaults to None: real ones if they are here.

    Returns:
        A finding of each check.
    """
    surroundings = [check_learning_rate(cfg), check_versions(), check_gpu()]
    try:
        subject = build_subject(cfg)
        take_batch(subject, data)
    except Exception as error:  # of any library that the configuration's modules are from
        message = " ".join(f"{type(error).__name__}: {error}".split())
        cannot_fetch = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        state = NOT_CHECKED if cannot_fetch else ERROR
        return [Finding("models", state, message), *surroundings]
    steps, algorithm = take_steps(subject, count), subject.algorithm
    findings = [
        check_recorders(cfg, steps),
        *check_maps(cfg, steps),
        check_teacher_weights(subject, steps.missing, steps.needed),
        check_teacher_accuracy(subject),
        check_teacher_state(algorithm, steps.teacher_changed),
        check_preprocessing(algorithm),
        check_student_start(subject),
        *check_data(subject),
        check_losses(steps),
        check_shares(steps),
        check_parameters(algorithm, steps),
        check_unused(cfg, steps),
        check_memory(subject, steps),
        *surroundings,
    ]
    if steps.problem and not any(finding.state == ERROR for finding in findings):
        findings.insert(0, Finding("training step", ERROR, steps.problem))
    return findings

"""Checks of the teacher and the student."""

from __future__ import annotations

import contextlib
import copy
import io
import time
from types import SimpleNamespace
from typing import Any, Iterable, Sequence

import torch
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS
from torch import nn

from cankd.openmmlab.checkpoint_files import is_here
from cankd.openmmlab.configs import dataset_meta, in_scope
from cankd.openmmlab.doctor.finding import ERROR, NOT_CHECKED, OK, WARNING, Finding, some
from cankd.openmmlab.doctor.subject import SYNTHETIC, Subject
from cankd.openmmlab.engine.run_checks import check_categories, check_classes, datasets_in
from cankd.openmmlab.preprocessing import TeacherImages

SECONDS, MOST_IMAGES = 10, 32  # that a teacher's accuracy may take
NOISE = 5.0  # percent; a teacher below it is no teacher
METRICS = ("mAP", "mIoU", "top1")  # of detectors, segmenters and classifiers


def check_teacher_weights(subject: Subject, missing: Sequence[str] | None, needed: Sequence[str]) -> Finding:
    """Checks that the teacher has its checkpoint's weights.

    Args:
        subject: distillation.
        missing: names of the tensors that were not loaded; None if the checkpoint is not here.
        needed: those of them that the losses depend on.
    """
    check, file = "teacher's weights", subject.teacher_file
    cure = "Give the checkpoint of the model that the configuration calls teacher."
    if subject.teacher_problem:
        return Finding(check, ERROR, subject.teacher_problem, cure)
    if str(file).startswith("work_dirs/") and not subject.teacher_is_here:
        return Finding(check, NOT_CHECKED, f"{file} is not there: train the teacher first; random weights were used")
    if not file:
        init_cfg = getattr(subject.algorithm.teacher, "init_cfg", None)
        if isinstance(init_cfg, dict) and init_cfg.get("checkpoint"):
            return Finding(check, OK, f"from {init_cfg['checkpoint']} by its init_cfg")
        state = OK if subject.cfg.get("allow_untrained_teacher") else ERROR
        cure = "" if state == OK else "Set model.teacher_ckpt, or allow_untrained_teacher=True if that is meant."
        return Finding(check, state, "no teacher_ckpt, so that the teacher is random", cure)
    if missing is None:
        return Finding(check, NOT_CHECKED, f"{file} is not on disk; random weights were used")
    count = sum(value.is_floating_point() for value in subject.algorithm.teacher.state_dict().values())
    found = f"{count - len(missing)} of {count} tensors of {file}"
    if needed:
        return Finding(check, ERROR, f"{found}; the losses depend on {some(needed)}, which are random", cure)
    if missing:
        return Finding(check, WARNING, f"{found}; random, though no loss depends on them: {some(missing)}.", cure)
    return Finding(check, OK, found)


def check_teacher_accuracy(subject: Subject) -> Finding:
    """Evaluates the teacher on a few validation images, which it gets as the distillation gives them to it."""
    check = "teacher's accuracy"
    if not subject.teacher_is_here or subject.teacher_problem:
        return Finding(check, NOT_CHECKED, "its weights are not here")
    if subject.no_data == SYNTHETIC:
        return Finding(check, NOT_CHECKED, SYNTHETIC)
    if not subject.cfg.get("val_dataloader") or not subject.cfg.get("val_evaluator"):
        return Finding(check, NOT_CHECKED, "the configuration has no validation")
    try:
        with in_scope(subject.cfg), contextlib.redirect_stdout(io.StringIO()):
            dataset: Any = DATASETS.build(copy.deepcopy(subject.cfg.val_dataloader.dataset))
            metrics, count = _evaluate_teacher(subject, dataset)
    except (OSError, ValueError, KeyError) as error:
        return Finding(check, NOT_CHECKED, f"no validation data: {' '.join(str(error).split())}")
    name = next((name for kind in METRICS for name in metrics if name.endswith(kind)), None)
    if name is None:
        return Finding(check, WARNING, f"no metric of {count} validation images, so that it predicts nothing.", _CURE)
    score = metrics[name] * (100 if "mAP" in name else 1)
    found = f"{name.split('/')[-1]} {score:.1f} % on {count} validation images"
    if not score >= NOISE:  # or NaN
        return Finding(check, WARNING, f"{found}: it teaches noise.", _CURE)
    return Finding(check, OK, found)


_CURE = "Check its checkpoint, its classes and the images that it gets (teacher_preprocess)."


@torch.no_grad()
def _evaluate_teacher(subject: Subject, dataset: Any) -> tuple[dict[str, float], int]:
    """Returns the teacher's metrics on evenly spaced images, and the number of images."""
    algorithm, began = subject.algorithm, time.monotonic()
    seen: list[Any] = []
    evaluator = Evaluator(copy.deepcopy(subject.cfg.val_evaluator))
    evaluator.dataset_meta = dataset.metainfo
    algorithm.eval()
    count = min(len(dataset), MOST_IMAGES)
    for number in range(count):
        if seen and time.monotonic() - began > SECONDS:
            break
        batch = pseudo_collate([dataset[number * len(dataset) // count]])
        data = algorithm.data_preprocessor(batch, False)
        images, samples = data["inputs"], data["data_samples"]
        if hasattr(algorithm, "teacher_batch"):
            images, samples = algorithm.teacher_batch(images, samples)
        predicted = algorithm.teacher(images, samples, mode="predict")
        evaluator.process(data_samples=predicted, data_batch=batch)
        seen += [sample.metainfo.get("img_id") for sample in predicted]
    algorithm.train()
    for metric in evaluator.metrics:
        if hasattr(metric, "img_ids"):  # COCO's metrics would count what is on the other images as missed
            metric.img_ids = seen
    return evaluator.evaluate(len(seen)), len(seen)


def check_teacher_state(algorithm: Any, changed: Sequence[str] = ()) -> Finding:
    """Checks that the teacher is frozen.

    Args:
        algorithm: distillation algorithm in training mode.
        changed: names of the teacher's tensors that training steps changed. Defaults to none.
    """
    check = "teacher's state"
    trainable = [name for name, value in algorithm.teacher.named_parameters() if value.requires_grad]
    if trainable:
        cure = "Leave model.teacher_trainable out."
        return Finding(check, WARNING, f"{len(trainable)} of its parameters are trained along.", cure)
    norms = [name for name, module in algorithm.teacher.named_modules() if _is_training_norm(module)]
    if norms or changed:
        found = f"a step changes {some(list(changed) or norms)}, which a frozen teacher keeps."
        return Finding(check, ERROR, found, "Leave model.teacher_norm_eval out, or set it to True.")
    mode = "in training mode with its batch norms in eval mode" if algorithm.teacher.training else "in eval mode"
    dropped = ", ".join(
        f"{kind} active in {count} modules" for kind, count in _active_dropouts(algorithm.teacher).items()
    )
    note = f"{dropped}, so that its maps are noisy (model.teacher_eval=True stops that)" if dropped else "no dropout"
    return Finding(check, OK, f"frozen, {mode}, {note}")


def _is_training_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.training and module.track_running_stats


def _active_dropouts(teacher: nn.Module) -> dict[str, int]:
    """Counts by kind the modules of a teacher that drop values at random in its present mode."""
    active: dict[str, int] = {}
    for module in teacher.modules():
        kind = type(module).__name__
        probability = getattr(module, "p", None) or getattr(module, "drop_prob", None) or 0
        if module.training and ("Dropout" in kind or kind == "DropPath") and probability > 0:
            active[kind] = active.get(kind, 0) + 1
    return active


def check_preprocessing(algorithm: Any) -> Finding:
    """Checks that the teacher gets images in its own normalisation."""
    check = "teacher's images"
    if getattr(algorithm, "teacher_images", None) is not None:
        return Finding(check, OK, "in its own normalisation (teacher_preprocess)")
    try:
        images = TeacherImages(algorithm.data_preprocessor, algorithm.teacher.data_preprocessor)
    except ValueError as error:
        return Finding(check, NOT_CHECKED, str(error).split(": ", 1)[-1].split(". ")[0])
    if images.normalised_alike:
        return Finding(check, OK, "the student's, normalised as its own would be")
    return Finding(
        check,
        WARNING,
        "the student's, which its own data_preprocessor would normalise differently: it sees wrong colours.",
        "Set model.teacher_preprocess=True.",
        {"model": {"teacher_preprocess": True}},
    )


def check_student_start(subject: Subject) -> Finding:
    """Checks what the student starts from, and that no random part of it is frozen."""
    check, student = "student's start", subject.algorithm.student
    sources = [f"{name or 'all of it'} from {file}" for name, file in subject.pretrained.items()]
    sources += [f"{name} from the teacher" for name in subject.inherited]
    if subject.cfg.get("load_from"):
        sources.append(f"load_from={subject.cfg.load_from}")
    filled = [*subject.pretrained, *subject.inherited]
    frozen = [name for name, value in student.named_parameters() if not value.requires_grad]
    frozen += [name for name, module in student.named_modules() if _is_frozen_norm(module)]
    random = [name for name in frozen if not _is_within(name, filled)]
    if random and not subject.cfg.get("load_from"):
        found = f"{', '.join(sources) or 'random'}; {len(random)} frozen parts stay random: {some(random)}."
        cure = "Give it pretrained weights with init_cfg, or train these parts (frozen_stages=-1, norm_eval=False)."
        return Finding(check, WARNING, found, cure)
    absent = [file for file in subject.pretrained.values() if not is_here(file)]
    if absent:
        return Finding(check, NOT_CHECKED, f"{', '.join(sources)}, the rest random; not on disk: {some(absent)}")
    return Finding(check, OK, f"{', '.join(sources)}, the rest random" if sources else "random")


def _is_frozen_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats and not module.training


def _is_within(name: str, modules: Iterable[str]) -> bool:
    return any(not module or f"{name}.".startswith(f"{module}.") for module in modules)


def check_data(subject: Subject) -> list[Finding]:
    """Checks the data set, its classes and the categories of its annotation file."""
    findings: list[Finding] = []
    warnings: list[str] = []
    found = "real images" if not subject.no_data else f"random images were used ({subject.no_data})"
    findings.append(Finding("training data", NOT_CHECKED if subject.no_data else OK, found))
    datasets: Sequence[Any] = list(datasets_in(subject.dataset)) if subject.dataset is not None else []
    try:
        for dataset in datasets or [SimpleNamespace(metainfo=dataset_meta(subject.cfg))]:
            check_classes(subject.algorithm.student, dataset, "train" if datasets else "test")
            check_categories(dataset, "train", warnings.append)
            classes = dataset.metainfo.get("classes") or ()
    except ValueError as error:
        return [*findings, Finding("classes", ERROR, str(error))]
    if warnings:
        return [*findings, *(Finding("classes", WARNING, warning) for warning in warnings)]
    return [*findings, Finding("classes", OK, f"{len(classes)}, as many as the student's heads have")]

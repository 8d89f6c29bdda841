"""Checks a run at its start and its losses at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from cankd.openmmlab.checkpoint import Checkpoint, any_fits, drop_teacher
from cankd.openmmlab.checkpoint_files import save_whole
from cankd.openmmlab.engine.inherit_teacher_hook import InheritTeacherHook
from cankd.openmmlab.engine.runner import unwrapped
from cankd.openmmlab.own_data import categories_of
from cankd.openmmlab.own_recipe import BOUNDARY_HEADS
from cankd.openmmlab.recording import watch_calls

# Modules whose num_classes is the number of the data set's classes.
HEADS = ("bbox_head", "mask_head", "decode_head", "auxiliary_head", "head")


@HOOKS.register_module()
class RunChecksHook(Hook):
    """Refuses a run with an untrained teacher, with other classes than the data's, or whose ``load_from`` fits nothing.

    Every run of this package's runner has this hook. A tensor of the teacher counts as loaded if it has the value that
    ``teacher_ckpt``, its own ``init_cfg=dict(type='Pretrained')`` or the checkpoint of ``load_from`` or ``resume``
    gives it. A tensor that is not loaded is logged; it is an error if the first step shows that a distillation
    loss depends on it, or if the student inherits it. ``allow_untrained_teacher=True`` in the configuration lets such a
    teacher pass. An annotation file's categories are compared with the classes of the configuration.

    Raises:
        ValueError: in ``before_train`` or the first step, before any weight changes.
    """

    priority = "VERY_HIGH"  # before the hook that puts the teacher into a checkpoint

    def __init__(self) -> None:
        self._in_checkpoint: dict[str, Any] = {}
        self.missing: list[str] = []  # names of the teacher's tensors that were not loaded

    def after_load_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint without any tensor that fits the model."""
        loaded, model = Checkpoint(checkpoint), unwrapped(runner.model)
        if not any_fits(loaded.state_dict, model):
            raise ValueError(
                f"load_from: no tensor of the checkpoint fits the model, whose first is "
                f"{next(iter(model.state_dict()), None)}; the checkpoint's is {next(iter(loaded.state_dict), None)}. "
                "A distillation's student starts from weights of its own with "
                "model.architecture.init_cfg=dict(type='Pretrained', checkpoint=FILE)."
            )
        self._in_checkpoint = loaded.tensors("teacher")

    def before_train(self, runner) -> None:
        """Checks classes and teacher."""
        algorithm = unwrapped(runner.model)
        student = getattr(algorithm, "student", algorithm)
        for split, loop in (("train", runner.train_loop), ("val", runner.val_loop)):
            if loop is not None:
                for dataset in datasets_in(loop.dataloader.dataset):
                    check_classes(student, dataset, split)
                    check_categories(dataset, split, runner.logger.warning)
        if all(hasattr(algorithm, part) for part in ("student", "teacher", "distiller")):
            self._check_teacher(runner, algorithm)

    def _check_teacher(self, runner, algorithm: Any) -> None:
        file = runner.cfg.model.get("teacher_ckpt")
        self.missing = missing = not_loaded(algorithm.teacher, file, self._in_checkpoint)
        if not missing or getattr(algorithm, "teacher_trainable", False):
            return
        source = f"those of {file}" if file else "from a checkpoint, since model.teacher_ckpt is None"
        runner.logger.warning(f"{len(missing)} tensors of the teacher are not {source}: {_some(missing)}.")
        if runner.cfg.get("allow_untrained_teacher"):
            return
        inherited = {name for hook in runner.hooks if isinstance(hook, InheritTeacherHook) for name in hook.modules}
        _refuse(file, [name for name in missing if name.startswith(tuple(f"{module}." for module in inherited))])
        watch_missing(algorithm, missing, lambda needed: _refuse(file, needed))


def not_loaded(teacher: nn.Module, file: str | None, in_checkpoint: Mapping[str, Any] | None = None) -> list[str]:
    """Returns the names of a teacher's floating-point tensors that do not have a checkpoint's values.

    Args:
        teacher: teacher that was loaded.
        file: its checkpoint.
        in_checkpoint: the teacher's tensors in the checkpoint of the run. Defaults to none.
    """
    init_cfg = getattr(teacher, "init_cfg", None)
    pretrained = init_cfg.get("checkpoint") if isinstance(init_cfg, dict) else None
    sources = [Checkpoint.read(name).state_dict for name in (file, pretrained) if name] + [dict(in_checkpoint or {})]
    own = {name: value for name, value in teacher.state_dict().items() if value.is_floating_point()}
    missing = [name for name in own if not any(_is_in(own[name], source.get(name)) for source in sources)]
    # Some modules give a tensor of an older file another name while they load it.
    given = [value for source in sources for name, value in source.items() if name not in own]
    return [name for name in missing if not any(_is_in(own[name], value) for value in given)]


def watch_missing(algorithm: Any, missing: Sequence[str], then: Callable[[list[str]], None]) -> None:
    """Finds in the next step which missing tensors the teacher uses for what the losses read.

    Args:
        algorithm: distillation algorithm, not wrapped.
        missing: names of the teacher's tensors that were not loaded.
        then: function that gets the names of those that are used; it may raise an error.
    """
    modules = {name: _caller(algorithm.teacher, name.rpartition(".")[0]) for name in missing}
    # The student is called when the teacher has left all records.
    watch_calls(
        modules, until=algorithm.student, then=lambda called: then([name for name in missing if name in called])
    )


def _is_in(value: Tensor, given: Any) -> bool:
    """Returns whether a tensor has the value of a checkpoint's, which may be stored in less precision."""
    return isinstance(given, Tensor) and given.shape == value.shape and torch.equal(value.cpu(), given.to(value.dtype))


def _caller(model: nn.Module, name: str) -> nn.Module:
    """Returns the module whose call uses the weights of the submodule ``name``.

    It is the submodule itself, but for the parts of torch's attention, whose weights the attention uses.
    """
    parts = name.split(".") if name else []
    for depth in range(len(parts)):
        module = model.get_submodule(".".join(parts[: depth + 1]))
        if isinstance(module, nn.MultiheadAttention):
            return module
    return model.get_submodule(name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _refuse(file: str | None, needed: Sequence[str]) -> None:
    if needed:
        raise ValueError(
            f"model.teacher_ckpt: got {file}, in which {len(needed)} tensors that the distillation needs are missing "
            f"or do not fit the teacher: {_some(needed)}. Give the checkpoint of the model that the configuration "
            "calls teacher, or set allow_untrained_teacher=True if the teacher is meant to be untrained."
        )


def datasets_in(dataset: Any) -> Iterator[Any]:
    """Yields the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inside: Iterable[Any] = getattr(dataset, "datasets", None) or filter(None, [getattr(dataset, "dataset", None)])
    found = False
    for part in inside:
        found = True
        yield from datasets_in(part)
    if not found:
        yield dataset


def check_classes(student: nn.Module, dataset: Any, split: str) -> None:
    """Refuses a student whose heads have another number of classes than the data set.

    Args:
        student: student, or a model that trains alone.
        dataset: data set; only its ``metainfo`` is read.
        split: ``train`` or ``val``, for the error.

    Raises:
        ValueError: for such a head, or if the classes are a string.
    """
    metainfo = getattr(dataset, "metainfo", {})
    classes = metainfo.get("classes")
    if isinstance(classes, str):
        raise ValueError(f"{split}_dataloader: got metainfo classes={classes!r}, expected a tuple: ({classes!r},).")
    if not classes or hasattr(student, "language_model"):  # which is told the classes' names
        return
    counts = {len(metainfo[key]) for key in ("classes", "thing_classes", "stuff_classes") if metainfo.get(key)}
    for name, module in student.named_modules():
        parts = [part for part in name.split(".") if not part.isdigit()]
        count = None if type(module).__name__ in BOUNDARY_HEADS else getattr(module, "num_classes", None)
        if parts and parts[-1] in HEADS and isinstance(count, int) and count not in counts:
            raise ValueError(
                f"{name}: got num_classes={count}, expected {len(classes)}, the classes of {split}_dataloader. Set "
                "it in the student's head, or metainfo=dict(classes=...) in the data set."
            )


def check_categories(dataset: Any, split: str, warn: Callable[[str], Any]) -> None:
    """Compares an annotation file's categories with the configuration's classes.

    mmdet numbers a COCO file's labels by its categories, in the file's order, and ignores those that are no class.

    Args:
        dataset: data set; one without a COCO file passes.
        split: ``train`` or ``val``, for the error.
        warn: function that gets a warning.

    Raises:
        ValueError: if the labels of some categories would be shifted.
    """
    file = str(getattr(dataset, "ann_file", ""))
    if not hasattr(dataset, "cat2label") or not Path(file).is_file():
        return
    classes, categories = list(dataset.metainfo["classes"]), categories_of(file)
    unknown = [name for name in categories if name not in classes]
    absent = [name for name in classes if name not in categories]
    known = [name for name in categories if name in classes]
    if not categories:
        return
    if absent and known != classes[: len(known)] or not known:
        raise ValueError(
            f"{split}_dataloader: got categories {_some(categories)} in {file}, which has no {_some(absent)}: the "
            "labels of the others would be shifted. Add the categories to the file, or set metainfo=dict(classes=...) "
            "in every data set."
        )
    if absent:
        warn(f"{file}: has no category {_some(absent)}, which the configuration's classes name.")
    if unknown:
        warn(f"{file}: objects of {_some(unknown)} are left out; no class of the configuration is one.")
    if known != classes[: len(known)]:
        warn(
            f"{file}: its categories come in the order {_some(known)}, the classes as {_some(classes)}: labels follow "
            "the file, so pictures and tables would name them wrongly. Put the classes in the file's order."
        )


class NonFiniteLoss(ValueError):
    """The loss of a training is NaN or infinite."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops a training at its first loss that is not finite, before the step changes a weight.

    It saves ``non_finite_iter_<i>_rank<r>.pth`` in the work dir, with the losses by name, the names of the image files,
    the images as the model got them, and all weights but the teacher's. Every run of this package's runner has this
    hook; ``--cfg-options default_hooks.finite_loss.skip=True`` sets the option.

    Args:
        skip: whether such a step is left out, in all processes, instead of stopping. Defaults to False.

    Raises:
        NonFiniteLoss: in the step.
    """

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self._batch: Any = None
        self._skip_now = False

    def before_train(self, runner) -> None:
        """Wraps the model's addition of the losses with the check."""
        model, optim_wrapper = unwrapped(runner.model), runner.optim_wrapper
        parse_losses, update_params = model.parse_losses, optim_wrapper.update_params

        def parse_and_check(losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            total, parts = parse_losses(losses)
            self._check(runner, total, parts)
            return total, parts

        def update_unless_skipped(*args: Any, **kwargs: Any) -> None:
            if not self._skip_now:
                update_params(*args, **kwargs)

        # On the instances: mmengine has no hook between the losses and the step, and only this run's are wrapped.
        model.parse_losses = parse_and_check
        if self.skip:
            optim_wrapper.update_params = update_unless_skipped

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Keeps the batch, which the error describes."""
        self._batch = data_batch

    def _check(self, runner, total: Tensor, parts: dict[str, Tensor]) -> None:
        finite = bool(torch.isfinite(total.detach()).all())
        self._skip_now = not finite
        if self.skip:
            anywhere = torch.tensor(float(not finite), device=total.device)
            all_reduce(anywhere, "max")
            self._skip_now = bool(anywhere)
        if finite:
            return
        values = {name: value.item() for name, value in parts.items()}
        culprits = [name for name, value in parts.items() if name != "loss" and not torch.isfinite(value)] or ["loss"]
        batch = self._batch if isinstance(self._batch, dict) else {}
        images = [str(sample.metainfo.get("img_path")) for sample in batch.get("data_samples") or []]
        message = (
            f"loss at iteration {runner.iter + 1}: got {', '.join(f'{name}={values[name]}' for name in culprits)}, "
            f"expected a finite number (images {', '.join(images) or 'unknown'})."
        )
        if self.skip:
            runner.logger.warning(f"{message} The step is left out.")
            return
        file = Path(runner.work_dir, f"non_finite_iter_{runner.iter + 1}_rank{get_rank()}.pth")
        weights = unwrapped(runner.model).state_dict()
        drop_teacher(weights)
        save_whole(
            {
                "state_dict": weights,
                "losses": values,
                "images": images,
                "inputs": batch.get("inputs"),
                "meta": {"iter": runner.iter, "epoch": runner.epoch},
            },
            file,
        )
        raise NonFiniteLoss(
            f"{message} Losses, images and weights are in {file}. Lower the learning rate or the loss's weight, or "
            "leave such steps out with --cfg-options default_hooks.finite_loss.skip=True."
        )

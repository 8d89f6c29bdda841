"""Builds a distillation to examine: with the weights and the data that are here, without fetching any."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch import Tensor, nn

from cankd.openmmlab.analysis.benchmark_step import random_batch
from cankd.openmmlab.checkpoint_files import is_here
from cankd.openmmlab.configs import in_scope
from cankd.openmmlab.loading import load_teacher

SYNTHETIC = "--data synthetic"  # why there are no real images
IMAGES = 2  # in a batch of the examination
SIDE = 256  # of an image of the examination, in pixels, at most
COARSEST_STRIDE = 64  # of the maps of common necks; a loss that pools such maps needs larger images


@dataclass
class Subject:
    """A distillation that was built to be examined, on the CPU in training mode.

    Attributes:
        cfg: its configuration.
        algorithm: the distillation algorithm.
        teacher_file: path or URL of the teacher's weights, or None.
        teacher_problem: error of loading them, or an empty string.
        teacher_is_here: whether that file can be read without fetching it.
        pretrained: name of a student's module -> the checkpoint that its configuration starts it from.
        inherited: names of the student's modules that start from the teacher's weights.
        batch: batch of a data loader, with small images.
        dataset: training data, or None.
        no_data: why the batch is synthetic; empty for real images.
        size: height and width of a real image as its pipeline makes it, or None.
    """

    cfg: Config
    algorithm: Any
    teacher_file: str | None = None
    teacher_problem: str = ""
    teacher_is_here: bool = False
    pretrained: dict[str, str] = field(default_factory=dict)
    inherited: list[str] = field(default_factory=list)
    batch: dict[str, Any] = field(default_factory=dict)
    dataset: Any = None
    no_data: str = ""
    size: tuple[int, int] | None = None


def build_subject(cfg: Config) -> Subject:
    """Builds the algorithm of a configuration and loads the weights that are here.

    Args:
        cfg: configuration of a distillation; it is not changed.

    Returns:
        The subject, without a batch.

    Raises:
        FileNotFoundError: if a file of the student's pretrained weights does not exist.
        ValueError: if the algorithm cannot be built.
    """
    model = copy.deepcopy(cfg.model.to_dict())
    teacher_file = model.pop("teacher_ckpt", None)
    if cfg.get("data_preprocessor"):
        model.setdefault("data_preprocessor", cfg.data_preprocessor.to_dict())
    torch.manual_seed(0)
    with in_scope(cfg):
        algorithm: Any = revert_sync_batchnorm(MODELS.build(model))
        subject = Subject(cfg, algorithm, teacher_file)
        _load_teacher(subject)
        _leave_out_what_is_not_here(subject)
        algorithm.init_weights()
        _inherit(subject)
    algorithm.train()
    return subject


def _load_teacher(subject: Subject) -> None:
    name = subject.teacher_file
    if not name:
        return
    try:
        subject.teacher_is_here = is_here(name)
        if subject.teacher_is_here:
            load_teacher(subject.algorithm.teacher, name)
        elif "://" not in name and not name.startswith("work_dirs/"):  # where a teacher of one's own is trained
            subject.teacher_problem = f"got {name}, expected an existing file."
    except (ValueError, OSError) as error:
        subject.teacher_problem = str(error)


def _leave_out_what_is_not_here(subject: Subject) -> None:
    """Notes the student's pretrained weights, and leaves those out that would have to be fetched."""
    subject.pretrained = pretrained_parts(subject.algorithm.student)
    for model in (subject.algorithm.student, subject.algorithm.teacher):
        for name, file in pretrained_parts(model).items():
            if not is_here(file):
                if "://" not in file:
                    raise FileNotFoundError(f"{name}: init_cfg names {file}, expected an existing file.")
                model.get_submodule(name).init_cfg = None


def pretrained_parts(model: nn.Module) -> dict[str, str]:
    """Returns the modules whose initialisation reads a checkpoint: name -> checkpoint."""
    found = {}
    for name, module in model.named_modules():
        given: Any = getattr(module, "init_cfg", None)
        for config in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(config, dict) and config.get("type") == "Pretrained":
                found[name] = config["checkpoint"]
    return found


def _inherit(subject: Subject) -> None:
    for hook in subject.cfg.get("custom_hooks") or []:
        if str(hook.get("type")).split(".")[-1] == "InheritTeacherHook":
            subject.inherited += HOOKS.build(hook).inherit(subject.algorithm)


def take_batch(subject: Subject, data: str | None = None) -> None:
    """Gives a subject a batch of small images: the first of its training data, or noise with random annotations.

    Args:
        subject: subject to change.
        data: ``real`` or ``synthetic``. Defaults to None: real images if they are here.

    Raises:
        OSError: for ``real`` if there are none.
    """
    preprocessor = subject.algorithm.data_preprocessor
    losses = subject.algorithm.distiller.distill_losses.values()
    pooled = max((loss.block.pool_size for loss in losses if hasattr(loss, "block")), default=1)
    side = max(SIDE, COARSEST_STRIDE * pooled)
    if getattr(preprocessor, "batch_augments", None):
        preprocessor.batch_augments = None  # they resize or pad to the size of the training
    if type(preprocessor).__name__ == "ClsDataPreprocessor":
        side = 224
    if getattr(preprocessor, "size", None):
        preprocessor.size = (side, side)
    if data != "synthetic":
        try:
            subject.batch, subject.dataset = _real_batch(subject.cfg)
            subject.size = tuple(subject.batch["inputs"][0].shape[1:])
            shrink(subject.batch, side)
            return
        except (OSError, ValueError) as error:
            if data == "real":
                raise
            subject.no_data = " ".join(str(error).split())
    subject.no_data = subject.no_data or SYNTHETIC
    subject.batch = random_batch(subject.algorithm.student, IMAGES, (side, side))


def _real_batch(cfg: Config) -> tuple[dict[str, Any], Any]:
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.update(num_workers=0, persistent_workers=False, batch_size=IMAGES)
    loader.pop("prefetch_factor", None)
    with in_scope(cfg):
        built = Runner.build_dataloader(loader, seed=0)
        return next(iter(built)), built.dataset


def shrink(batch: dict[str, Any], side: int) -> None:
    """Resizes images and their annotations in place.

    Args:
        batch: batch of a data loader: ``inputs``, images (3, H, W), and ``data_samples``.
        side: longer side of an image, in pixels; smaller images stay as they are.
    """
    batch["inputs"] = list(batch["inputs"])
    for index, (image, sample) in enumerate(zip(batch["inputs"], batch["data_samples"])):
        height, width = image.shape[1:]
        factor = side / max(height, width)
        if factor >= 1:
            continue
        size = max(round(height * factor), 1), max(round(width * factor), 1)
        batch["inputs"][index] = F.interpolate(image[None].float(), size, mode="bilinear")[0].to(image.dtype)
        sample.set_metainfo(dict(img_shape=size, pad_shape=size))
        for kind in ("gt_instances", "ignored_instances"):
            if kind in sample:
                _shrink_instances(sample.get(kind), size, (size[1] / width, size[0] / height))
        for name, labels in sample.items():
            if isinstance(labels, PixelData):
                setattr(sample, name, _shrunk_labels(labels, size))


def _shrunk_labels(labels: PixelData, size: tuple[int, int]) -> PixelData:
    parts = {
        key: F.interpolate(value[None].float(), size, mode="nearest")[0].to(value.dtype)
        for key, value in labels.items()
    }
    return PixelData(**parts)


def _shrink_instances(instances: Any, size: tuple[int, int], factors: tuple[float, float]) -> None:
    if "bboxes" in instances:
        if isinstance(instances.bboxes, Tensor):
            instances.bboxes = instances.bboxes * instances.bboxes.new_tensor(factors * 2)
        else:
            instances.bboxes.rescale_(factors)
    if "masks" in instances:
        instances.masks = instances.masks.resize(size)

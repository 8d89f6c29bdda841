"""Builds the models of a configuration and loads their weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Sequence

from mmengine.config import Config
from mmengine.model import BaseModel, BaseModule, revert_sync_batchnorm
from mmengine.runner.checkpoint import load_state_dict
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.registry import MODELS
from torch import nn

from cankd.openmmlab.checkpoint import Checkpoint, any_fits
from cankd.openmmlab.configs import dataset_meta, in_scope, is_distillation_config, read_config

ROLES = ("student", "teacher")


def build_model(cfg: Config, role: str = "student") -> BaseModel:
    """Builds the student or the teacher of a distillation, or the model of any other configuration.

    Args:
        cfg: configuration of a distillation or of a single model; it is not changed.
        role: ``student`` (default) or ``teacher``, for a distillation's configuration.

    Returns:
        The model in eval mode on the CPU, not initialised; SyncBN, which needs GPUs, becomes BN.

    Raises:
        ValueError: for an unknown role.
    """
    if role not in ROLES:
        raise ValueError(f"role: got {role!r}, expected one of {', '.join(ROLES)}.")
    model = copy.deepcopy(cfg.model)
    if is_distillation_config(cfg):
        scope = model.get("_scope_", "mmrazor")
        model = model.architecture if role == "student" else model.teacher
        if "type" in model:
            model.setdefault("_scope_", scope)
    elif cfg.get("data_preprocessor") and not str(model.type).endswith("StockModel"):
        model.setdefault("data_preprocessor", cfg.data_preprocessor)
    with in_scope(cfg):
        return revert_sync_batchnorm(MODELS.build(model)).eval()


def load_weights(module: nn.Module, state_dict: dict[str, Any], checkpoint: str, config: str) -> None:
    """Loads weights; every tensor must fit.

    Args:
        module: module to load into.
        state_dict: tensors of the module.
        checkpoint: name of the file that they are from, for the error.
        config: name of the configuration that the module is from, for the error.

    Raises:
        ValueError: if a tensor is missing, left over or of another shape.
    """
    try:
        module.load_state_dict(state_dict)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        shown = " ".join(line if len(line) < 300 else line[:300] + " ..." for line in lines[:3])
        raise ValueError(
            f"{checkpoint} does not fit the model of {config}: {shown} Check that configuration and checkpoint belong "
            "together."
        ) from error


def load_teacher(teacher: BaseModule, name: str) -> None:
    """Loads the weights of a distillation's frozen teacher; tensors that do not fit are logged.

    Args:
        teacher: model to load into; its own initialisation does not run any more.
        name: path or URL of its checkpoint.

    Raises:
        ValueError: if no tensor fits, so that the teacher would be noise, or if the checkpoint is a distillation's.
    """
    checkpoint = Checkpoint.read(name)
    weights = checkpoint.state_dict
    if checkpoint.is_distillation:
        raise ValueError(
            f"teacher_ckpt: {name} is a distillation's checkpoint, expected a model's own. Convert it with "
            "`cankd convert` first."
        )
    if not any_fits(weights, teacher):
        raise ValueError(
            f"teacher_ckpt: no tensor of {name} fits the teacher, whose first is "
            f"{next(iter(teacher.state_dict()), None)}; the file's is {next(iter(weights), None)}. Give the checkpoint "
            "of the model that the configuration calls teacher."
        )
    load_state_dict(teacher, weights, strict=False, logger="current")
    teacher.is_init = True


def has_classes(cfg: Config, checkpoint: str, classes: Sequence[str]) -> bool:
    """Returns whether the heads in a checkpoint tell given classes apart.

    The checkpoint's own class names count if it has any, and the shapes of its tensors.

    Args:
        cfg: configuration of the model with these classes.
        checkpoint: path of the checkpoint.
        classes: names of the classes.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    content = Checkpoint.read(checkpoint)
    names = (content.dataset_meta or {}).get("classes")
    weights = content.weights()
    tensors = build_model(cfg).state_dict()
    fits = all(weights[name].shape == value.shape for name, value in tensors.items() if name in weights)
    return fits and (names is None or list(names) == list(classes))


def load_model(
    config: str | Path | Config,
    checkpoint: str | Path | Checkpoint,
    device: str = "cpu",
    role: str = "student",
    cfg_options: dict[str, Any] | None = None,
) -> tuple[BaseModel, Config]:
    """Builds a model and loads its weights, from files of a distillation or of the model alone.

    A distillation's configuration or the model's own, with a distillation's checkpoint or the model's own: all four
    pairs work, for the student and for the teacher.

    Args:
        config: configuration or its file.
        checkpoint: checkpoint or its file.
        device: device of the model. Defaults to the CPU.
        role: ``student`` (default) or ``teacher``, for files that hold both.
        cfg_options: overrides of a configuration file.

    Returns:
        The model in eval mode, with the data set's ``dataset_meta``, and its configuration.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the weights do not fit the model, or torch does not know ``device``.

    Example:
        >>> from cankd.openmmlab.loading import load_model
        >>> model, cfg = load_model("configs/demo/quickstart_teacher.py", "configs/demo/quickstart_teacher.pth")
        >>> sum(parameter.numel() for parameter in model.parameters())
        3366540
    """
    cfg = config if isinstance(config, Config) else read_config(config, cfg_options)
    checkpoint = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.read(checkpoint)
    source = checkpoint.source(role, cfg)
    weights = source.weights(role)
    model = build_model(cfg, role)
    config_name = f"{cfg.filename} ({role})" if is_distillation_config(cfg) else cfg.filename
    load_weights(model, weights, checkpoint.name, config_name)
    model.dataset_meta = source.dataset_meta or dataset_meta(cfg)
    try:
        return model.to(device), cfg
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device: got {device!r}, which torch cannot use here ({error}). Try cpu.") from error


def load_distiller(cfg: Config, checkpoint: Checkpoint) -> ConfigurableDistiller:
    """Loads the losses and connectors of a distillation, on the CPU in eval mode, without its models.

    Args:
        cfg: configuration of the distillation.
        checkpoint: checkpoint that its training wrote.

    Returns:
        The distiller, whose recorders are not attached to a model yet.

    Raises:
        ValueError: if configuration or checkpoint is no distillation's, or the weights do not fit.
    """
    if not is_distillation_config(cfg):
        raise ValueError(f"config: {cfg.filename} is of a single model, expected a distillation's.")
    with in_scope(cfg):
        distiller = MODELS.build({"_scope_": cfg.model.get("_scope_", "mmrazor"), **cfg.model.distiller})
    load_weights(distiller, checkpoint.part("distiller"), checkpoint.name, f"{cfg.filename} (distiller)")
    return distiller.eval()


def load_distillation(
    config: str | Path | Config, checkpoint: str | Path, device: str = "cpu", cfg_options: dict[str, Any] | None = None
) -> tuple[BaseModel, BaseModel, ConfigurableDistiller, Config]:
    """Loads all parts of a distillation.

    Args:
        config: configuration of the distillation or its file.
        checkpoint: file of the checkpoint that its training wrote.
        device: device of all parts. Defaults to the CPU.
        cfg_options: overrides of a configuration file.

    Returns:
        Student, teacher and the distiller, whose recorders are attached to both, in eval mode, and the
        configuration.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if configuration or checkpoint is no distillation's, or the weights do not fit.
    """
    cfg = config if isinstance(config, Config) else read_config(config, cfg_options)
    content = Checkpoint.read(checkpoint)
    distiller = load_distiller(cfg, content)
    student, teacher = (load_model(cfg, content, device, role)[0] for role in ROLES)
    distiller.prepare_from_student(student)
    distiller.prepare_from_teacher(teacher)
    return student, teacher, distiller.to(device), cfg

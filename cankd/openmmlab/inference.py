"""A configuration's model with a checkpoint's weights, ready to look at images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.registry import MODELS
from torch import nn

from cankd.openmmlab.checkpoint import (
    TEACHER_PREFIX,
    is_distillation_state_dict,
    load_checkpoint_file,
    local_file,
    student_state_dict,
)
from cankd.openmmlab.configs import (  # noqa: F401  (those unused here: imported from here by others)
    apply_options,
    dataset_meta,
    in_scope,
    is_distillation_config,
    read_config,
    repo_of,
    test_dataset,
)

ROLES = ("student", "teacher")


def build_model(cfg: Config, role: str = "student") -> BaseModel:
    """Builds the student or the teacher of a distillation, or the model of any other configuration.

    Args:
        cfg: the configuration; stays as it is.
        role: which of the two, where the configuration has both. Defaults to the student.

    Returns:
        The model in eval mode on the CPU, not initialised; SyncBN, which needs GPUs, is BN.

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


def part_state_dict(state_dict: dict[str, Any], part: str) -> dict[str, Any]:
    """The tensors of one part of a distillation checkpoint, under the part's own names.

    Args:
        state_dict: of a distillation algorithm.
        part: ``student``, ``teacher`` or ``distiller``.

    Returns:
        Key -> tensor.

    Raises:
        ValueError: if the checkpoint has nothing of it.
    """
    if part == "student":
        return student_state_dict(state_dict)
    found = {key[len(part) + 1 :]: value for key, value in state_dict.items() if key.startswith(f"{part}.")}
    if not found or not is_distillation_state_dict(state_dict):
        raise ValueError(f"the checkpoint holds no {part}. Give one that a distillation run of tools/train.py wrote.")
    return found


def load_weights(module: nn.Module, state_dict: dict[str, Any], checkpoint: str | Path, config: str | Path) -> None:
    """Loads weights; every tensor must fit.

    Args:
        module: what to load into.
        state_dict: its tensors.
        checkpoint: where they are from, for the error.
        config: where the module is from, for the error.

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


def load_student(model: nn.Module, checkpoint: str | Path, config: str | Path) -> None:
    """Loads a student's weights from its own checkpoint or out of a distillation's.

    Args:
        model: the student.
        checkpoint: file or URL.
        config: where the model is from, for the error.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a tensor is missing, left over or of another shape.
    """
    state_dict = load_checkpoint_file(checkpoint)["state_dict"]
    if is_distillation_state_dict(state_dict):
        state_dict = student_state_dict(state_dict)
    load_weights(model, state_dict, checkpoint, config)


def weights_file(cfg: Config, checkpoint: str | Path, role: str = "student") -> str | Path:
    """Where a model's weights lie: in the checkpoint, or in the teacher's own file if that leaves the teacher out.

    Args:
        cfg: the model's configuration.
        checkpoint: file or URL.
        role: ``student`` (default) or ``teacher``.

    Returns:
        File or URL.

    Raises:
        FileNotFoundError: if the teacher's own file is not here.
    """
    if role != "teacher":
        return checkpoint
    content = load_checkpoint_file(checkpoint)
    state_dict = content["state_dict"]
    if not is_distillation_state_dict(state_dict) or any(key.startswith(TEACHER_PREFIX) for key in state_dict):
        return checkpoint
    name = str(cfg.model.get("teacher_ckpt") or content.get("meta", {}).get("teacher_ckpt"))
    file = local_file(name)
    if not file.is_file():
        raise FileNotFoundError(
            f"{checkpoint} holds no teacher, and its teacher_ckpt is {name}, which is not at {file}. Fetch it there or "
            "give --cfg-options teacher_ckpt=FILE."
        )
    return file


def load_model(
    config: str | Path | Config,
    checkpoint: str | Path,
    device: str = "cpu",
    role: str = "student",
    cfg_options: dict[str, Any] | None = None,
) -> tuple[BaseModel, Config]:
    """Builds a model and loads its weights, whichever way the two files come.

    A distillation configuration or the model's own, a distillation checkpoint or the model's
    own (converted or not): all four pairs work. The teacher, too, is taken from a distillation
    checkpoint, or from its own.

    Args:
        config: file, or what :func:`read_config` returned.
        checkpoint: ``.pth`` file.
        device: where the model goes. Defaults to the CPU.
        role: ``student`` (default) or ``teacher``, where a file holds both.
        cfg_options: overrides of a configuration file.

    Returns:
        The model in eval mode, with the data set's ``dataset_meta``, and its configuration,
        whose test pipeline :func:`prepare` runs.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the weights do not fit the model, or ``device`` is none of torch's.

    Example:
        >>> from cankd.openmmlab.inference import load_model, predict
        >>> model, cfg = load_model("configs/demo/quickstart_teacher.py", "configs/demo/quickstart_teacher.pth")
        >>> sum(parameter.numel() for parameter in model.parameters())
        3366540
    """
    cfg = config if isinstance(config, Config) else read_config(config, cfg_options)
    content = load_checkpoint_file(weights_file(cfg, checkpoint, role))
    state_dict = content["state_dict"]
    if is_distillation_state_dict(state_dict):
        state_dict = part_state_dict(state_dict, role)
    model = build_model(cfg, role)
    load_weights(
        model, state_dict, checkpoint, f"{cfg.filename} ({role})" if is_distillation_config(cfg) else cfg.filename
    )
    model.dataset_meta = content.get("meta", {}).get("dataset_meta") or dataset_meta(cfg)
    try:
        return model.to(device), cfg
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"device: got {device!r}, which torch cannot use here ({error}). Try cpu.") from error


def load_distiller(cfg: Config, checkpoint: str | Path) -> ConfigurableDistiller:
    """Loads the losses and connectors of a distillation, on the CPU in eval mode, without its models.

    Args:
        cfg: of the distillation.
        checkpoint: that its training wrote.

    Returns:
        The distiller, whose recorders listen to nothing yet.

    Raises:
        ValueError: if one of the files is no distillation's, or the weights do not fit.
    """
    if not is_distillation_config(cfg):
        raise ValueError(f"config: {cfg.filename} is of a single model, expected a distillation's.")
    with in_scope(cfg):
        distiller = MODELS.build({"_scope_": cfg.model.get("_scope_", "mmrazor"), **cfg.model.distiller})
    weights = part_state_dict(load_checkpoint_file(checkpoint)["state_dict"], "distiller")
    load_weights(distiller, weights, checkpoint, f"{cfg.filename} (distiller)")
    return distiller.eval()


def load_distillation(
    config: str | Path | Config, checkpoint: str | Path, device: str = "cpu", cfg_options: dict[str, Any] | None = None
) -> tuple[BaseModel, BaseModel, ConfigurableDistiller, Config]:
    """Loads all parts of a distillation.

    Args:
        config: of the distillation: file, or what :func:`read_config` returned.
        checkpoint: that its training wrote.
        device: where the parts go. Defaults to the CPU.
        cfg_options: overrides of a configuration file.

    Returns:
        Student, teacher and the distiller whose recorders listen to both, in eval mode, and the
        configuration.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if one of the files is no distillation's, or the weights do not fit.
    """
    cfg = config if isinstance(config, Config) else read_config(config, cfg_options)
    distiller = load_distiller(cfg, checkpoint)
    student, teacher = (load_model(cfg, checkpoint, device, role)[0] for role in ROLES)
    distiller.prepare_from_student(student)
    distiller.prepare_from_teacher(teacher)
    return student, teacher, distiller.to(device), cfg


def _run_pipeline(cfg: Config, steps: Sequence[dict], results: dict[str, Any]) -> dict[str, list]:
    """A batch of one from some steps of a test pipeline."""
    if test_dataset(cfg).get("return_classes"):  # detectors that are told what to look for
        results.update(text=tuple(dataset_meta(cfg)["classes"]), custom_entities=True)
    with in_scope(cfg):
        return pseudo_collate([Compose(steps)(results)])


def _test_pipeline(cfg: Config) -> list[dict]:
    """The steps of the test pipeline, without annotations."""
    steps = test_dataset(cfg).get("pipeline") or cfg.get("test_pipeline")
    if not steps:
        raise ValueError(
            f"config: {cfg.filename} has no test_dataloader.dataset.pipeline and no test_pipeline. Add it."
        )
    return [step for step in steps if "Annotations" not in str(step["type"])]


def prepare(cfg: Config, image: str | Path) -> dict[str, list]:
    """Runs the configuration's test pipeline on one image file.

    Args:
        cfg: the model's configuration.
        image: an image file.

    Returns:
        What the model's ``data_preprocessor`` and ``test_step`` take: ``inputs``, a list of one
        (C, H, W) tensor, and ``data_samples``, a list of one.

    Raises:
        ValueError: if the configuration has no test pipeline.
    """
    return _run_pipeline(cfg, _test_pipeline(cfg), {"img_path": str(image), "img_id": 0})


def noise_batch(cfg: Config, shape: Sequence[int]) -> dict[str, list]:
    """An image of noise as :func:`prepare` would return it, at a size of one's own.

    Args:
        cfg: the model's configuration.
        shape: (H, W).

    Returns:
        As :func:`prepare`.
    """
    height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    results = {"img": image, "img_path": "", "img_id": 0, "scale_factor": (1.0, 1.0), "flip": False}
    results.update(img_shape=(height, width), ori_shape=(height, width))
    return _run_pipeline(cfg, _test_pipeline(cfg)[-1:], results)


@torch.no_grad()
def predict(model: BaseModel, cfg: Config, image: str | Path) -> Any:
    """What a model predicts for one image file, in the data sample of its library.

    Args:
        model: from :func:`load_model`.
        cfg: its configuration.
        image: an image file.

    Returns:
        ``DetDataSample``, ``SegDataSample`` or ``DataSample``; boxes and label maps are in the
        pixels of the file.
    """
    return model.test_step(prepare(cfg, image))[0]

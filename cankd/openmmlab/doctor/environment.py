"""Checks of the learning rate, the memory and the installed libraries."""

from __future__ import annotations

import importlib
from typing import Any, Iterator, Mapping

import torch
from mmcv.ops import get_compiling_cuda_version
from mmengine.config import Config

from cankd.openmmlab.analysis.benchmark import available_bytes
from cankd.openmmlab.compat import TESTED
from cankd.openmmlab.doctor.finding import ERROR, NOT_CHECKED, OK, WARNING, Finding
from cankd.openmmlab.doctor.steps import Steps
from cankd.openmmlab.doctor.subject import Subject

# Learning rates beyond which the optimizers of the shipped recipes and of the stock ones would not stay finite.
HIGHEST_PER_IMAGE = {"SGD": 0.01}
HIGHEST = {"Adam": 0.01, "AdamW": 0.01}


def check_learning_rate(cfg: Config) -> Finding:
    """Checks the learning rate against the batch size: they should be scaled together."""
    check, optimizer = "learning rate", (cfg.get("optim_wrapper") or {}).get("optimizer", {})
    rate, scaling = optimizer.get("lr"), cfg.get("auto_scale_lr") or {}
    batch, base = cfg.train_dataloader.get("batch_size"), scaling.get("base_batch_size")
    kind = str(optimizer.get("type"))
    if not rate or not batch:
        return Finding(check, NOT_CHECKED, "the configuration names no rate or no batch size")
    highest = min(
        HIGHEST.get(kind, float("inf")),
        HIGHEST_PER_IMAGE.get(kind, float("inf")) * (base or batch),
    )
    if rate > highest:
        found = f"{rate:g} for a batch of {base or batch} with {kind}, at most {highest:g} is common: a loss "
        return Finding(check, WARNING, f"{found}that becomes NaN often comes from it.", "Lower optimizer.lr.")
    if not base:
        return Finding(check, NOT_CHECKED, f"{rate:g}; the configuration has no auto_scale_lr.base_batch_size")
    if scaling.get("enable"):
        return Finding(check, OK, f"{rate:g} for a batch of {base}, scaled to the run's")
    if base % batch and kind == "SGD":  # linear scaling is a rule of SGD
        found = f"{rate:g} is for a batch of {base}, which no number of processes with a batch of {batch} makes."
        cure = f"Train with --auto-scale-lr, or set optimizer.lr to {rate * batch / base:g} for one process."
        return Finding(check, WARNING, found, cure)
    processes = "" if base % batch else f": {base // batch} processes with a batch of {batch}"
    return Finding(check, OK, f"{rate:g} is for a batch of {base}{processes}; --auto-scale-lr scales it to others")


def check_versions(tested: Mapping[str, tuple[str, ...]] = TESTED) -> Finding:
    """Checks the versions of the libraries.

    Args:
        tested: name of a module -> beginnings of its tested versions. Defaults to those that this package knows.
    """
    check = "libraries"
    versions = {name: str(importlib.import_module(name).__version__) for name in tested}
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    others = [name for name, version in versions.items() if not version.startswith(tested[name])]
    if others:
        known = "; ".join(f"{name} {', '.join(tested[name])}" for name in others)
        return Finding(check, WARNING, f"{found}; tested are {known}.", "requirements.txt names the versions.")
    return Finding(check, OK, found)


def check_gpu() -> Finding:
    """Checks that a GPU is visible and that mmcv has operators for it."""
    check, built = "GPU", get_compiling_cuda_version()
    if not torch.cuda.is_available():
        return Finding(check, NOT_CHECKED, f"none is visible to torch {torch.__version__}; training would use the CPU")
    found = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, mmcv's operators for CUDA {built}"
    if not built or built == "not available":
        return Finding(check, ERROR, f"{found}.", "Build mmcv where nvcc is installed (docs/install.md).")
    return Finding(check, OK, found)


def check_memory(subject: Subject, steps: Steps, available: float | None = None) -> Finding:
    """Estimates the memory of a step at the configured image size, from that of the examination's small images.

    Args:
        subject: distillation that was examined.
        steps: its steps.
        available: bytes that there are. Defaults to None: those of the GPU, if there is one.
    """
    if available is None and torch.cuda.is_available():
        available = available_bytes("cuda")
    check = "memory"
    batch, size = subject.cfg.train_dataloader.get("batch_size"), subject.size or configured_size(subject.cfg)
    if not steps.step_bytes or not batch or not size:
        return Finding(check, NOT_CHECKED, "no step was measured, or the configuration names no image size")
    images, _, height, width = steps.input_shape
    factor = batch * size[0] * size[1] / (images * height * width)
    total = steps.state_bytes + steps.step_bytes * factor
    found = (
        f"about {total / 1e9:.1f} GB for {batch} images of {size[0]} x {size[1]}: {steps.state_bytes / 1e9:.1f} GB of "
        f"weights and optimizer, {steps.step_bytes * factor / 1e9:.1f} GB of activations, of which the distillation "
        f"losses keep {steps.loss_bytes * factor / 1e9:.2f} GB"
    )
    if available is not None and total > available:
        cure = "Lower the batch or image size."
        return Finding(check, WARNING, f"{found}; {available / 1e9:.1f} GB are free.", cure)
    return Finding(check, OK, found)


def configured_size(cfg: Config) -> tuple[int, int] | None:
    """Returns height and width of the training's images: of a crop at the end, else of the largest resizing."""
    found: list[tuple[int, int]] = []
    for step in _pipeline_steps(cfg.train_dataloader.get("dataset")):
        sizes = [size for key in ("crop_size", "scale", "img_scale", "scales") for size in _sizes(step.get(key))]
        if sizes:
            found = sizes if "Crop" in str(step["type"]) else found + sizes
    if not found:
        return None
    largest = max(found, key=lambda size: size[0] * size[1])
    return min(largest), max(largest)


def _pipeline_steps(config: Any) -> Iterator[dict]:
    """Yields the steps of all pipelines in a data set's configuration."""
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else []:
        if isinstance(value, dict) and "type" in value:
            yield value
        yield from _pipeline_steps(value)


def _sizes(value: Any) -> list[tuple[int, int]]:
    """Returns the sizes that an argument of a pipeline's step names."""
    if isinstance(value, int):
        return [(value, value)]
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return [(value[0], value[1])]
    return [size for part in value for size in _sizes(part)] if isinstance(value, (list, tuple)) else []

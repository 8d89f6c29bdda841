"""Finds published models that can teach a student."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, Iterator

from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.maps import weightless
from cankd.openmmlab.pairing import Side, load_side, pair_maps
from cankd.openmmlab.zoo import Benchmark, ZooModel, rivals


@dataclass(frozen=True)
class Teacher:
    """A published model whose maps can be paired with a student's.

    Args:
        model: what its package tells of it.
        parameters: number of its parameters.
        strides: strides of the pairs, those that differ left out.
        same_preprocessor: whether it normalises images as the student does.
    """

    model: ZooModel
    parameters: float
    strides: tuple[int, ...]
    same_preprocessor: bool


def find_teachers(
    student: Side, entry: ZooModel, benchmark: Benchmark, most_parameters: float = math.inf
) -> Iterator[Teacher]:
    """Yields the published models that are more accurate than a student and can teach it, the best first.

    A model is built without memory for its weights, once however many recipes train it. One that is too large is mostly
    known by its backbone, which other models have, too.

    Args:
        student: student that was built.
        entry: what its package tells of it.
        benchmark: data set and metric to compare by.
        most_parameters: largest number of a teacher's parameters. Defaults to no limit.
    """
    backbones: dict[str, int] = {}
    known: dict[str, tuple[int, tuple[int, ...]] | None] = {}  # parameters and strides
    for model in rivals(entry, benchmark):
        if (model.parameters or 0) > most_parameters:
            continue
        try:
            cfg = read_config(model.config)
        except RuntimeError:  # a file that mmengine cannot read
            continue
        key, backbone = str(cfg.model), str(cfg.model.get("backbone"))
        if most_parameters < math.inf and backbone not in backbones:
            backbones[backbone] = _backbone_parameters(cfg)
        if backbones.get(backbone, 0) > most_parameters:
            continue
        if key not in known:
            known[key] = _look_at(model, cfg, student)
        found = known[key]
        if found is not None and found[0] <= most_parameters:
            same = _normalisation(cfg) == _normalisation(student.cfg)
            yield Teacher(model, model.parameters or found[0], found[1], same)


def _look_at(model: ZooModel, cfg: Config, student: Side) -> tuple[int, tuple[int, ...]] | None:
    """Returns a model's parameters and the strides that it has in common with a student; None if it cannot teach it."""
    try:
        teacher = load_side(model.config, cfg=cfg, outline=True)
        pairs = pair_maps(student, teacher).pairs
    except ValueError:  # it cannot be built here, reads text, or returns no maps
        return None
    return teacher.parameters, tuple(one.stride for one, other in pairs if one.stride == other.stride)


def _backbone_parameters(cfg: Config) -> int:
    """Returns the number of parameters of a model's backbone, or 0 if it cannot be built alone."""
    with contextlib.suppress(Exception), weightless(), in_scope(cfg):
        return sum(parameter.numel() for parameter in MODELS.build(cfg.model.backbone).parameters())
    return 0


def _normalisation(cfg: Config) -> tuple[Any, ...]:
    """Returns how a configuration's images are normalised: mean, standard deviation and order of the colours."""
    found = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    values = (list(map(float, found.get(key) or [])) for key in ("mean", "std"))
    return (*values, bool(found.get("bgr_to_rgb") or found.get("to_rgb")))

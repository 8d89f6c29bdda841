"""Finds faults of a configuration that nothing else notices, before a model is built."""

from __future__ import annotations

import difflib
import inspect
import logging
from typing import Any, Iterable, Mapping

import mmengine.runner
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS

from cankd.openmmlab.distillers import expand_distiller, is_short_form

# What mmengine's runner, mmrazor's tools and this package read at the top level of a configuration.
TOP_LEVEL_KEYS = {
    *list(inspect.signature(mmengine.runner.Runner.__init__).parameters)[1:],
    *("model_wrapper_cfg", "find_unused_parameters", "sync_bn", "compile", "custom_imports"),
    *("teacher_ckpt", "allow_untrained_teacher"),
}


def _near(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns the choices that a misspelt name may mean, the nearest first, or an empty string."""
    return ", ".join(difflib.get_close_matches(name, sorted(choices), n=3, cutoff=cutoff))


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Warns of overrides of keys that no file has, and refuses those that nothing reads.

    Args:
        cfg: configuration before the overrides.
        options: overrides of ``--cfg-options``, dotted key -> value.

    Raises:
        ValueError: for a key whose first part neither the configuration has nor the runner reads.
    """
    for option in options:
        first, *rest = option.split(".")
        if first not in cfg and first not in TOP_LEVEL_KEYS:
            near = _near(first, {*cfg, *TOP_LEVEL_KEYS})
            expected = f"expected a key of the configuration{near and f' like {near}'}"
            raise ValueError(f"--cfg-options: got {option}, {expected}. Correct it.")
        if first not in TOP_LEVEL_KEYS:
            print_log(
                f"--cfg-options {option}: only the configuration's file itself reads {first}; what the file made of it "
                "keeps the old value.",
                logger="current",
                level=logging.WARNING,
            )
        place: Any = cfg.get(first)
        for depth, part in enumerate(rest):
            inside: dict = dict(enumerate(place)) if isinstance(place, list) else {}
            if isinstance(place, dict):  # of a distiller in the short form the keys of both forms can be overridden
                inside = {**expand_distiller(place), **place} if is_short_form(place) else place
            key = int(part) if isinstance(place, list) and part.isdigit() else part
            if key not in inside:
                known = ".".join([first, *rest[:depth]])
                near = _near(part, map(str, inside))
                print_log(
                    f"--cfg-options {option}: {known} has no {part} in any file; it is added"
                    f"{near and f' beside {near}'}.",
                    logger="current",
                    level=logging.WARNING,
                )
                break
            place = inside[key]


def check_top_level(cfg: Config) -> None:
    """Refuses a key that nothing reads and that is nearly one which the runner reads.

    Args:
        cfg: configuration to check.

    Raises:
        ValueError: for a misspelt key.
    """
    for key in cfg:
        near = key not in TOP_LEVEL_KEYS and _near(key, TOP_LEVEL_KEYS, cutoff=0.92)
        if near:
            raise ValueError(f"config: got a top-level key {key}, which nothing reads. Did you mean {near}?")


def check_optimizer(cfg: Config) -> None:
    """Refuses an optimizer that does not exist, of which mmengine says "None is not a callable object".

    Args:
        cfg: configuration to check.

    Raises:
        ValueError: if no optimizer of the configured type is registered.
    """
    kind = (cfg.get("optim_wrapper") or {}).get("optimizer", {}).get("type")
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        near = _near(kind, OPTIMIZERS.module_dict)
        raise ValueError(
            f"optim_wrapper.optimizer: got type {kind}, expected one like {near or 'SGD, AdamW'}. Correct it."
        )


def check_distiller(model: Mapping[str, Any]) -> None:
    """Refuses a distiller's configuration with a loss that would be silently absent or compare nothing.

    Args:
        model: configuration of a distillation algorithm.

    Raises:
        ValueError: for a loss without a mapping, a mapping without a loss, names that are not there, inputs that
            are all the student's or all the teacher's, and a distiller without any loss.
    """
    distiller = model.get("distiller") or {}
    losses, mappings = distiller.get("distill_losses") or {}, distiller.get("loss_forward_mappings") or {}
    for loss in losses:
        if not mappings.get(loss):
            raise ValueError(
                f"distill_losses.{loss}: got no loss_forward_mappings.{loss}, expected one: the loss would be left "
                "out. Add the mapping, or remove the loss, too."
            )
    for loss, inputs in mappings.items():
        if loss not in losses:
            raise ValueError(
                f"loss_forward_mappings.{loss}: got no such loss, expected one of {', '.join(losses) or 'none'}. "
                "Correct the name."
            )
        for argument, record in inputs.items():
            _check_record(f"loss_forward_mappings.{loss}.{argument}", record, distiller)
        sides = {record["from_student"] for record in inputs.values()}
        if len(inputs) > 1 and len(sides) == 1:
            raise ValueError(
                f"loss_forward_mappings.{loss}: got from_student={sides.pop()} for all of {', '.join(inputs)}, "
                "expected both sides. Correct from_student."
            )
    if not losses and not distiller.get("distill_deliveries") and model.get("type") != "CrossKD":
        raise ValueError(
            "distiller: got no distill_losses, expected at least one: nothing would be distilled. Train the student "
            "alone with its own configuration, or add a loss."
        )


def _check_record(where: str, record: Any, distiller: Mapping[str, Any]) -> None:
    """Checks one input of a loss."""
    if not isinstance(record, dict) or not isinstance(record.get("from_student"), bool) or "recorder" not in record:
        raise ValueError(f"{where}: got {record}, expected a dict with recorder and from_student (True or False).")
    side = "student" if record["from_student"] else "teacher"
    for kind, name in ((f"{side}_recorders", record["recorder"]), ("connectors", record.get("connector"))):
        there = distiller.get(kind) or {}
        if name is not None and name not in there:
            raise ValueError(
                f"{where}: got {name!r}, expected one of distiller.{kind}: {', '.join(there) or 'none'}. Correct it."
            )

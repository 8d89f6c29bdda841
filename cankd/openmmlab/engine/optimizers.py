"""Makes the optimizer of a distillation."""

from __future__ import annotations

from typing import Any

from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

LIBRARIES = {"mmdet", "mmseg", "mmpretrain", "mmcls"}


def is_of_a_library(kind: type) -> bool:
    """Returns whether a class is mmdet's, mmseg's or mmpretrain's, or derived from one of theirs."""
    return bool({cls.__module__.split(".")[0] for cls in kind.__mro__} & LIBRARIES)


def names_layers(optim_wrapper: Any) -> bool:
    """Returns whether a library's own constructor makes the optimizer: it knows the layers of a model by their names.

    Args:
        optim_wrapper: configuration of the optimizer's wrapper.
    """
    kind = optim_wrapper.get("constructor") if isinstance(optim_wrapper, dict) else None
    if isinstance(kind, str):
        with OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return isinstance(kind, type) and is_of_a_library(kind)


def build_layered_optimizer(algorithm: nn.Module, optim_wrapper: dict[str, Any]) -> OptimWrapper:
    """Makes an optimizer whose groups are, for the student, those that its library makes for the student alone.

    A library's constructor gives ``backbone.stages.0`` and so on learning rates and weight decays of their own. In a
    distillation these names begin with ``architecture.``, which it does not know.

    Args:
        algorithm: distillation algorithm.
        optim_wrapper: configuration of the optimizer's wrapper, with a library's ``constructor``.

    Returns:
        The optimizer's wrapper. What else is trained, such as connectors, has the optimizer's own learning rate and
        weight decay.
    """
    built = build_optim_wrapper(algorithm.student, optim_wrapper)
    known = {id(parameter) for group in built.param_groups for parameter in group["params"]}
    left = {
        name: parameter
        for name, parameter in algorithm.named_parameters()
        if parameter.requires_grad and id(parameter) not in known
    }
    if left:
        group: dict[str, Any] = dict(params=list(left.values()))
        if "param_names" in built.param_groups[0]:  # torch wants them in all groups or in none
            group["param_names"] = list(left)
        built.optimizer.add_param_group(group)
    return built

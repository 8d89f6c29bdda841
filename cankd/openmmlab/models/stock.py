"""Builds stock models of mmdet, mmseg and mmpretrain with the differences that a configuration lists."""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib
import inspect
from typing import Any, Iterator

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import TASK_UTILS, WEIGHT_INITIALIZERS, DefaultScope
from mmrazor.registry import MODELS
from torch import nn

from cankd.openmmlab.compat import module_of, own_config, quiet_imports, shipped_config
from cankd.openmmlab.own_recipe import expand_own_data, recipe_size, with_classes, with_image_size

# In a dict of differences: replaces the stock one instead of merging. mmengine takes `_delete_` out
# itself where a base configuration has the dict, so only the first of the two always arrives here.
REPLACE_KEYS = ("_replace_", "_delete_")


def _accepted_arguments(type_name: Any) -> set[str]:
    """Returns the arguments of a registered type's constructor, and of base classes that get its ``**kwargs``."""
    cls = type_name
    for registry in (MODELS, TASK_UTILS, WEIGHT_INITIALIZERS):
        if isinstance(cls, str):
            with registry.switch_scope_and_registry(None) as scoped:
                cls = scoped.get(type_name) or type_name
    names: set[str] = set()
    for base in getattr(cls, "__mro__", (cls,)):
        init = base.__dict__.get("__init__") if inspect.isclass(base) else base
        if not callable(init):
            continue
        parameters = inspect.signature(init).parameters.values()
        names.update(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return names


def _without_replace_keys(config: Any) -> Any:
    """Returns a copy without the keys of :data:`REPLACE_KEYS`."""
    if isinstance(config, dict):
        return {key: _without_replace_keys(value) for key, value in config.items() if key not in REPLACE_KEYS}
    if isinstance(config, (list, tuple)):
        return type(config)(_without_replace_keys(part) for part in config)
    return copy.deepcopy(config)


def merge_differences(stock: Any, differences: Any, where: str) -> Any:
    """Deep-merges a configuration's differences into a stock configuration.

    Dicts merge key by key; ``_replace_=True`` in a dict replaces the stock one instead. A dict
    over a list of dicts (Cascade's heads) is merged into each of them. Anything else replaces.

    Args:
        stock: stock configuration; it is not changed.
        differences: configuration of the keys that differ.
        where: name of the merged key, for errors.

    Returns:
        The merged configuration.

    Raises:
        KeyError: for a key that neither the stock configuration has nor the type there accepts.
    """
    is_list_of_dicts = isinstance(stock, (list, tuple)) and stock and all(isinstance(part, dict) for part in stock)
    if isinstance(differences, dict) and is_list_of_dicts:
        return [merge_differences(part, differences, f"{where}[{i}]") for i, part in enumerate(stock)]
    both_dicts = isinstance(differences, dict) and isinstance(stock, dict)
    if not both_dicts or any(differences.get(key) for key in REPLACE_KEYS):
        return _without_replace_keys(differences)
    result = copy.deepcopy(stock)
    type_name = differences.get("type", stock.get("type"))
    accepted = set(stock) | {"type", "_scope_", *REPLACE_KEYS}
    accepted |= _accepted_arguments(type_name) if type_name else set()
    if where.endswith("norm_cfg"):
        accepted.add("requires_grad")  # mmcv's build_norm_layer takes it out
    for key, value in differences.items():
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=3) or sorted(stock)
            raise KeyError(
                f"{where}.{key}: got a key that {'type ' + str(type_name) if type_name else 'the stock config'} does "
                f"not know; expected one like {', '.join(near)}. Correct it, or add _replace_=True to replace the "
                "whole dict."
            )
        if key not in REPLACE_KEYS:
            result[key] = merge_differences(stock.get(key), value, f"{where}.{key}")
    return result


def stock_config(cfg: str, **differences: Any) -> dict:
    """Returns the model configuration that :func:`stock_model` builds.

    Args:
        cfg: name or path of a configuration, as in :func:`stock_model`.
        **differences: differences in its ``model``, as in :func:`stock_model`.

    Returns:
        The merged ``model`` of the configuration, with its ``data_preprocessor``.

    Raises:
        ImportError: if the package that ``cfg`` names is not installed.
        KeyError: for a key that the stock configuration does not have.
    """
    with _read(cfg) as config:
        return _merged(cfg, config, **differences)


def is_stock_model(model: Any) -> bool:
    """Returns whether a model's configuration is a ``StockModel``'s and names its stock configuration."""
    return isinstance(model, dict) and str(model.get("type")).split(".")[-1] == "StockModel" and "cfg" in model


def expand_stock_model(model: dict) -> dict:
    """Writes a ``StockModel``'s configuration out.

    Args:
        model: configuration of a ``StockModel``.

    Returns:
        The configuration of the model that it builds, with the library that this belongs to as ``_scope_``.
    """
    arguments = {key: value for key, value in model.items() if key not in ("type", "_scope_")}
    cfg = arguments.pop("cfg")
    with _read(cfg) as config:
        return {"_scope_": DefaultScope.get_current_instance().scope_name, **_merged(cfg, config, **arguments)}


def _merged(
    cfg: str, config: Config, num_classes: int | None = None, image_size: Any = None, **differences: Any
) -> dict:
    """Returns the model of a configuration with the differences merged into it."""
    expand_own_data(config)
    model = config.model
    if "data_preprocessor" in config:
        model.setdefault("data_preprocessor", config.data_preprocessor)
    if str(model.type).split(".")[-1] == "StockModel":
        model = stock_config(**{key: value for key, value in model.items() if key not in ("type", "_scope_")})
    if num_classes:
        model = with_classes(model, num_classes)
    if image_size:
        model = with_image_size(model, recipe_size(config), tuple(image_size))
    return merge_differences(model, differences, cfg)


@contextlib.contextmanager
def _read(cfg: str) -> Iterator[Config]:
    """Reads a configuration; inside the block its library's modules are registered, and models are built from it."""
    file = shipped_config(cfg)
    if "::" in cfg and not own_config(cfg):
        config, package = Config.fromfile(file) if file else get_config(cfg), module_of(cfg.split("::")[0])
    else:
        config = Config.fromfile(file or cfg)
        package = config.get("default_scope", "mmdet")
    with quiet_imports():
        importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope(package):
        yield config


@MODELS.register_module(name="StockModel")
def stock_model(cfg: str, **differences: Any) -> nn.Module:
    """Builds the model of a stock configuration, with differences.

    mmrazor's own ``cfg_path`` silently ignores differences that the stock configuration
    also sets. Here ``dict(type='StockModel', cfg='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    bbox_head=dict(num_classes=3))`` builds a model with 3 classes; ``num_classes=3`` does so for any stock model.

    Args:
        cfg: ``package::path`` of a configuration that mmdet, mmseg, mmpretrain or cankd ships, or the
            path of a configuration file of your own.
        **differences: keys of its ``model`` that differ; see :func:`merge_differences`. Two others can stand among
            them: ``num_classes`` is the number of classes of all its heads, ``image_size`` the width and height that
            its crops and windows are made for.

    Returns:
        The model, not initialised.

    Raises:
        ImportError: if the package that ``cfg`` names is not installed.
        KeyError: for a key that the stock configuration does not have.
    """
    with _read(cfg) as config:
        return MODELS.build(_merged(cfg, config, **differences))

"""Stock models of mmdet, mmseg and mmpretrain, with a configuration's differences laid over them."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import TASK_UTILS, DefaultScope
from mmrazor.registry import MODELS
from torch import nn

from cankd.stack import without_chatter


def _accepted_arguments(type_name: Any) -> set[str]:
    """The constructor's arguments of a registered type, through ``**kwargs`` up its base classes."""
    cls = type_name
    for registry in (MODELS, TASK_UTILS):
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


def merge_differences(stock: Any, differences: Any, where: str) -> Any:
    """Deep-merges a configuration's differences into a stock configuration.

    Dicts merge key by key; ``_delete_=True`` in a dict replaces the stock one instead. A dict
    over a list of dicts (Cascade's heads) is merged into each of them. Anything else replaces.

    Args:
        stock: the stock configuration; left as it is.
        differences: what differs from it.
        where: name of this place, for errors.

    Returns:
        The merged configuration.

    Raises:
        KeyError: for a key that neither the stock configuration has nor the type there accepts.
    """
    if isinstance(differences, dict) and isinstance(stock, (list, tuple)) and all(isinstance(s, dict) for s in stock):
        return [merge_differences(part, differences, f"{where}[{i}]") for i, part in enumerate(stock)]
    if not isinstance(differences, dict) or not isinstance(stock, dict) or differences.get("_delete_"):
        result = copy.deepcopy(differences)
        if isinstance(result, dict):
            result.pop("_delete_", None)
        return result
    result = copy.deepcopy(stock)
    type_name = differences.get("type", stock.get("type"))
    accepted = set(stock) | {"type"} | (_accepted_arguments(type_name) if type_name else set())
    for key, value in differences.items():
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=3) or sorted(stock)
            raise KeyError(
                f"{where}.{key}: got a key that {'type ' + str(type_name) if type_name else 'the stock config'} does "
                f"not know; expected one like {', '.join(near)}. Correct it, or add _delete_=True to replace the "
                "whole dict."
            )
        result[key] = merge_differences(stock.get(key), value, f"{where}.{key}")
    return result


def stock_config(cfg: str, **differences: Any) -> dict:
    """Returns the model configuration that :func:`stock_model` builds, in the scope of its package."""
    config = get_config(cfg) if "::" in cfg else Config.fromfile(cfg)
    model = config.model
    if "data_preprocessor" in config:
        model.data_preprocessor = config.data_preprocessor
    if str(model.type).split(".")[-1] == "StockModel":
        model.pop("type")
        model = stock_config(**model)
    return merge_differences(model, differences, cfg)


@MODELS.register_module(name="StockModel")
def stock_model(cfg: str, **differences: Any) -> nn.Module:
    """Builds the model of a stock configuration, with differences.

    mmrazor's own ``cfg_path`` silently ignores differences that the stock configuration
    also sets. Here ``dict(type='StockModel', cfg='mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    bbox_head=dict(num_classes=3))`` means what it says.

    Args:
        cfg: ``package::path`` of a configuration that mmdet, mmseg or mmpretrain ships, or the
            path of a configuration file of your own.
        **differences: what differs in its ``model``; see :func:`merge_differences`.

    Raises:
        KeyError: for a key that does not exist there.
    """
    package = _package_of(cfg)
    with DefaultScope.overwrite_default_scope(package):
        with without_chatter():
            importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
        return MODELS.build(stock_config(cfg, **differences))


def _package_of(cfg: str) -> str:
    """The package whose scope a configuration's model belongs to."""
    return cfg.split("::")[0] if "::" in cfg else Config.fromfile(cfg).get("default_scope", "mmdet")

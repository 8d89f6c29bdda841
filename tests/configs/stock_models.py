"""Compares configurations with the stock models that they name."""

from __future__ import annotations

import copy
import functools
import importlib
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

from cankd.openmmlab.compat import module_of
from cankd.openmmlab.models.stock import stock_config
from tests.conftest import ROOT

DISTILL = ROOT / "configs" / "distill"
DET = "mmdet::{}.py"
SEG = "mmseg::{}.py"
DL_R18 = "deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024"
DL_MV2 = "mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024"
DL_R101 = "deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024"
PSP_R18 = "pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024"
LAYER4 = ("backbone.layer4", 512)


@functools.lru_cache(maxsize=None)
def recipes_of(kind: str) -> set[str]:
    """Returns the names of the recipes of one kind in metafile.yml: ``own``, ``zoo`` or ``CanKD's``, all others."""
    rows = yaml.safe_load((ROOT / "configs" / "metafile.yml").read_text(encoding="utf-8"))["models"]
    return {Path(row["config"]).stem for row in rows if row.get("recipe", "CanKD's") == kind}


def flat(config: Any, path: tuple = ()) -> dict[tuple, Any]:
    """Returns all values in a nested dict, path of keys -> value."""
    if isinstance(config, dict):
        return {key: value for name, part in config.items() for key, value in flat(part, (*path, name)).items()}
    return {path: config}


# mmengine's own function takes 0.3 s for each.
_read_stock_config = functools.lru_cache(maxsize=None)(get_config)


def stock_config_of(name: str) -> Config:
    """Reads a stock configuration by mmengine's own function."""
    return copy.deepcopy(_read_stock_config(name))


def stock_values(name: str) -> dict[tuple, Any]:
    """Returns the values of a stock configuration's model, path of keys -> value."""
    config = stock_config_of(name).to_dict()
    beside = {key: config[key] for key in ("data_preprocessor",) if key in config}  # as in mmpretrain's files
    return flat({**config["model"], **beside})


def differences_from(model: dict, stock: str) -> dict[tuple, Any]:
    """Returns the values of a configuration's model that differ from a stock one, path of keys -> value."""
    model = {key: value for key, value in model.items() if key != "type"}
    with DefaultScope.overwrite_default_scope(module_of(stock.split("::")[0])):
        mine = flat(Config(stock_config(**model)).to_dict())
    theirs = stock_values(stock)
    return {key: value for key, value in mine.items() if key not in theirs or theirs[key] != value}


@functools.lru_cache(maxsize=None)
def weights_of(package: str) -> dict[str, str]:
    """Reads the checkpoints' addresses from all metafiles of an installed package, stock configuration -> address."""
    weights = {}
    for file in (Path(importlib.import_module(package).__file__ or "").parent / ".mim" / "configs").rglob(
        "metafile.y*ml"
    ):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for model in content["Models"] if isinstance(content, dict) else content:
            if isinstance(model.get("Weights"), str):
                # OneDL's fork of mmseg and mmpretrain names its own mirror.
                address = model["Weights"].replace("https://mmassets.onedl.ai/", "https://download.openmmlab.com/")
                weights[Path(model.get("Config", model["Name"])).stem] = address
    return weights


def published_weights(model: dict) -> str:
    """Returns the address of a recipe's teacher, from the metafiles of the teacher's library."""
    package, name = model["teacher"]["cfg"].split("::")
    return weights_of(module_of(package))[Path(name).stem]


def without_scopes(config: Any) -> Any:
    """Returns a copy without the scopes that mmengine adds to inherited values."""
    if isinstance(config, dict):
        return {key: without_scopes(value) for key, value in config.items() if key != "_scope_"}
    return [without_scopes(part) for part in config] if isinstance(config, (list, tuple)) else config

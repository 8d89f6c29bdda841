"""Reads configurations and queries them."""

from __future__ import annotations

import contextlib
import functools
import importlib
from pathlib import Path
from typing import Any, Iterator

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DATASETS, DefaultScope

from cankd.openmmlab.compat import module_of, own_config, quiet_imports, shipped_config
from cankd.openmmlab.derivation import complete_distiller
from cankd.openmmlab.distillers import expand_distiller
from cankd.openmmlab.own_recipe import expand_own_data


def read_config(path: str | Path, cfg_options: dict[str, Any] | None = None, expand: bool = True) -> Config:
    """Reads a configuration file.

    Args:
        path: configuration file, or ``package::path`` of one that cankd, mmdet, mmseg or mmpretrain ships.
        cfg_options: overrides, dotted key -> value. Defaults to none. ``teacher_ckpt`` replaces a
            distillation's, wherever its configuration uses it; other models have no use for it.
        expand: whether the distiller and data of one's own are expanded, see :func:`expand_config`. Defaults to True.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no ``model``.
    """
    cfg = _read_file(path)
    if "model" not in cfg:
        raise ValueError(f"config: {path} has no `model`. Give the configuration of a training.")
    apply_options(cfg, cfg_options or {})
    if expand:
        expand_config(cfg)
    return cfg


def _read_file(path: str | Path) -> Config:
    """Reads a configuration file, or one that a package ships."""
    file = shipped_config(path) or Path(path)
    if file.is_file():
        return Config.fromfile(file)
    if "::" not in str(file):
        raise FileNotFoundError(f"config: got {path}, expected an existing file. Check the path.")
    try:
        return get_config(str(path))
    except AssertionError as error:
        raise ValueError(f"config: got {path}. {error}") from error


def apply_options(cfg: Config, options: dict[str, Any]) -> None:
    """Applies overrides to a configuration in place.

    Args:
        cfg: configuration to change.
        options: overrides, dotted key -> value; ``teacher_ckpt`` as in :func:`read_config`.
    """
    cfg.merge_from_dict(options)
    if "teacher_ckpt" in options and is_distillation_config(cfg):
        cfg.model.teacher_ckpt = cfg.teacher_ckpt


def expand_config(cfg: Config, derive: bool = True) -> None:
    """Expands the distiller of a configuration and data of one's own, and derives what they leave out, in place.

    Args:
        cfg: configuration of a distillation or of a single model.
        derive: whether what the distiller leaves out is derived from its models. Defaults to True.

    Raises:
        ValueError: for a faulty short form or faulty ``own_data``; see
            :func:`~cankd.openmmlab.distillers.expand_distiller`,
            :func:`~cankd.openmmlab.derivation.complete_distiller` and
            :func:`~cankd.openmmlab.own_recipe.expand_own_data`.
    """
    expand_own_data(cfg)
    if is_distillation_config(cfg) and cfg.model.get("distiller"):
        if derive:
            models = cfg.model.architecture, cfg.model.teacher
            cfg.model.distiller = complete_distiller(cfg.model.distiller, *models, functools.partial(in_scope, cfg))
        else:
            cfg.model.distiller = expand_distiller(cfg.model.distiller)


def is_distillation_config(cfg: Config) -> bool:
    """Returns whether a configuration's model is a distillation algorithm, which has a student and a teacher."""
    return {"architecture", "teacher"} <= set(cfg.model)


def repo_of(cfg: Config) -> str:
    """Returns the name of the library that a configuration's model belongs to.

    Args:
        cfg: configuration of a distillation or of a single model.

    Returns:
        ``mmdet``, ``mmseg`` or ``mmpretrain`` (``mmcls`` where only that is installed).
    """
    scope = cfg.get("default_scope")
    if scope in (None, "mmengine", "mmrazor"):
        model = cfg.model.get("architecture", cfg.model)
        stock = str(model.get("cfg", model.get("cfg_path", "")))
        scope = stock.split("::")[0] if "::" in stock and not own_config(stock) else "mmdet"
    return module_of(scope)


@contextlib.contextmanager
def in_scope(cfg: Config) -> Iterator[None]:
    """Registers the modules of the configuration's library, and builds from that library inside the block."""
    repo = repo_of(cfg)
    with quiet_imports():
        importlib.import_module(f"{repo}.utils").register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope(repo):
        yield


def test_dataset(cfg: Config) -> dict:
    """Returns the configuration of the test data set without wrappers such as RepeatDataset, or an empty dict."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset", {})
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset


def dataset_meta(cfg: Config) -> dict[str, Any]:
    """Returns class names and palette of the test data set: those of its class, overridden by its ``metainfo``."""
    dataset = test_dataset(cfg)
    with in_scope(cfg), DATASETS.switch_scope_and_registry(None) as registry:
        kind = dataset.get("type")
        kind = registry.get(kind) if isinstance(kind, str) else kind
    return {**(getattr(kind, "METAINFO", None) or {}), **(dataset.get("metainfo") or {})}

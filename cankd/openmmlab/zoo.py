"""The models that mmdet, mmseg and mmpretrain describe: configurations, published checkpoints and accuracies.

The installed packages ship this description as ``.mim/model-index.yml``, which names a metafile for each family. It is
read from there, without a network.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence, Tuple
from urllib.parse import unquote

import yaml

from cankd.openmmlab.compat import module_of, own_config, shipped_config

PACKAGES = ("mmdet", "mmseg", "mmpretrain")
# Metric as the indexes write it -> its short name. A larger value of each is better.
METRICS = {"box AP": "box AP", "mask AP": "mask AP", "PQ": "PQ", "mIoU": "mIoU", "Top 1 Accuracy": "top-1"}
# What one model learns from labelled images. A tracker or a semi-supervised detector is no teacher.
TASKS = (
    *("Object Detection", "Instance Segmentation", "Panoptic Segmentation"),
    *("Semantic Segmentation", "Image Classification"),
)
Benchmark = Tuple[str, str]  # data set and metric


@dataclass(frozen=True)
class ZooModel:
    """A model that a package describes.

    Args:
        name: name in the package's index.
        config: ``package::path`` of its configuration.
        aliases: further names.
        checkpoint: URL of its weights, or None.
        accuracies: (data set, metric) -> published value, the main one first.
        parameters: number of parameters, or None if the index does not tell.
        flops: number of multiply-adds, or None if the index does not tell.
    """

    name: str
    config: str
    aliases: tuple[str, ...]
    checkpoint: str | None
    accuracies: Mapping[Benchmark, float]
    parameters: float | None
    flops: float | None

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it can be looked up by, beside that of its configuration."""
        return (self.name, Path(self.config).stem, *self.aliases)


@functools.lru_cache(maxsize=None)
def zoo(package: str | None = None) -> tuple[ZooModel, ...]:
    """Returns the models that installed packages describe.

    Args:
        package: ``mmdet``, ``mmseg`` or ``mmpretrain``. Defaults to all of them.

    Returns:
        The models whose configuration exists, one for each configuration. Where several entries name one
        configuration, it is the entry whose checkpoint has the most similar name.
    """
    if package is None:
        return tuple(model for name in PACKAGES for model in zoo(name))
    spec = importlib.util.find_spec(module_of(package))
    root = Path(spec.origin).parent / ".mim" if spec and spec.origin else Path()
    if not (root / "model-index.yml").is_file():
        return ()
    models: dict[str, ZooModel] = {}
    for file in _read_yaml(root / "model-index.yml")["Import"]:
        content = _read_yaml(root / file)
        for entry in content["Models"] if isinstance(content, dict) else content:
            config = _existing_config(root, root / file, entry)
            if config:
                model = _model(entry, f"{package}::{config}")
                other = models.get(model.config, model)
                models[model.config] = max(other, model, key=_likeness)
    return tuple(models.values())


def _read_yaml(file: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # twenty times as fast, where libyaml is there
    return yaml.load(file.read_text(encoding="utf-8"), loader)


def _existing_config(root: Path, metafile: Path, entry: dict[str, Any]) -> str | None:
    """Returns the path of an entry's configuration below the package's ``configs``, or None if it does not exist."""
    named = Path(unquote(entry.get("Config", "")))
    for file in (root / named, root / "configs" / named, metafile.parent / named.name):
        if file.suffix == ".py" and file.is_file():
            return file.relative_to(root / "configs").as_posix()
    return None


def _model(entry: dict[str, Any], config: str) -> ZooModel:
    """Makes a model from its entry in a metafile."""
    results = entry.get("Results") or []
    metadata = entry.get("Metadata") or {}
    alias, weights = entry.get("Alias") or [], entry.get("Weights")
    return ZooModel(
        name=entry["Name"],
        config=config,
        aliases=(alias,) if isinstance(alias, str) else tuple(alias),
        checkpoint=weights if isinstance(weights, str) else None,  # a tracker has several
        accuracies={
            (result["Dataset"], METRICS[metric]): float(value)
            for result in (results if isinstance(results, list) else [results])
            if result.get("Task") in TASKS
            for metric, value in (result.get("Metrics") or {}).items()
            if metric in METRICS and isinstance(value, (int, float))
        },
        parameters=metadata.get("Parameters"),
        flops=metadata.get("FLOPs"),
    )


def _likeness(model: ZooModel) -> float:
    """Returns how similar the names of a model's configuration and of its checkpoint's folder are, from 0 to 1."""
    names = (Path(model.config).stem, Path(model.checkpoint or "").parent.name)
    return difflib.SequenceMatcher(None, *names).ratio()


def zoo_model(config: str) -> ZooModel | None:
    """Returns the model of a configuration ``package::path``, or None if no package describes it."""
    return next((model for model in zoo() if _place(model.config) == _place(config)), None)


def _place(config: str) -> tuple[str, str]:
    """Returns the module and the path that ``package::path`` stands for."""
    package, _, path = config.partition("::")
    return module_of(package), path


def find_config(name: str) -> str:
    """Finds the configuration that a user means.

    Args:
        name: a configuration file, ``package::path`` of one that a package ships, the name or alias of a model in the
            zoo, or the beginning of one model's name.

    Returns:
        The path of the file as it was given, or ``package::path``.

    Raises:
        ValueError: if there is no such configuration, or if several models' names begin like this.
    """
    own = own_config(name)
    if own or name.endswith(".py") and "::" not in name:
        if not (own or Path(name)).is_file():
            raise ValueError(f"got the configuration {name}, expected an existing file. Check the path.")
        return name
    wanted = name if name.endswith(".py") or "::" not in name else f"{name}.py"
    if "::" in wanted and shipped_config(wanted):
        return wanted
    wanted = wanted.partition("::")[2] or wanted
    wanted = _plain(Path(wanted).stem if wanted.endswith(".py") else wanted)
    models = [(model, [_plain(other) for other in model.names]) for model in zoo()]
    if "::" not in name:
        found = [model for model, names in models if wanted in names]
        found = found or [model for model, names in models if any(other.startswith(wanted) for other in names)]
        if len(found) == 1:
            return found[0].config
        if found:
            raise ValueError(
                f"got {name!r}, with which the names of {len(found)} models begin: {_some(found)}. Give more of it."
            )
    raise ValueError(f"got {name!r}, which no installed package describes. The nearest are {_nearest(wanted)}.")


def _plain(name: str) -> str:
    """Returns a name as names are compared: YOLOX-s is yolox_s."""
    return name.lower().replace("-", "_")


def _some(models: Sequence[ZooModel]) -> str:
    names = [Path(model.config).stem for model in models]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _nearest(name: str) -> str:
    """Returns the configurations whose names are most like one that does not exist."""
    configs = {_plain(other): model.config for model in zoo() for other in model.names}
    beginnings = {other[: len(name)]: config for other, config in reversed(configs.items())}
    near = [configs[other] for other in difflib.get_close_matches(name, configs, n=4, cutoff=0.5)]
    if len(name) > 3:
        near += [beginnings[other] for other in difflib.get_close_matches(name, beginnings, n=4)]
    return ", ".join([*dict.fromkeys(near)][:4]) or "none; give the path of a file"


def rivals(model: ZooModel, benchmark: Benchmark) -> Iterator[ZooModel]:
    """Yields the models with a checkpoint and a better accuracy than another model's, the best first.

    Args:
        model: model to beat.
        benchmark: data set and metric to compare by.
    """
    least = model.accuracies.get(benchmark, float("-inf"))
    better = [other for other in zoo(model.config.split("::")[0]) if other.accuracies.get(benchmark, least) > least]
    yield from sorted((other for other in better if other.checkpoint), key=lambda m: -m.accuracies[benchmark])

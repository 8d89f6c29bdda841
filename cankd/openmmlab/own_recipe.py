"""Lays data of one's own over any stock configuration of a detector or a segmenter.

A configuration whose ``own_data`` describes the data is changed when it is read: its data sets, evaluators, heads and,
where that is asked for, image sizes and schedule. All else of the recipe stays.
"""

from __future__ import annotations

import copy
import math
import os
from typing import Any, Iterable, Sequence

from mmengine.config import Config

from cankd.openmmlab.own_data import SPLITS, OwnData, suffixes

# What a data set of a recipe keeps.
KEPT_KEYS = ("pipeline", "filter_cfg", "test_mode", "backend_args", "indices", "serialize_data", "lazy_init", "_scope_")
OTHER_CLASSES = ("rpn_head", "semantic_head")  # modules whose num_classes is not the number of the data's classes
BOUNDARY_HEADS = ("STDCHead",)  # types of heads that tell boundaries from the rest
SIZE_KEYS = ("scale", "scales", "img_scale", "crop_size", "size", "border", "width", "height", "max_size")
HEIGHT_FIRST = ("RandomCenterCropPad", "BatchFixedSizePad")  # types whose sizes are (height, width)
DIVISOR = 32  # a size that is a multiple of it stays one
# Keys of schedulers, and of hooks, that count epochs or iterations.
COUNTS = ("begin", "end", "T_max", "milestones", "step_size", "total_iters")
SWITCHES = {"PipelineSwitchHook": "switch_epoch", "YOLOXModeSwitchHook": "num_last_epochs"}


def expand_own_data(cfg: Config) -> None:
    """Lays the data that a configuration's ``own_data`` describes over it, in place; without ``own_data`` nothing.

    Of a distillation the student is changed. The teacher is as its own configuration and ``num_classes`` say.

    Args:
        cfg: configuration of a distillation or of a single model; ``own_data`` is taken out.

    Raises:
        ValueError: for a faulty description, and for a recipe that such data cannot train.
    """
    given = cfg.pop("own_data", None)
    if given is None:
        return
    own = OwnData.of(_plain(given))
    loaders = [f"{split}_dataloader" for split in SPLITS]
    config = {key: _plain(value) for key, value in cfg.items()}
    _check_task(own, [config[key]["dataset"] for key in loaders if config.get(key)])
    size, old = own.size, recipe_size(cfg)
    for split, key in zip(SPLITS, loaders):
        if config.get(key):
            loader = config[key]
            loader["dataset"] = _dataset(loader["dataset"], own, split, old)
            if split == "train" and own.batch_size:
                loader["batch_size"] = own.batch_size
            cfg[key] = loader
        if cfg.get(f"{split}_evaluator"):
            cfg[f"{split}_evaluator"] = _evaluator(config[f"{split}_evaluator"], own, split)
    if config.get("custom_hooks"):
        for hook in config["custom_hooks"]:
            if "switch_pipeline" in hook:
                hook["switch_pipeline"] = _pipeline(hook["switch_pipeline"], own, old)
        cfg.custom_hooks = config["custom_hooks"]
    model = config.get("model")
    if model:
        part = model["architecture"] if "architecture" in model else model
        if _kind(part) == "StockModel":
            part["num_classes"] = len(own.classes)
            if size:
                part["image_size"] = size
        else:
            part = with_image_size(with_classes(part, len(own.classes)), old, size)
        cfg.model = {**model, "architecture": part} if "architecture" in model else part
    if config.get("data_preprocessor"):  # mmseg's configurations have it outside of the model, too
        outside = {"data_preprocessor": config["data_preprocessor"]}
        cfg.data_preprocessor = with_image_size(outside, old, size)["data_preprocessor"]
    if own.epochs or own.iterations:
        _change_length(cfg, own)


def learns_masks(cfg: Config) -> bool:
    """Returns whether a detector's recipe loads the masks of instances."""
    return _loads(cfg.get("train_dataloader"), "with_mask")


def _loads(value: Any, what: str) -> bool:
    """Returns whether any LoadAnnotations in a configuration has an option."""
    if isinstance(value, dict) and _kind(value) == "LoadAnnotations" and value.get(what):
        return True
    return any(_loads(part, what) for part in _parts(value))


def _parts(value: Any) -> Iterable[Any]:
    """Returns the values in a dict, list or tuple of a configuration; nothing for other values."""
    return value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()


def _plain(value: Any) -> Any:
    """Returns a copy of a configuration in plain dicts."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _check_task(own: OwnData, datasets: Sequence[Any]) -> None:
    """Refuses a recipe of another task than the data's."""
    transforms = {kind for dataset in datasets for kind in _types(dataset)}
    if "LoadPanopticAnnotations" in transforms:
        raise ValueError("own_data: got a panoptic recipe, expected a detector's, an instance segmenter's or mmseg's.")
    if _loads(datasets, "with_seg"):
        raise ValueError("own_data: got a recipe that also learns maps of stuff, expected one of boxes or masks alone.")
    packer = "PackSegInputs" if own.is_segmentation else "PackDetInputs"
    if datasets and packer not in transforms:
        kind, other = ("masks", "segmenter") if own.is_segmentation else ("annotations", "detector")
        raise ValueError(f"own_data.train: got {kind}, which train a {other}; this recipe is none. Choose another one.")


def _kind(config: dict[str, Any]) -> str:
    """Returns the type of a dict without its scope, or an empty string."""
    return str(config.get("type", "")).split(".")[-1]


def _types(value: Any) -> list[str]:
    """Returns the types of all dicts in a configuration."""
    own = [_kind(value)] if isinstance(value, dict) else []
    return own + [found for part in _parts(value) for found in _types(part)]


def _dataset(dataset: dict[str, Any], own: OwnData, split: str, old: tuple[int, int] | None) -> dict[str, Any]:
    """Returns a data set of one's own inside the wrappers of the recipe's; of several joined ones the first counts."""
    if "datasets" in dataset:
        return _dataset(dataset["datasets"][0], own, split, old)
    if "dataset" in dataset:
        changed = {**dataset, "dataset": _dataset(dataset["dataset"], own, split, old)}
        if "pipeline" in dataset:
            changed["pipeline"] = _pipeline(dataset["pipeline"], own, old)
        return changed
    kept = {key: dataset[key] for key in KEPT_KEYS if key in dataset}
    kept["pipeline"] = _pipeline(dataset["pipeline"], own, old)
    paths = own.split(split)
    common = dict(data_root=own.root, metainfo=own.metainfo)
    if own.is_segmentation:
        image_suffix, mask_suffix = suffixes(own, split)
        prefix = dict(img_path=paths["images"], seg_map_path=paths["masks"])
        kept.pop("filter_cfg", None)
        return dict(
            type="BaseSegDataset",
            **common,
            data_prefix=prefix,
            img_suffix=image_suffix,
            seg_map_suffix=mask_suffix,
            **kept,
        )
    prefix = dict(img=os.path.join(paths["images"], ""))
    return dict(type="CocoDataset", **common, ann_file=paths["annotations"], data_prefix=prefix, **kept)


def _evaluator(evaluator: Any, own: OwnData, split: str) -> dict[str, Any]:
    """Returns the evaluator of a split, with the recipe's settings where they are of the same kind."""
    kind = "IoUMetric" if own.is_segmentation else "CocoMetric"
    given = evaluator if isinstance(evaluator, list) else [evaluator]
    same: dict[str, Any] = next((metric for metric in given if _kind(metric) == kind), {})
    if own.is_segmentation:
        return {"iou_metrics": ["mIoU"], **same, "type": kind}
    metric = next((other["metric"] for other in given if set(_listed(other.get("metric"))) <= {"bbox", "segm"}), "bbox")
    changes = dict(type=kind, ann_file=str(own.path(split, "annotations")), metric=metric, format_only=False)
    return {**same, **changes}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _pipeline(pipeline: Sequence[Any], own: OwnData, old: tuple[int, int] | None) -> list[Any]:
    """Returns a pipeline with other sizes and, of a segmenter, with the void label left out."""
    result: list[Any] = []
    for transform in pipeline:
        transform = copy.deepcopy(transform)
        if own.is_segmentation and _kind(transform) == "LoadAnnotations":
            transform.pop("reduce_zero_label", None)
            result += [transform, dict(type="CheckMask", num_classes=len(own.classes), void=own.void)]
        else:
            result.append(transform)
    return _resized(result, own, old)


def with_classes(model: Any, num_classes: int) -> Any:
    """Returns the configuration of a model whose heads tell other classes apart.

    Args:
        model: configuration of a detector or segmenter; it is not changed.
        num_classes: number of classes.

    Returns:
        A copy in which every ``num_classes`` is this number, but those of region proposals, of stuff and of boundaries.
        Weights of the recipe's own classes are left out.
    """
    return _with_classes(model, num_classes, 0)


def _with_classes(value: Any, count: int, old: int) -> Any:
    """Does the work of :func:`with_classes`; ``old`` is the number of classes of the head around the value."""
    if isinstance(value, (list, tuple)):
        return type(value)(_with_classes(part, count, old) for part in value)
    if not isinstance(value, dict) or _kind(value) in BOUNDARY_HEADS:
        return copy.deepcopy(value)
    old = value.get("num_classes") or sum(value.get(f"num_{kind}_classes", 0) for kind in ("things", "stuff")) or old
    result = type(value)()
    for key, part in value.items():
        if key in OTHER_CLASSES:
            result[key] = copy.deepcopy(part)
        elif key in ("num_classes", "num_things_classes"):
            result[key] = count
        elif key == "num_stuff_classes":
            result[key] = 0
        elif key == "class_weight" and isinstance(part, (list, tuple)):
            if len(part) == old + 1:  # with the background's weight at the end
                result[key] = [part[0]] * count + [part[-1]]
        else:
            result[key] = _with_classes(part, count, old)
    return result


def recipe_size(cfg: Config) -> tuple[int, int] | None:
    """Returns width and height that a recipe resizes images to, the first of its test pipeline, or None."""
    for split in reversed(SPLITS):
        found = _first_scale((cfg.get(f"{split}_dataloader") or {}).get("dataset"))
        if found:
            return found
    return None


def _first_scale(value: Any) -> tuple[int, int] | None:
    if isinstance(value, dict) and _is_pair(value.get("scale")):
        return tuple(value["scale"])  # type: ignore[return-value]
    return next(filter(None, map(_first_scale, _parts(value))), None)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(part) is int for part in value)


def with_image_size(model: dict[str, Any], old: tuple[int, int] | None, new: tuple[int, int] | None) -> dict[str, Any]:
    """Returns the configuration of a model whose data preprocessor and windows fit images of another size.

    Args:
        model: configuration of a model; it is not changed.
        old: width and height that its recipe resizes images to.
        new: width and height to use instead, or None for the same.
    """
    model = copy.deepcopy(model)
    preprocessor = model.get("data_preprocessor") or {}
    if new and preprocessor.get("size"):
        preprocessor["size"] = _crop(preprocessor["size"], new)
    if new and preprocessor.get("batch_augments"):
        preprocessor["batch_augments"] = _scaled_sizes(preprocessor["batch_augments"], _known(old), new)
    windows = model.get("test_cfg") or {}
    if new and windows.get("mode") == "slide":
        crop = _crop(windows["crop_size"], new)
        windows["stride"] = tuple(
            max(1, stride * now // before) for stride, now, before in zip(windows["stride"], crop, windows["crop_size"])
        )
        windows["crop_size"] = crop
    return model


def _known(old: tuple[int, int] | None) -> tuple[int, int]:
    if old is None:
        raise ValueError("own_data.image_size: got a recipe that does not resize images. Leave image_size out.")
    return old


def _crop(crop: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of a segmenter's crops, which are not larger than the images."""
    height, width = (max(DIVISOR, length // DIVISOR * DIVISOR) for length in reversed(size))
    return min(crop[0], height), min(crop[1], width)


def _resized(pipeline: list[Any], own: OwnData, old: tuple[int, int] | None) -> list[Any]:
    """Returns a pipeline for images of another size."""
    if not own.size:
        return pipeline
    new, result = own.size, []
    for transform in pipeline:
        scaled = _scaled_sizes(transform, _known(old), new)
        if own.is_segmentation and _kind(transform) == "RandomCrop":
            scaled["crop_size"] = _crop(transform["crop_size"], new)
        elif own.is_segmentation and _kind(transform) == "Pad" and _is_pair(transform.get("size")):
            scaled["size"] = _crop(transform["size"][::-1], new)[::-1]
        result.append(scaled)
    return result


def _scaled_sizes(value: Any, old: tuple[int, int], new: tuple[int, int]) -> Any:
    """Returns a configuration whose sizes in pixels changed like the images'."""
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled_sizes(part, old, new) for part in value)
    if not isinstance(value, dict):
        return value
    factors, short = (new[0] / old[0], new[1] / old[1]), min(new) / min(old)
    if _kind(value) in HEIGHT_FIRST:
        factors = factors[::-1]
    elif value.get("crop_type") == "absolute_range":  # its crop_size is the least and the largest side
        factors = (short, short)
    result = {}
    for key, part in value.items():
        if key in SIZE_KEYS:
            result[key] = _scaled_size(key, part, factors, short, is_wide=old[0] > old[1])
        elif key == "random_size_range":
            result[key] = tuple(_scaled(length, min(factors)) for length in part)
        else:
            result[key] = _scaled_sizes(part, old, new)
    return result


def _scaled_size(key: str, value: Any, factors: tuple[float, float], short: float, is_wide: bool) -> Any:
    """Returns one size: a pair, a list of sizes, or one number, which is the shorter side's if nothing else is said.

    Args:
        key: name of the size.
        value: the size.
        factors: what width and height are multiplied by.
        short: what the shorter side is multiplied by.
        is_wide: whether the recipe's images are wider than high. A pair (shorter, longer side) is not, then.
    """
    if type(value) is int:
        return _scaled(value, {"width": factors[0], "height": factors[1], "max_size": max(factors)}.get(key, short))
    if not isinstance(value, (list, tuple)) or any(isinstance(part, float) for part in value):
        return value
    if key == "scales" or not _is_pair(value):
        return [_scaled_size("scale", part, factors, short, is_wide) for part in value]
    if key == "border":  # half of what is cut off
        return tuple(_scaled(2 * part, factor) // 2 for part, factor in zip(value, factors))
    if key == "scale" and is_wide and value[0] < value[1]:
        factors = factors[::-1]
    return tuple(_scaled(part, factor) for part, factor in zip(value, factors))


def _scaled(length: int, factor: float) -> int:
    """Returns a length times a factor; a multiple of :data:`DIVISOR` stays one."""
    step = 1 if length % DIVISOR else DIVISOR
    scaled = max(step, round(abs(length) * factor / step) * step)
    return scaled if length >= 0 else -scaled


def _change_length(cfg: Config, own: OwnData) -> None:
    """Stretches or shrinks a recipe's schedule to another number of epochs or iterations.

    Schedulers that end with the recipe and the switches of its pipelines move; intervals are at most the new length.
    What a file lays over the recipe for the new length stays.
    """
    loop = cfg.train_cfg
    key, name = ("max_epochs", "epochs") if "max_epochs" in loop else ("max_iters", "iterations")
    old, length = loop[key], getattr(own, name)
    if length is None:
        raise ValueError(f"own_data: got no {name}, which this recipe counts. Give {name}.")
    factor = length / old
    loop[key] = length
    for part, interval in ((loop, "val_interval"), (cfg.get("default_hooks", {}).get("checkpoint", {}), "interval")):
        if interval in part:
            part[interval] = min(part[interval], length)
    if loop.get("dynamic_intervals"):
        loop.dynamic_intervals = [(_moved(begin, factor), step) for begin, step in loop.dynamic_intervals]
    schedulers = _listed(cfg.get("param_scheduler") or [])
    if any(part.get("end") == old for part in schedulers):
        for part in schedulers:
            _move(part, COUNTS, factor)
    for hook in cfg.get("custom_hooks") or []:
        if _kind(hook) in SWITCHES:
            _move(hook, SWITCHES.values(), factor)


def _moved(count: int, factor: float) -> int:
    return max(1, round(count * factor))


def _move(part: dict[str, Any], keys: Iterable[str], factor: float) -> None:
    """Multiplies numbers of epochs or iterations by a factor, in place."""
    for key in keys:
        value = part.get(key)
        if isinstance(value, (list, tuple)):
            part[key] = [_moved(number, factor) for number in value]
        elif type(value) is int and (key != "begin" or value):
            part[key] = int(value * factor) if key == "begin" else _moved(value, factor)
    if part.get("begin", 0) >= part.get("end", math.inf):
        part["end"] = part["begin"] + 1

"""Records the maps that a model's modules return for an image file, and reduces their channels for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from cankd.openmmlab.compat import own_config
from cankd.openmmlab.connectors import set_image_sizes
from cankd.openmmlab.inference import prepare
from cankd.openmmlab.recording import ModelRecorder
from cankd.openmmlab.visualization.panels import Boxes, View, feature_energy

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
ENERGY_LABEL = "mean |x|"
CHANNEL_REDUCTIONS = ("squeeze_mean", "select_max", "pixel_wise_max")


class Recorded(NamedTuple):
    """One image's maps (C, H, W) by name, the image as the network saw it, and the prediction."""

    maps: dict[str, Tensor]
    view: View
    sample: Any


def list_images(paths: Sequence[str | Path]) -> list[Path]:
    """Lists image files, also those in folders, and checks that each can be read.

    Args:
        paths: files and folders.

    Returns:
        The files in order, those of a folder by name.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no images or a file is none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"image: got {path}, expected an image file or a folder of them. Check the path.")
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise ValueError(f"image: the folder {path} holds no image ({', '.join(IMAGE_SUFFIXES)}).")
        files += found
    for file in files:
        if cv2.imread(str(file)) is None:
            raise ValueError(
                f"image: {file} cannot be read as an image. Give a whole {', '.join(IMAGE_SUFFIXES)} file."
            )
    return files


def image_names(files: Sequence[Path]) -> list[str]:
    """Returns a different name for each image file: its stem, with folder and number where stems repeat."""
    stems = [file.stem for file in files]
    names: dict[str, None] = {}
    for file in files:
        first = name = file.stem if stems.count(file.stem) == 1 else f"{file.absolute().parent.name}_{file.stem}"
        number = 1
        while name in names:
            number += 1
            name = f"{first}_{number}"
        names[name] = None
    return list(names)


def read_vis_config(path: str | Path, keys: Sequence[str]) -> Config:
    """Reads a configuration of recorders and mappings.

    Args:
        path: configuration file, or ``cankd::vis/...`` for one that cankd ships.
        keys: keys that it must have.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a key is missing.
    """
    file = own_config(path) or Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"vis_config: got {path}, expected an existing file, or one that cankd ships, such as "
            "cankd::vis/fpn_feature_visualization.py. Check the path."
        )
    config = Config.fromfile(file)
    missing = [key for key in keys if not config.get(key)]
    if missing:
        raise ValueError(f"vis_config: {path} has no {', '.join(missing)}; expected {', '.join(keys)}.")
    return config


def predicted_boxes(sample: Any, classes: Sequence[str], score_thr: float) -> Boxes:
    """Returns a detector's boxes above a score, captioned with class and score, and their masks if it predicts any.

    Args:
        sample: data sample that the detector returned.
        classes: names of the classes.
        score_thr: least score.

    Returns:
        Boxes in pixels of the file.

    Raises:
        ValueError: if the model predicts no boxes.
    """
    if "pred_instances" not in sample:
        raise ValueError(f"got a {type(sample).__name__} without boxes, expected a detector's prediction.")
    found = sample.pred_instances
    found = found[found.scores >= score_thr].cpu()
    scores = [f"{score:.2f}" for score in found.scores.tolist()]
    captions = [f"{classes[label]} {score}" for label, score in zip(found.labels.tolist(), scores)]
    return Boxes(found.bboxes.numpy(), captions, scores, found.masks.numpy() if "masks" in found else None)


def network_view(batch: Mapping[str, Any], covered: Sequence[int]) -> View:
    """Returns the image as the network sees it: resized and cropped by the test pipeline, not normalised.

    Args:
        batch: result of :func:`cankd.openmmlab.inference.prepare`.
        covered: (H, W) of the network's input, with padding.
    """
    image = batch["inputs"][0].detach().cpu()
    if image.is_floating_point():  # a pipeline that normalises by itself
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-6) * 255
    picture = image.to(torch.uint8).permute(1, 2, 0).numpy()[..., ::-1]
    return View(np.ascontiguousarray(picture), (int(covered[0]), int(covered[1])))


class FeatureRecorder:
    """Runs a model on image files and returns the maps that a visualization configuration names.

    Args:
        model: model from :func:`cankd.openmmlab.loading.load_model`. Its in-place activations are switched
            off, so that a record stays as the module returned it.
        cfg: configuration of the model.
        recorders: name -> recorder configuration, as in mmrazor; a source may say
            ``architecture.neck`` for the model's ``neck``, as published files do.
        mappings: name of a map -> ``dict(recorder=..., record_idx=0, data_idx=None, connector=None)``.
        connectors: name -> module that is applied to the map of a mapping with that ``connector``,
            as in a distillation's loss. Defaults to none.

    Raises:
        ValueError: if a recorder's source does not exist, or a mapping names no recorder or connector.
    """

    def __init__(
        self,
        model: BaseModel,
        cfg: Config,
        recorders: Mapping[str, Any],
        mappings: Mapping[str, Any],
        connectors: Mapping[str, nn.Module] | None = None,
    ) -> None:
        for name, mapping in mappings.items():
            if mapping.get("recorder") not in recorders:
                known = ", ".join(recorders)
                raise ValueError(
                    f"mapping {name!r}: got recorder={mapping.get('recorder')!r}, expected one of {known}."
                )
            if mapping.get("connector") and mapping["connector"] not in (connectors or {}):
                known = ", ".join(connectors or {}) or "none, as the distillation has no connectors"
                raise ValueError(f"mapping {name!r}: got connector={mapping['connector']!r}, expected one of {known}.")
        if (getattr(model, "test_cfg", None) or {}).get("mode") == "slide":
            raise ValueError(
                "the segmenter tests by sliding window, so its maps show crops. Give "
                "--cfg-options model.test_cfg.mode=whole (model.architecture.test_cfg.mode in a distillation config)."
            )
        self.model, self.cfg, self.mappings = model, cfg, mappings
        self.connectors = connectors or {}
        self.recorder = ModelRecorder(model, recorders)

    @torch.no_grad()
    def __call__(self, image: str | Path) -> Recorded:
        """Runs the model on one file.

        Args:
            image: image file.

        Raises:
            ValueError: if a record does not exist or is no map (1, C, H, W).
        """
        batch = prepare(self.cfg, image)
        data = self.model.data_preprocessor(batch, False)
        with self.recorder:
            sample = self.model(**data, mode="predict")[0]
        maps: dict[str, Tensor] = {}
        for name, mapping in self.mappings.items():
            record = self.recorder.record(name, **{key: value for key, value in mapping.items() if key != "connector"})
            parts = {f"{name}_{i}": part for i, part in enumerate(record)} if isinstance(record, (list, tuple)) else {}
            for key, part in (parts or {name: record}).items():
                if mapping.get("connector") and isinstance(part, Tensor):
                    part = self._connected(name, mapping["connector"], part, data["inputs"])
                if not isinstance(part, Tensor) or part.dim() != 4:
                    got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                    raise ValueError(
                        f"mapping {name!r}: got {got}, expected a map (1, C, H, W). Record another module."
                    )
                maps[key] = part[0].float().cpu()
        return Recorded(maps, network_view(batch, data["inputs"].shape[-2:]), sample)

    def _connected(self, mapping: str, connector: str, feature: Tensor, images: Tensor) -> Tensor:
        """Applies a connector to a map (1, C, H, W) or to tokens (1, N, C) of the images."""
        set_image_sizes(self.connectors[connector], images.shape[2:], images.shape[2:])
        try:
            return self.connectors[connector](feature)
        except RuntimeError as error:
            raise ValueError(
                f"mapping {mapping!r}: a map {tuple(feature.shape)} does not fit connector {connector!r} ({error}). "
                "Map the record that the distillation sends through it."
            ) from error


def standardise(feature: Tensor) -> Tensor:
    """Scales a map (C, H, W) to mean 0 and variance 1 over the positions of each channel, as the loss does."""
    return F.instance_norm(feature[None])[0]


def map_differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Computes the absolute difference of two models' maps, paired in their order.

    Args:
        first: maps of the first model, name -> (C, H, W).
        second: maps of the second model, name -> (C, H, W).

    Returns:
        Name, or both names where they differ -> (C, H, W).

    Raises:
        ValueError: if there are not as many maps in both, or a pair's shapes differ.
    """
    if len(first) != len(second):
        raise ValueError(f"vis_config: got {len(first)} maps of model 1 and {len(second)} of model 2, expected pairs.")
    differences = {}
    for (name1, map1), (name2, map2) in zip(first.items(), second.items()):
        if map1.shape != map2.shape:
            raise ValueError(
                f"got maps {tuple(map1.shape)} of {name1} and {tuple(map2.shape)} of {name2}, expected one shape. Pair "
                "levels of the same stride and width in the mappings, or name the distillation's connector there."
            )
        differences[name1 if name1 == name2 else f"{name1} - {name2}"] = (map1 - map2).abs()
    return differences


def reduce_channels(
    feature: Tensor,
    reduction: str | None = None,
    topk: int = 20,
    use_norm: bool = False,
    resize_shape: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Reduces a map's channels to those that are drawn.

    Args:
        feature: map, (C, H, W).
        reduction: ``squeeze_mean`` (mean), ``pixel_wise_max``, ``select_max`` (the channel with
            the largest sum) or ``energy`` (mean of the absolute values). Defaults to none of
            them: ``topk`` channels.
        topk: number of channels, those with the largest sums; 0 for all of a map of 1 or 3.
        use_norm: whether each channel is first standardised, see :func:`standardise`.
        resize_shape: (H, W) to which the map is then resized bilinearly. Defaults to its own.

    Returns:
        Caption -> (H, W).

    Raises:
        ValueError: if ``topk`` is 0 and the map has another number of channels.
    """
    if use_norm:
        feature = standardise(feature)
    if resize_shape is not None:
        feature = F.interpolate(feature[None], tuple(resize_shape), mode="bilinear", align_corners=False)[0]
    if reduction == "energy":
        return {ENERGY_LABEL: feature_energy(feature)}
    if reduction == "squeeze_mean":
        return {"mean": feature.mean(0).numpy()}
    if reduction == "pixel_wise_max":
        return {"max": feature.amax(0).numpy()}
    channels = len(feature)
    if reduction is None and topk <= 0:
        if channels not in (1, 3):
            raise ValueError(
                f"--topk: got {topk} for a map of {channels} channels, which shows all of 1 or 3. Give --topk above 0 "
                "or --channel-reduction."
            )
        order = torch.arange(channels)
    else:
        order = feature.sum((1, 2)).topk(1 if reduction else min(topk, channels)).indices
    return {f"channel {i}": feature[i].numpy() for i in order.tolist()}


def panel_row(
    maps: Mapping[str, Tensor], reduction: str | None, use_norm: bool, resize_shape: Sequence[int] | None
) -> list[np.ndarray]:
    """Returns one row of a panel: every map reduced to one channel, by its energy if no reduction is given."""
    reduced = [reduce_channels(feature, reduction or "energy", 1, use_norm, resize_shape) for feature in maps.values()]
    return [values for shown in reduced for values in shown.values()]

"""Computes Grad-CAM of classifiers, by the package pytorch-grad-cam."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from cankd.openmmlab.recording import module_shapes, nearest_names


class _Logits(nn.Module):
    """A classifier that maps images to logits."""

    def __init__(self, classifier: BaseModel) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images, mode="tensor")


@torch.no_grad()
def class_scores(model: BaseModel, data: Mapping[str, Any]) -> Tensor:
    """Computes a classifier's probability of each class, (classes,), for one image.

    Args:
        model: classifier in eval mode.
        data: batch of one image, from its ``data_preprocessor``.

    Raises:
        ValueError: if the model is no classifier.
    """
    logits = model(data["inputs"], mode="tensor")
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(f"got a {type(model).__name__}, expected a classifier, whose output is one score per class.")
    return logits[0].softmax(0)


def backbone_stages(model: BaseModel, data: Mapping[str, Any], most: int = 4) -> list[str]:
    """Finds the backbone's modules after which its maps shrink, such as ``backbone.layer1`` to ``layer4`` of a ResNet.

    Args:
        model: classifier in eval mode.
        data: batch that its ``data_preprocessor`` returned.
        most: largest number of modules, counted from the end. Defaults to 4.

    Returns:
        Names of the last module directly in the backbone for each height and width.

    Raises:
        ValueError: if no module there returns a map.
    """
    last: dict[tuple[int, ...], str] = {}
    for name, outputs in module_shapes(model, data).items():
        if name.startswith("backbone.") and name.count(".") == 1:
            last.update({shape[2:]: name for shape in outputs.values() if len(shape) == 4})
    if not last:
        raise ValueError("no module of the backbone puts out a map (B, C, H, W). Name some with --target-layers.")
    return list(last.values())[-most:]


def grad_cam(model: BaseModel, data: Mapping[str, Any], layers: Sequence[str], category: int) -> list[np.ndarray]:
    """Computes where a classifier's layers support a class (Grad-CAM).

    Args:
        model: classifier in eval mode.
        data: batch of one image, from its ``data_preprocessor``.
        layers: names of modules that return maps.
        category: number of the class.

    Returns:
        For each layer a map of the input's size (H, W), scaled to 0 to 1.

    Raises:
        ImportError: if pytorch-grad-cam is not installed.
        ValueError: if a layer does not exist or returns no map.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise ImportError(
            "Grad-CAM needs the package grad-cam. Install it with `pip install --no-deps grad-cam ttach`: with its "
            "dependencies it would put another OpenCV over the one in use."
        ) from error
    modules = dict(model.named_modules())
    shapes = module_shapes(model, data)
    for layer in layers:
        if layer not in modules:
            near = nearest_names(layer, [name for name in modules if name])
            raise ValueError(f"--target-layers: got {layer}, which the model does not have; the nearest are {near}.")
        if [len(shape) for shape in shapes[layer].values()] != [4]:
            raise ValueError(f"--target-layers: {layer} does not put out one map (B, C, H, W), expected such a module.")
    images = data["inputs"].detach().clone().requires_grad_()  # so that frozen stages, too, hand gradients on
    targets = [ClassifierOutputTarget(category)]
    maps = []
    for layer in layers:
        with GradCAM(model=_Logits(model), target_layers=[modules[layer]]) as cam:
            maps.append(cam(input_tensor=images, targets=targets)[0])
    return maps

"""Exports a model's dense part as ONNX and compares it with torch."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import warnings
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import Tensor, nn

from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import local_file
from cankd.openmmlab.compat import quiet_imports
from cankd.openmmlab.configs import in_scope
from cankd.openmmlab.inference import prepare
from cankd.openmmlab.preprocessing import reverses_channels
from cankd.utils.files import sha256, whole

# Largest difference from torch, relative to the largest value of an output; both compute in float32.
TOLERANCE = 1e-4


class DensePart(nn.Module):
    """The part of a model that is a function of a normalised image alone.

    Backbone and neck, and behind them what is dense: a one-stage detector's head, a two-stage
    detector's RPN, a segmenter's decoder, a classifier's head. Decoding of boxes, suppression
    and the second stage are left out, and so are the transformers of DETR's family.

    Args:
        model: model of mmdet, mmseg or mmpretrain.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        heads = ("bbox_head", "rpn_head", "decode_head", "head")
        self.eval()  # a fresh module trains, and the exporter would put the model back into that mode
        self.head_name = next((name for name in heads if self._is_dense(name)), None)

    def _is_dense(self, name: str) -> bool:
        head = getattr(self.model, name, None)
        kind = BaseDenseHead if name in ("bbox_head", "rpn_head") else nn.Module
        return isinstance(head, kind) and not isinstance(head, nn.ModuleList)

    def parts(self) -> dict[str, nn.Module]:
        """Returns the exported modules by name."""
        names = ("backbone", "neck", self.head_name)
        return {name: part for name in names if name and isinstance(part := getattr(self.model, name, None), nn.Module)}

    def forward(self, image: Tensor) -> list[Tensor]:
        """Returns the neck's (or backbone's) maps, then the head's outputs, for images (B, 3, H, W)."""
        features = self.model.extract_feat(image)
        outputs = list(features) if isinstance(features, (tuple, list)) else [features]
        if self.head_name:
            outputs += _flatten(getattr(self.model, self.head_name)(features))
        return outputs

    def output_names(self, image: Tensor) -> list[str]:
        """Returns the names of the outputs, in their order."""
        features = self.model.extract_feat(image)
        count = len(features) if isinstance(features, (tuple, list)) else 1
        part = "neck" if "neck" in self.parts() else "backbone"
        heads = len(self(image)) - count
        return [f"{part}_{i}" for i in range(count)] + [f"{self.head_name}_{i}" for i in range(heads)]


def _flatten(value: Any) -> list[Tensor]:
    """Returns all tensors of nested sequences."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _flatten(part)] if isinstance(value, (tuple, list)) else []


def _averages(size: int, count: int) -> Tensor:
    """Returns the matrix (count, size) whose rows average the bins of adaptive pooling over ``size`` positions."""
    position, number = torch.arange(size), torch.arange(count)[:, None]
    begin, end = number * size // count, ((number + 1) * size + count - 1) // count
    return ((position >= begin) & (position < end)).float() / (end - begin)


class _AdaptivePoolAsProducts(nn.Module):
    """Adaptive average pooling for ONNX, which has none: two products with matrices of averages."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size if isinstance(output_size, tuple) else (output_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the averages (B, C, *output_size) of a map (B, C, H, W)."""
        rows, columns = (_averages(size, count) for size, count in zip(x.shape[2:], self.output_size))
        return rows @ x @ columns.T


@contextlib.contextmanager
def _exportable_pooling(part: nn.Module) -> Iterator[None]:
    """Puts :class:`_AdaptivePoolAsProducts` in place of adaptive poolings to more than one position (PSPNet's)."""
    swapped = []
    for parent in list(part.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                swapped.append((parent, name, child))
                setattr(parent, name, _AdaptivePoolAsProducts(child.output_size))
    try:
        yield
    finally:
        for parent, name, child in swapped:
            setattr(parent, name, child)


@contextlib.contextmanager
def _without_standard_output() -> Iterator[None]:
    """Discards standard output, also that of C++: torch's exporter prints graphs that it cannot export there."""
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def check_exportable(part: DensePart) -> None:
    """Refuses operators that ONNX does not have.

    Args:
        part: part of the model that is to be exported.

    Raises:
        ValueError: if it holds deformable convolutions (RepPoints and backbones with DCN do).
    """
    found = [
        f"{name}.{inner}" if inner else name
        for name, module in part.parts().items()
        for inner, layer in module.named_modules()
        if "DeformConv" in type(layer).__name__
    ]
    if found:
        kind = type(part.model).__name__
        raise ValueError(
            f"{kind} cannot be exported: ONNX has no deformable convolution, and it has {len(found)}: "
            f"{', '.join(found[:3])}{' ...' if len(found) > 3 else ''}. mmdeploy exports it with operators of its own."
        )


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """Returns how a model's data preprocessor normalises an image that was read as BGR, 0 to 255."""
    preprocessor = model.data_preprocessor
    found: dict[str, Any] = {}
    for name in ("mean", "std"):
        buffer = getattr(preprocessor, name, None)
        found[name] = None if buffer is None else buffer.flatten().tolist()
    return {**found, "bgr_to_rgb": reverses_channels(preprocessor)}


def weights_sha256(state_dict: Mapping[str, Any]) -> str:
    """Returns a hash of weights that depends neither on the file nor on whether it stores them in half precision."""
    digest = hashlib.sha256()
    for name, value in sorted(state_dict.items()):
        if isinstance(value, Tensor):
            value = value.float() if value.is_floating_point() else value
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def export_and_check(
    part: DensePart, images: Sequence[Tensor], path: str | Path, dynamic: bool = False, opset: int = 17
) -> dict[str, float]:
    """Writes a model's dense part as ONNX if onnxruntime computes the same outputs as torch.

    Args:
        part: part to export, on the CPU.
        images: normalised images (1, 3, H, W) to compare on, all of one size unless ``dynamic``.
            The first one is traced.
        path: file to write, whole or not at all.
        dynamic: whether the file takes any batch size, height and width.
        opset: version of ONNX's operators.

    Returns:
        Output -> largest difference between the two over all images, relative to the largest
        value of the output.

    Raises:
        ValueError: if the model cannot be exported, an output is not finite or the outputs differ by
            more than :data:`TOLERANCE`.
    """
    check_exportable(part)
    with torch.no_grad():
        names = part.output_names(images[0])
    sizes = {0: "batch", 2: "height", 3: "width"}
    options: dict[str, Any] = dict(input_names=["image"], output_names=names, opset_version=opset)
    if dynamic:
        options["dynamic_axes"] = {name: sizes if name == "image" else {0: "batch"} for name in ("image", *names)}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # the other exporter needs onnxscript
    pooling = _exportable_pooling(part)
    with whole(path) as file:
        try:
            with warnings.catch_warnings(), torch.no_grad(), quiet_imports(), _without_standard_output(), pooling:
                warnings.simplefilter("ignore")  # tracing warns of every shape that becomes a constant
                torch.onnx.export(part, (images[0],), str(file), **options)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = str(error).splitlines()[0].split(" Please feel free")[0].split("  [Caused by")[0].rstrip(".")
            raise ValueError(
                f"{type(part.model).__name__} cannot be exported: {reason}. "
                "A fixed size (without --dynamic) may do, mmdeploy may know the operator."
            ) from error
        onnx.checker.check_model(str(file))
        errors = _differences(part, images, file, names)
        worst = max(errors, key=lambda name: errors[name])
        if errors[worst] > TOLERANCE:
            raise ValueError(
                f"onnxruntime's {worst} differs from torch's by {errors[worst]:.1e} of its largest value, more than "
                f"{TOLERANCE:.0e}; nothing was written."
            )
    return errors


def _differences(part: DensePart, images: Sequence[Tensor], file: Path, names: Sequence[str]) -> dict[str, float]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    errors = dict.fromkeys(names, 0.0)
    for image in images:
        with torch.no_grad():
            expected = part(image)
        for name, want, got in zip(names, expected, session.run(list(names), {"image": image.numpy()})):
            for side, output in (("torch", want.numpy()), ("onnxruntime", got)):
                if not np.isfinite(output).all():
                    raise ValueError(
                        f"{side}'s {name} holds {np.count_nonzero(~np.isfinite(output))} values of {output.size} that "
                        "are not finite (NaN or inf): there is nothing to compare, and nothing was written. Check the "
                        "checkpoint's weights and the training's losses."
                    )
            difference = np.abs(got - want.numpy()).max() / max(want.abs().max().item(), 1e-6)
            errors[name] = max(errors[name], float(difference))
    return errors


def first_images(cfg: Config, count: int = 4) -> list[str]:
    """Returns image files of the configuration's test data."""
    try:
        with in_scope(cfg), quiet_imports():
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
        return [dataset.get_data_info(index)["img_path"] for index in range(min(count, len(dataset)))]
    except (AttributeError, OSError) as error:
        raise ValueError(f"--images: the config's test data cannot be read ({error}). Name image files.") from error


def inputs_of(
    model: BaseModel, cfg: Config, images: list[Path], shape: list[int] | None, dynamic: bool
) -> list[Tensor]:
    """Returns normalised images (1, 3, H, W) from the test pipeline, of one size unless the file is dynamic."""
    inputs: list[Tensor] = []
    for image in images:
        pixels = model.data_preprocessor(prepare(cfg, image), False)["inputs"]
        size = tuple(shape) if shape else None if dynamic or not inputs else inputs[0].shape[2:]
        inputs.append(pixels if size is None else F.interpolate(pixels, size, mode="bilinear", align_corners=False))
    return inputs


def teacher_of(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Returns name and hashes of a distillation's teacher, as far as the checkpoint and the teacher's file tell."""
    name = checkpoint.teacher_name
    found: dict[str, str | None] = {"checkpoint": name, "checkpoint_sha256": None, "weights_sha256": None}
    if name:
        file = local_file(name)
        found["checkpoint"] = name if "://" in name else file.name
        if file.is_file():
            found["checkpoint_sha256"] = sha256(file)
            found["weights_sha256"] = weights_sha256(Checkpoint.read(file).state_dict)
    if checkpoint.holds("teacher"):
        found["weights_sha256"] = weights_sha256(checkpoint.part("teacher"))
    return found

"""Finds the feature maps of a model on one image, and pairs those of two models by their strides."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cankd.openmmlab.connectors import token_grid
from cankd.openmmlab.recording import OutputIndex, module_shapes, recorded_outputs, shapes_in_training

IMAGE = (256, 256)
MOST_EXTRA_TOKENS = 8  # class token, distillation token, registers


@dataclass(frozen=True)
class Map:
    """A feature map that a module returns for one image."""

    index: int | None  # among the module's maps; None if it returns one
    channels: int
    height: int
    width: int
    stride: int
    tokens: tuple[int, int] | None = None  # side of a patch, number of further tokens; of a module that returns tokens

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class Pair(NamedTuple):
    """A map of the student and the map of the teacher that it is compared with."""

    student: Map
    teacher: Map


@dataclass(frozen=True)
class ModelMaps:
    """The maps of a model that has seen one image.

    Args:
        shapes: what each of its modules returned; see :func:`~cankd.openmmlab.recording.module_shapes`.
        image: height and width of the image.
        patches: sides of the patches that its convolutions cut the image into, for modules that return tokens.
        stages: index of a map that the backbone returns -> the backbone's own part that returns this very map, such as
            ``backbone.layer4``. Defaults to none.
        read: index of the backbone's map that a segmenter's head reads, the last one of several. Defaults to None: it
            has a neck or no such head.
    """

    shapes: dict[str, dict[OutputIndex, tuple[int, ...]]]
    image: tuple[int, int]
    patches: frozenset[int]
    stages: Mapping[int | None, str] = field(default_factory=dict)
    read: int | None = None

    def of(self, source: str) -> list[Map]:
        """Returns the maps (B, C, H, W) that a module returns at its first call; tokens (B, N, C) count as maps.

        Of the backbone's maps the one that the head reads comes last.
        """
        maps = []
        for index, shape in self.shapes.get(source, {}).items():
            place = index[1] if len(index) > 1 else None
            if len(index) > 2 or index[0] > 0:
                continue
            if len(shape) == 4:
                _, channels, height, width = shape
                maps.append(Map(place, channels, height, width, stride=round(self.image[0] / height)))
            elif len(shape) == 3:
                maps += self._laid_out(place, *shape[1:])
        is_read = self.read is not None and source == "backbone"
        return sorted(maps, key=lambda found: found.index == self.read) if is_read else maps

    def _laid_out(self, place: int | None, tokens: int, channels: int) -> list[Map]:
        """Returns the map that tokens of the image's patches make; none if no patches make as many."""
        fits = {side: not any(extent % side for extent in self.image) for side in range(2, min(self.image) + 1)}
        sides = sorted(fits, key=lambda side: (side in self.patches, fits[side]), reverse=True)
        for extra in range(MOST_EXTRA_TOKENS + 1):
            for side in sides:
                grid = token_grid(tokens, extra, self.image, (side, side))
                if grid:
                    return [Map(place, channels, *grid, stride=side, tokens=(side, extra))]
        return []


class _NumbersOnCPU(TorchFunctionMode):
    """Computes on the CPU what models read as numbers: the rates of their stochastic depth."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Runs one function of torch."""
        device = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **{**device, **(kwargs or {})})


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Builds and runs models without memory and values inside the block."""
    with torch.device("meta"), _NumbersOnCPU():
        yield


def feature_maps(model: BaseModel, inputs: Tensor) -> ModelMaps:
    """Finds the maps that the modules return in training, while batch norms and dropout are in eval mode.

    The backbones of PIDNet and DDRNet return further maps in training; of these the one that they predict from counts.

    Args:
        model: model in eval mode.
        inputs: images, as its ``data_preprocessor`` returns them, (B, 3, H, W).

    Returns:
        The maps of the modules up to the neck.
    """
    backbone: Any = getattr(model, "backbone", None)
    parts = {f"backbone.{name}": part for name, part in backbone.named_children()} if backbone else {}
    whole = {"backbone": backbone} if backbone else {}
    with recorded_outputs({**parts, **whole}) as outputs:
        shapes = module_shapes(model, {"inputs": inputs}, whole=False)
    predicted = shapes.get("backbone", {}).get((0,))
    if predicted:
        trained = shapes_in_training(model, {"inputs": inputs})
        shapes["backbone"] = {index: shape for index, shape in trained.items() if shape == predicted}
    returned = outputs.get("backbone")
    stages: dict[int | None, str] = {}
    for index, found in enumerate(returned) if isinstance(returned, (list, tuple)) else [(None, returned)]:
        same = [name for name in parts if found is not None and outputs.get(name) is found]
        if same:
            stages[index] = same[0]
    patches = frozenset(
        module.stride[0]
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.stride == module.kernel_size
    )
    read = _read_by_head(model, len(returned)) if isinstance(returned, (list, tuple)) else None
    return ModelMaps(shapes, (inputs.shape[2], inputs.shape[3]), patches, stages, read)


def _read_by_head(model: BaseModel, count: int) -> int | None:
    """Returns the last of the backbone's maps that a segmenter's head reads, None if there is no such head."""
    heads: Any = getattr(model, "decode_head", None)
    head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    index = getattr(head, "in_index", None)
    if index is None or getattr(model, "neck", None) is not None:
        return None
    return max(range(count)[one] for one in (index if isinstance(index, (list, tuple)) else [index]))


def image_sizes(model: BaseModel) -> list[tuple[int, int]]:
    """Returns heights and widths to try a model with: a small one, then what it is trained with, if that is fixed."""
    trained = getattr(model.data_preprocessor, "size", None)
    return [IMAGE, tuple(trained)] if trained else [IMAGE]


def features(model: BaseModel, batch: Callable[[Sequence[int]], Tensor]) -> ModelMaps:
    """Finds the maps for one image, of the size that the model is trained with if it takes no other.

    Args:
        model: model in eval mode.
        batch: makes the batch of one image of a height and width.

    Returns:
        The maps of the modules up to the neck.
    """
    for size in image_sizes(model):
        try:
            return feature_maps(model, batch(size))
        except Exception as error:
            failed = error
    raise failed


def sizes_differ(pair: Pair, student: ModelMaps, teacher: ModelMaps) -> bool:
    """Returns whether the maps of a pair have different heights and widths for one image."""
    same_image = student.image == teacher.image
    return pair.student.stride != pair.teacher.stride or same_image and pair.student.size != pair.teacher.size


def same_strides(student: Sequence[Map], teacher: Sequence[Map], finest: int | None = None) -> list[Pair]:
    """Pairs maps of equal stride; without any, the two maps of the nearest strides.

    Args:
        student: maps of a module of the student, the most important one last. Of several of one stride the last counts.
        teacher: maps of a module of the teacher.
        finest: the largest number of pairs, of which those of the smallest strides are taken. Defaults to None: the
            pair of the student's last map alone.

    Returns:
        The pairs, in the order of the student's maps.
    """
    last: dict[int, Map] = {}
    for found in student:
        last.pop(found.stride, None)  # the order is that of the maps that count
        last[found.stride] = found
    partners = {found.stride: found for found in teacher}
    pairs = [Pair(found, partners[stride]) for stride, found in last.items() if stride in partners]
    if not pairs:
        pairs = [Pair(found, nearest(found, teacher)) for found in student]
        pairs = [min(reversed(pairs), key=lambda pair: _distance(*pair))]
    if finest is None:
        return pairs[-1:]
    pairs = sorted(pairs, key=lambda pair: pair.student.index or 0)
    chosen = sorted(pairs, key=lambda pair: pair.student.stride)[:finest]
    return [pair for pair in pairs if pair in chosen]


def nearest(student: Map, teacher: Sequence[Map]) -> Map:
    """Returns the last of the teacher's maps with the stride nearest to a student's map's."""
    return min(reversed(teacher), key=lambda found: _distance(student, found))


def _distance(student: Map, teacher: Map) -> float:
    return abs(math.log(student.stride / teacher.stride))

"""FGD: focal and global distillation (CVPR 2022)."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from mmcv.cnn import ContextBlock
from mmrazor.registry import MODELS
from torch import Tensor, nn

from cankd.functional import widen
from cankd.losses.checks import check_choice, check_equal_sizes, check_maps, check_positive_int

BOX_FRAMES = ("img_shape", "batch_input_shape")


def attention(feature: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Where and in which channels a map is strong (FGD, section 3.1).

    Args:
        feature: (B, C, H, W).
        temperature: divides the mean magnitudes before the softmax.

    Returns:
        Over positions (B, H, W), of sum H W, and over channels (B, C), of sum C.
    """
    magnitude = feature.abs()
    per_position, per_channel = magnitude.mean(1), magnitude.mean((2, 3))
    spatial = per_position.flatten(1).div(temperature).softmax(1) * per_position[0].numel()
    return spatial.view_as(per_position), per_channel.div(temperature).softmax(1) * per_channel.shape[1]


def foreground_mask(boxes: Tensor, frame: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The share of its box that each cell of a map has (FGD, section 3.1).

    Left and top edges are rounded down to cells, right and bottom edges up, and both ends belong
    to the box. Its cells get 1 / (height * width in cells); where boxes overlap, the largest value.

    Args:
        boxes: left, top, right, bottom in pixels, (N, 4); N may be 0.
        frame: height and width in pixels that the map covers.
        size: height and width of the map.

    Returns:
        (H, W), 0 where there is no box, of the boxes' type.
    """
    (height, width), (frame_height, frame_width) = size, frame
    if not len(boxes):
        return boxes.new_zeros(size)
    left, right = (boxes[:, 0] / frame_width * width).floor(), (boxes[:, 2] / frame_width * width).ceil()
    top, bottom = (boxes[:, 1] / frame_height * height).floor(), (boxes[:, 3] / frame_height * height).ceil()
    x, y = (torch.arange(cells, device=boxes.device) for cells in (width, height))
    columns = (left[:, None] <= x) & (x <= right[:, None])
    rows = (top[:, None] <= y) & (y <= bottom[:, None])
    value = 1 / ((bottom - top + 1) * (right - left + 1))
    return ((rows * value[:, None])[:, :, None] * columns[:, None]).amax(0)


@MODELS.register_module()
class FGDLoss(nn.Module):
    """Focal and global distillation of one level's maps (FGD, arXiv 2111.11837, sections 3.1-3.3).

    With the teacher's attention A over positions and channels (:func:`attention`), foreground and
    background masks M (:func:`foreground_mask`; the background's is 1 / its number of cells where
    there is no box) and a global context block R for each side (GCNet's, as mmcv has it):

        foreground, background: sum(M * A^S_T * A^C_T * (T - S)^2) / B
        attention:              (sum |A^S_S - A^S_T| + sum |A^C_S - A^C_T|) / B
        global:                 sum((R_T(T) - R_S(S))^2) / B

    It is computed in float32 at least. It returns its parts by name, for
    :class:`~cankd.algorithms.PartsDistiller`, and needs the ground truth boxes. A recorder of the
    student's own inputs has them:

        student_recorders = dict(model=dict(type="ModuleInputs", source=""))
        data_samples = dict(recorder="model", from_student=True, data_idx=1)  # in the mapping

    Args:
        in_channels: C, channels of both maps.
        temperature: of the attention, tau. Defaults to 0.5.
        foreground_weight: alpha. Defaults to 1e-3, as published for RetinaNet and GFL.
        background_weight: beta. Defaults to 5e-4.
        attention_weight: gamma. Defaults to 5e-4.
        global_weight: lambda. Defaults to 5e-6.
        box_frame: what of an image's meta data is taken for the size that the map covers:
            ``img_shape`` (default, as published: without padding, which stretches the boxes of
            images smaller than their batch) or ``batch_input_shape`` (with it).

    Raises:
        ValueError: for sizes that are not positive and an unknown ``box_frame``.
    """

    def __init__(
        self,
        in_channels: int,
        temperature: float = 0.5,
        foreground_weight: float = 1e-3,
        background_weight: float = 5e-4,
        attention_weight: float = 5e-4,
        global_weight: float = 5e-6,
        box_frame: str = "img_shape",
    ) -> None:
        super().__init__()
        check_positive_int("in_channels", in_channels)
        check_choice("box_frame", box_frame, BOX_FRAMES)
        if temperature <= 0:
            raise ValueError(f"temperature: got {temperature!r}, expected a positive number.")
        self.in_channels = in_channels
        self.temperature = temperature
        self.weights = (foreground_weight, background_weight, attention_weight, global_weight)
        self.box_frame = box_frame
        self.s_context = ContextBlock(in_channels, ratio=1 / 2)
        self.t_context = ContextBlock(in_channels, ratio=1 / 2)

    def forward(self, s_feature: Tensor, t_feature: Tensor, data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Computes the parts of the loss.

        Args:
            s_feature: the student's map, (B, C, H, W).
            t_feature: the teacher's map, of the same shape.
            data_samples: for each image, what mmdet knows of it: ``gt_instances.bboxes`` (N, 4) in
                pixels, and ``metainfo``.

        Returns:
            ``foreground``, ``background``, ``attention`` and ``global``, weighted scalars.

        Raises:
            TypeError: if a map is not a floating point tensor.
            ValueError: if maps or data samples do not fit.
        """
        check_maps(s_feature, t_feature, self.in_channels)
        check_equal_sizes(s_feature, t_feature)
        masks = self._foreground_masks(data_samples, s_feature)
        with torch.autocast(s_feature.device.type, enabled=False):
            student, teacher = (feature.contiguous() for feature in widen(s_feature, t_feature))
            s_spatial, s_channel = attention(student, self.temperature)
            t_spatial, t_channel = attention(teacher, self.temperature)
            foreground = masks.to(student.dtype)
            background = (foreground == 0).to(student.dtype)
            background = background / background.sum((1, 2), keepdim=True).clamp(min=1)
            squares = (student - teacher).square().flatten(2)
            weighted = (t_channel[:, None] @ squares).view_as(t_spatial) * t_spatial
            parts = (
                (weighted * foreground).sum(),
                (weighted * background).sum(),
                (s_channel - t_channel).abs().sum() + (s_spatial - t_spatial).abs().sum(),
                (self.s_context(student) - self.t_context(teacher)).square().sum(),
            )
            names = ("foreground", "background", "attention", "global")
            return {name: weight * part / len(masks) for name, weight, part in zip(names, self.weights, parts)}

    def _foreground_masks(self, data_samples: Sequence[Any], feature: Tensor) -> Tensor:
        """The masks of all images, (B, H, W)."""
        if len(data_samples) != len(feature) or not all("gt_instances" in sample for sample in data_samples):
            raise ValueError(
                f"data_samples: got {type(data_samples).__name__} of length {len(data_samples)}, expected one data "
                f"sample with gt_instances for each of {len(feature)} images. Map data_samples to data_idx=1 of a "
                "student recorder dict(type='ModuleInputs', source=''). Segmenters have no boxes."
            )
        masks = []
        for sample in data_samples:
            frame = sample.metainfo[self.box_frame][:2]
            masks.append(foreground_mask(sample.gt_instances.bboxes, frame, (feature.shape[2], feature.shape[3])))
        return torch.stack(masks).to(feature.device)

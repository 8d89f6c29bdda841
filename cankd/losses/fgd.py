"""FGD: focal and global distillation (CVPR 2022)."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn

from cankd.functional import widen
from cankd.losses.checks import check_equal_sizes, check_maps, check_positive_int


def attention(feature: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Computes the attention of a map over positions and over channels (FGD, section 3.1).

    Args:
        feature: map, (B, C, H, W).
        temperature: divisor of the mean magnitudes before the softmax.

    Returns:
        Attention over positions, (B, H, W), which sums to H W, and over channels, (B, C), which sums to C.
    """
    magnitude = feature.abs()
    per_position, per_channel = magnitude.mean(1), magnitude.mean((2, 3))
    spatial = per_position.flatten(1).div(temperature).softmax(1) * per_position[0].numel()
    return spatial.view_as(per_position), per_channel.div(temperature).softmax(1) * per_channel.shape[1]


def foreground_mask(boxes: Tensor, frame: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Computes the foreground mask of an image (FGD, section 3.1).

    Left and top edges are rounded down to cells, right and bottom edges up, and both ends belong
    to the box. Each cell of a box gets 1 / (height * width of the box in cells); where boxes overlap,
    the largest value counts.

    Args:
        boxes: left, top, right, bottom of each box in pixels, (N, 4); N may be 0.
        frame: height and width in pixels that the map covers.
        size: height and width of the map.

    Returns:
        The mask, (H, W), 0 where there is no box, of the boxes' type.
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


class ContextBlock(nn.Module):
    """Global context block of GCNet (arXiv 1904.11492) with attention pooling and channel-wise addition.

        context = sum over positions of softmax(conv_mask(X)) X,   X' = X + channel_add_conv(context)

    The names of its parameters and their initial values are those of mmcv's ``ContextBlock``: the last
    convolution starts at zero, so the block adds nothing at first.

    Args:
        channels: C; the bottleneck has C // 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1),
            nn.LayerNorm([channels // 2, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 2, channels, 1),
        )
        nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in", nonlinearity="relu")
        for parameter in (self.conv_mask.get_parameter("bias"), *self.channel_add_conv[-1].parameters()):
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor) -> Tensor:
        """Returns the map (B, C, H, W) with its context added."""
        weights = self.conv_mask(feature).flatten(2).softmax(2)  # (B, 1, N)
        context = feature.flatten(2) @ weights.transpose(1, 2)  # (B, C, 1)
        return feature + self.channel_add_conv(context[..., None])


class FGDLoss(nn.Module):
    """Focal and global distillation of one level's maps (FGD, arXiv 2111.11837, sections 3.1-3.3).

    With the teacher's attention A over positions and channels (:func:`attention`), foreground and
    background masks M (:func:`foreground_mask`; the background's is 1 / its number of cells where
    there is no box) and a global context block R for each side (:class:`ContextBlock`):

        foreground, background: sum(M * A^S_T * A^C_T * (T - S)^2) / B
        attention:              (sum |A^S_S - A^S_T| + sum |A^C_S - A^C_T|) / B
        global:                 sum((R_T(T) - R_S(S))^2) / B

    It is computed in float32 at least and returns its parts by name.

    Args:
        in_channels: C, channels of both maps.
        temperature: temperature of the attention, tau. Defaults to 0.5.
        foreground_weight: weight of the foreground, alpha. Defaults to 1e-3, as published for RetinaNet and GFL.
        background_weight: weight of the background, beta. Defaults to 5e-4.
        attention_weight: weight of the attention, gamma. Defaults to 5e-4.
        global_weight: weight of the global context, lambda. Defaults to 5e-6.

    Raises:
        ValueError: for sizes that are not positive.

    Example:
        >>> import torch
        >>> from cankd.losses import FGDLoss
        >>> boxes = [torch.tensor([[10.0, 10.0, 60.0, 40.0]]), torch.zeros(0, 4)]
        >>> maps = torch.randn(2, 2, 16, 12, 20)
        >>> list(FGDLoss(16)(maps[0], maps[1], boxes, sizes=[(96, 160), (96, 160)]))
        ['foreground', 'background', 'attention', 'global']
    """

    def __init__(
        self,
        in_channels: int,
        temperature: float = 0.5,
        foreground_weight: float = 1e-3,
        background_weight: float = 5e-4,
        attention_weight: float = 5e-4,
        global_weight: float = 5e-6,
    ) -> None:
        super().__init__()
        check_positive_int("in_channels", in_channels)
        if temperature <= 0:
            raise ValueError(f"temperature: got {temperature!r}, expected a positive number.")
        self.in_channels = in_channels
        self.temperature = temperature
        self.weights = (foreground_weight, background_weight, attention_weight, global_weight)
        self.s_context = ContextBlock(in_channels)
        self.t_context = ContextBlock(in_channels)

    def forward(
        self, s_feature: Tensor, t_feature: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Tensor]:
        """Computes the parts of the loss.

        Args:
            s_feature: the student's map, (B, C, H, W).
            t_feature: the teacher's map, of the same shape.
            boxes: the ground truth of each image: left, top, right, bottom in pixels, (N, 4); N may be 0.
            sizes: (height, width) in pixels that each image's map covers.

        Returns:
            ``foreground``, ``background``, ``attention`` and ``global``, weighted scalars.

        Raises:
            TypeError: if a map is not a floating point tensor.
            ValueError: if the maps do not fit each other, or boxes and sizes are not one for each image.
        """
        check_maps(s_feature, t_feature, self.in_channels)
        check_equal_sizes(s_feature, t_feature)
        if not len(boxes) == len(sizes) == len(s_feature):
            raise ValueError(
                f"got {len(boxes)} tensors of boxes and {len(sizes)} sizes, expected one of each for each of "
                f"{len(s_feature)} images."
            )
        size = (s_feature.shape[2], s_feature.shape[3])
        masks = torch.stack([foreground_mask(box, frame, size) for box, frame in zip(boxes, sizes)])
        with torch.autocast(s_feature.device.type, enabled=False):
            student, teacher = (feature.contiguous() for feature in widen(s_feature, t_feature))
            s_spatial, s_channel = attention(student, self.temperature)
            t_spatial, t_channel = attention(teacher, self.temperature)
            foreground = masks.to(student)
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

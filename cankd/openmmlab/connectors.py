"""Connectors that mmrazor lacks."""

from __future__ import annotations

import math
from typing import Any, Sequence, Tuple

from mmcv.cnn import ConvModule
from mmrazor.models.architectures.connectors import FBKDStudentConnector
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from mmrazor.registry import MODELS
from torch import Tensor, nn

from cankd.openmmlab.preprocessing import crop_map

Size = Tuple[int, int]


def token_grid(tokens: int, extra_tokens: int, image: Sequence[int], patch: Sequence[int]) -> Size | None:
    """Returns the rows and columns of an image's patches, or None if the tokens do not fit.

    Args:
        tokens: number of tokens.
        extra_tokens: number of those that belong to no patch.
        image: height and width of the image.
        patch: height and width of a patch. The number of tokens tells whether the model pads images, so that a patch
            counts that lies in the image in part.
    """
    for rounded in (math.ceil, math.floor):
        rows, columns = (rounded(extent / side) for extent, side in zip(image, patch))
        if rows * columns + extra_tokens == tokens:
            return rows, columns
    return None


@MODELS.register_module()
class TokensToMap(BaseConnector):
    """Lays the tokens (B, N, C) of a vision transformer out as a map (B, C, H, W), each at the place of its patch.

    The tokens of the patches are the last ones, row by row, as ViT, BEiT and DINOv2 have them; the class token and
    registers before them are left out. H and W follow from the size of each batch's images, of any shape, which
    ``PartialTeacherDistill`` and ``CrossKD`` give to the connectors.

        teacher_source="backbone.ln1", teacher_connector=dict(type="TokensToMap", patch_size=16)

    Args:
        patch_size: height and width of a patch in pixels. Defaults to 16.
        extra_tokens: number of tokens before those of the patches. Defaults to 1, the class token.
        init_cfg: unused, as there are no weights. Defaults to None.
    """

    def __init__(self, patch_size: int | Size = 16, extra_tokens: int = 1, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.patch_size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        self.extra_tokens = extra_tokens
        self.images: Sequence[int] | None = None
        self.inputs: Sequence[int] | None = None

    def set_image_sizes(self, images: Sequence[int], inputs: Sequence[int]) -> None:
        """Sets the sizes of the next batch.

        Args:
            images: height and width of the images that the tokens are of.
            inputs: height and width of the student's images. The map of a teacher whose images are padded further is
                cropped to the student's extent.
        """
        self.images, self.inputs = images, inputs

    def forward_train(self, feature: Tensor) -> Tensor:
        """Returns the map.

        Args:
            feature: tokens (B, N, C).

        Returns:
            The map (B, C, H, W).

        Raises:
            ValueError: if the tokens are none, do not fit the images, or if no algorithm gave the images' size.
        """
        if self.images is None or self.inputs is None:
            raise ValueError(
                "TokensToMap: got no size of the images, expected that of PartialTeacherDistill or CrossKD. Change "
                "model.type."
            )
        if feature.dim() != 3:
            raise ValueError(
                f"TokensToMap: got {tuple(feature.shape)}, expected tokens (B, N, C). Record a module that returns "
                "tokens, or leave the connector out."
            )
        grid = token_grid(feature.shape[1], self.extra_tokens, self.images, self.patch_size)
        if grid is None:
            (height, width), (high, wide) = self.images, self.patch_size
            rows, columns = math.ceil(height / high), math.ceil(width / wide)
            raise ValueError(
                f"TokensToMap: got {feature.shape[1]} tokens of images of {height} x {width}, expected {rows} x "
                f"{columns} patches of {high} x {wide} and {self.extra_tokens} extra tokens. Correct patch_size or "
                "extra_tokens."
            )
        patches = feature[:, self.extra_tokens :].transpose(1, 2)
        return crop_map(patches.reshape(*patches.shape[:2], *grid), self.images, self.inputs)


def set_image_sizes(connector: nn.Module, images: Sequence[int], inputs: Sequence[int]) -> None:
    """Tells a connector, which may consist of several, the sizes of the images whose tokens it gets next.

    Args:
        connector: connector.
        images: height and width of the images that the tokens are of.
        inputs: height and width of the student's images.
    """
    for module in connector.modules():
        if isinstance(module, TokensToMap):
            module.set_image_sizes(images, inputs)


@MODELS.register_module()
class FBKDConvConnector(FBKDStudentConnector):
    """mmrazor's ``FBKDStudentConnector`` behind a 1x1 convolution to the teacher's channels.

    The same as a list of both connectors, in one dict, so that the levels of a ``LevelDistiller`` can differ in it.

    Args:
        student_channels: channels of the student's map.
        in_channels: channels of the teacher's map.
        **kwargs: further arguments of ``FBKDStudentConnector``.
    """

    def __init__(self, student_channels: int, in_channels: int, **kwargs: Any) -> None:
        super().__init__(in_channels, **kwargs)
        self.convolution = ConvModule(student_channels, in_channels, 1, act_cfg=None)

    def forward_train(self, x: Tensor) -> tuple[Tensor, ...]:
        """Returns FBKD's masks, pooled maps and relations of the student's map (B, C, H, W)."""
        return super().forward_train(self.convolution(x))

"""The backbone MobileNetV1, which neither mmpretrain nor mmcls has."""

from __future__ import annotations

from typing import Any, Sequence

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from mmrazor.registry import MODELS
from torch import Tensor, nn

# (channels, blocks) of each stage; every stage but the first halves the resolution (Table 1 of the paper).
STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))


@MODELS.register_module()
class MobileNetV1(BaseModule):
    """MobileNetV1 (Howard et al., 2017, arXiv 1704.04861, Table 1) as a backbone.

    Args:
        out_indices: numbers of the stages whose maps are returned, 0 to 4, with 64, 128, 256, 512 and 1024
            channels at 1/2 to 1/32 of the image's height and width. Defaults to the last.
        init_cfg: initialisation, as in every mmengine module; Kaiming's by default.

    Raises:
        ValueError: for a stage that does not exist.

    Example:
        >>> import torch
        >>> MobileNetV1()(torch.zeros(1, 3, 64, 64))[0].shape
        torch.Size([1, 1024, 2, 2])
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (4,),
        init_cfg: Any = (dict(type="Kaiming", layer="Conv2d"), dict(type="Constant", val=1, layer="BatchNorm2d")),
    ) -> None:
        super().__init__(init_cfg=init_cfg if init_cfg is None or isinstance(init_cfg, dict) else list(init_cfg))
        if not set(out_indices) <= set(range(len(STAGES))):
            raise ValueError(f"out_indices: got {tuple(out_indices)}, expected stages of 0 to {len(STAGES) - 1}.")
        self.out_indices = tuple(out_indices)
        norm = dict(type="BN")
        self.stem = ConvModule(3, 32, 3, stride=2, padding=1, norm_cfg=norm)
        self.stages = nn.ModuleList()
        channels = 32
        for stage, (width, blocks) in enumerate(STAGES):
            layers = []
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                layers.append(DepthwiseSeparableConvModule(channels, width, 3, stride, padding=1, norm_cfg=norm))
                channels = width
            self.stages.append(nn.Sequential(*layers))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps images (B, 3, H, W) to the chosen stages' maps, each (B, C, H / 2^(i+1), W / 2^(i+1))."""
        maps = []
        feature = self.stem(images)
        for stage in self.stages:
            feature = stage(feature)
            maps.append(feature)
        return tuple(maps[index] for index in self.out_indices)

"""Registers the losses in mmrazor's ``MODELS`` and adapts their inputs to mmdet's data samples."""

from __future__ import annotations

from typing import Any, Sequence

from mmrazor.registry import MODELS
from torch import Tensor

import cankd.losses
from cankd.losses.checks import check_choice

BOX_FRAMES = ("img_shape", "batch_input_shape")

MODELS.register_module(module=cankd.losses.ACAMKDLoss)
MODELS.register_module(module=cankd.losses.FeatureMSELoss)


@MODELS.register_module()
class FGDLoss(cankd.losses.FGDLoss):
    """:class:`cankd.losses.FGDLoss` with the boxes of mmdet's data samples.

    A recorder of the student's own inputs has them:

        student_recorders = dict(model=dict(type="ModuleInputs", source=""))
        data_samples = dict(recorder="model", from_student=True, data_idx=1)  # in the mapping

    Args:
        in_channels: C, channels of both maps.
        box_frame: the meta data of an image that is taken as the size in pixels that the map covers:
            ``img_shape`` (default, as published: without padding, which stretches the boxes of
            images smaller than their batch) or ``batch_input_shape`` (with padding).
        **kwargs: further arguments of :class:`cankd.losses.FGDLoss`.

    Raises:
        ValueError: for sizes that are not positive and an unknown ``box_frame``.
    """

    def __init__(self, in_channels: int, *, box_frame: str = "img_shape", **kwargs: Any) -> None:
        super().__init__(in_channels, **kwargs)
        check_choice("box_frame", box_frame, BOX_FRAMES)
        self.box_frame = box_frame

    def forward(  # type: ignore[override]
        self, s_feature: Tensor, t_feature: Tensor, data_samples: Sequence[Any]
    ) -> dict[str, Tensor]:
        """Computes the parts of the loss.

        Args:
            s_feature: the student's map, (B, C, H, W).
            t_feature: the teacher's map, of the same shape.
            data_samples: mmdet's data sample of each image, with ``gt_instances.bboxes`` (N, 4) in
                pixels, and ``metainfo``.

        Returns:
            ``foreground``, ``background``, ``attention`` and ``global``, weighted scalars.

        Raises:
            TypeError: if a map is not a floating point tensor.
            ValueError: if maps or data samples do not fit.
        """
        if len(data_samples) != len(s_feature) or not all("gt_instances" in sample for sample in data_samples):
            raise ValueError(
                f"data_samples: got {type(data_samples).__name__} of length {len(data_samples)}, expected one data "
                f"sample with gt_instances for each of {len(s_feature)} images. Map data_samples to data_idx=1 of a "
                "student recorder dict(type='ModuleInputs', source=''). Segmenters have no boxes."
            )
        boxes = [sample.gt_instances.bboxes for sample in data_samples]
        sizes = [sample.metainfo[self.box_frame][:2] for sample in data_samples]
        return super().forward(s_feature, t_feature, boxes, sizes)

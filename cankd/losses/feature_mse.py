"""Plain feature mimicking: CanKD without its block (CanKD, table 6)."""

from __future__ import annotations

from torch import Tensor, nn

from cankd.functional import half_mse, instance_norm_mse


class FeatureMSELoss(nn.Module):
    """Half the mean squared difference of two maps, instance-normalised or as they are.

    Args:
        instance_norm: whether the maps are normalised first. Defaults to False.
        loss_weight: factor on the loss. Defaults to 1.0.
    """

    def __init__(self, instance_norm: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.distance = instance_norm_mse if instance_norm else half_mse
        self.loss_weight = loss_weight

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            s_feature: the student's map, (B, C, H, W).
            t_feature: the teacher's map, of the same shape.

        Returns:
            A scalar of at least float32.

        Raises:
            ValueError: if their shapes differ.
        """
        if s_feature.shape != t_feature.shape:
            raise ValueError(
                f"got shapes {tuple(s_feature.shape)} (student) and {tuple(t_feature.shape)} (teacher), expected "
                "equal ones. Pass levels of the same stride, and map the student's channels to the teacher's, "
                "for example with a 1x1 convolution."
            )
        return self.loss_weight * self.distance(s_feature, t_feature)

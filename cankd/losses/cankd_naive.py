"""The naive CanKD loss: the paper's formulas term by term, with which tests and benchmarks compare."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NaiveNLKDINLoss(nn.Module):
    """The plain specification of :class:`cankd.losses.NLKDINLoss`, which holds every intermediate map.

    It has the same arguments, except ``align``, and the state dict keys of that loss's block. Sizes in
    comments: N = H*W student positions, N' teacher positions after pooling, C' = inter_channels.
    """

    def __init__(
        self,
        in_channels: int,
        inter_channels: int | None = None,
        affinity: str = "dot_product",
        pool_size: int = 2,
        residual: bool = True,
        instance_norm: bool = True,
        batch_norm: bool = True,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        inter = inter_channels or max(in_channels // 2, 1)
        self.affinity, self.residual, self.loss_weight = affinity, residual, loss_weight
        self.g = nn.Conv2d(in_channels, inter, 1)
        if affinity != "gaussian":
            self.theta = nn.Conv2d(in_channels, inter, 1)
            self.phi = nn.Conv2d(in_channels, inter, 1)
        if affinity == "concatenation":
            self.concat = nn.Conv2d(2 * inter, 1, 1, bias=False)
        self.w_z = nn.Conv2d(inter, in_channels, 1)
        self.bn = nn.BatchNorm2d(in_channels) if batch_norm else nn.Identity()
        self.pool = nn.MaxPool2d(pool_size) if pool_size > 1 else nn.Identity()
        self.norm = nn.InstanceNorm2d(in_channels) if instance_norm else nn.Identity()

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Computes the loss of a student map X and a teacher map Y, both (B, C, H, W)."""
        x, y = s_feature, t_feature
        theta = x if self.affinity == "gaussian" else self.theta(x)
        phi = self.pool(y if self.affinity == "gaussian" else self.phi(y))
        theta, phi, g = theta.flatten(2), phi.flatten(2), self.pool(self.g(y)).flatten(2)  # (B, C', N), (B, C', N')
        if self.affinity == "concatenation":
            n, m = theta.shape[2], phi.shape[2]
            pair = torch.cat([theta.unsqueeze(3).expand(-1, -1, -1, m), phi.unsqueeze(2).expand(-1, -1, n, -1)], 1)
            scores = F.relu(self.concat(pair)).squeeze(1) / m
        else:
            scores = theta.transpose(1, 2) @ phi  # (B, N, N'), equation 1
            scores = scores / phi.shape[2] if self.affinity == "dot_product" else scores.softmax(-1)
        z = (scores @ g.transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])  # (B, C', H, W)
        enhanced = self.bn(self.w_z(z))
        if self.residual:
            enhanced = enhanced + x
        return self.loss_weight * F.mse_loss(self.norm(enhanced), self.norm(y)) / 2

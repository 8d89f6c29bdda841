"""CanKD's loss: cross-attention from the student to the teacher, then instance-norm MSE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cankd.functional import dot_product_context, half_mse, instance_norm_mse, relu_sum_attention, softmax_attention
from cankd.losses.checks import check_choice, check_equal_sizes, check_maps, check_positive_int

AFFINITIES = ("dot_product", "gaussian", "embedded_gaussian", "concatenation")


class CanBlock(nn.Module):
    """Cross-attention in which every student position attends to all (pooled) teacher positions.

    With theta, phi, g and W_z 1x1 convolutions and N' the number of pooled teacher positions
    (CanKD, equations 1-4):

        Z = affinity(theta(X), pool(phi(Y))) pool(g(Y)),   X* = BN(W_z Z) + X

    ``dot_product`` is computed in linear order: a C' x C' context of the teacher replaces the N x N'
    attention matrix and gives the same numbers (:func:`cankd.functional.dot_product_context`). Per image
    that costs about 4 C C' N multiply-adds forward and 6 C C' N backward (N positions on either side);
    the paper's order adds 2 C' N N' and 4 C' N N'. The backward pass keeps X, Y, theta(X), phi(Y), g(Y),
    the pooled values and their places, the map before the batch norm, and X*: beside X and Y, 4.5 times
    the size of X with C' = C / 2. docs/performance.md has measurements and what did not pay off.

    As published, the batch norm's weight and bias start at zero. So the block adds nothing to the
    student's map at the first step, and only that weight receives a gradient in it.

    Args:
        in_channels: C, channels of both maps.
        inter_channels: C'. Defaults to C // 2.
        affinity: ``dot_product``; ``gaussian`` (softmax, without theta and phi);
            ``embedded_gaussian`` (softmax); ``concatenation`` (ReLU of a 1x1 convolution of
            the concatenated pair, divided by N').
        pool_size: size of the max-pool on the teacher's side; 1 for none. Defaults to 2.
        residual: whether X is added. Defaults to True.
        batch_norm: whether a batch norm follows W_z; without it W_z itself starts at zero. Defaults to
            True. :class:`NLKDINLoss` checks the arguments.
    """

    def __init__(
        self,
        in_channels: int,
        inter_channels: int | None = None,
        affinity: str = "dot_product",
        pool_size: int = 2,
        residual: bool = True,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        inter = max(in_channels // 2, 1) if inter_channels is None else inter_channels
        self.affinity = affinity
        self.pool_size = pool_size
        self.residual = residual
        self.theta = None if affinity == "gaussian" else nn.Conv2d(in_channels, inter, 1)
        self.phi = None if affinity == "gaussian" else nn.Conv2d(in_channels, inter, 1)
        self.concat = nn.Conv2d(2 * inter, 1, 1, bias=False) if affinity == "concatenation" else None
        self.g = nn.Conv2d(in_channels, inter, 1)
        self.w_z = nn.Conv2d(inter, in_channels, 1)
        self.bn = nn.BatchNorm2d(in_channels) if batch_norm else None
        for parameter in (self.w_z if self.bn is None else self.bn).parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Computes the enhanced student map X*, (B, C, H, W), from student X and teacher Y of any H x W."""
        theta = x if self.theta is None else self.theta(x)
        phi = self._pool(y if self.phi is None else self.phi(y)).flatten(2)
        g = self._pool(self.g(y)).flatten(2)
        if g.dtype == torch.float16:
            # Sums over channels and positions exceed the range of float16.
            with torch.autocast(x.device.type, enabled=False):
                enhanced = self._attend(theta.float(), phi.float(), g.float())
        else:
            enhanced = self._attend(theta, phi, g)
        if not self.residual:
            return enhanced
        # No backward pass needs the map before the addition, so the sum is written over it.
        return enhanced.add_(x) if enhanced.dtype == x.dtype else enhanced + x

    def _pool(self, feature: Tensor) -> Tensor:
        return feature if self.pool_size == 1 else F.max_pool2d(feature, self.pool_size)

    def _attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """Computes BN(W_z Z) from theta(X), (B, C', H, W), and the teacher's phi(Y) and g(Y), (B, C', N')."""
        size = (theta.shape[0], -1, *theta.shape[2:])
        queries, weight = theta.flatten(2), self.w_z.weight.flatten(1)
        # W_z is multiplied with the smaller factor first where that needs fewer products.
        if self.affinity == "dot_product":
            enhanced = self._add_bias(weight @ dot_product_context(phi, g) @ queries).view(size)
        elif self.affinity == "gaussian":
            # The weights of a position add up to 1, so a bias of the values is a bias of the result.
            values = self._add_bias(weight @ g)
            enhanced = softmax_attention(*(part.transpose(1, 2) for part in (queries, phi, values)))
            # A copy: torch's attention keeps its result for its backward pass, and the sum is written in place.
            enhanced = enhanced.transpose(1, 2).contiguous().view(size)
        else:
            queries, phi, g = (part.transpose(1, 2) for part in (queries, phi, g))
            if self.concat is None:
                z = softmax_attention(queries, phi, g)
            else:
                student, teacher = self.concat.weight.flatten(1).chunk(2, dim=1)
                z = relu_sum_attention(queries @ student.T, phi @ teacher.T, g)
            enhanced = self.w_z(z.transpose(1, 2).reshape(size))
        return enhanced if self.bn is None else self.bn(enhanced)

    def _add_bias(self, enhanced: Tensor) -> Tensor:
        """Adds W_z's bias to (B, C, positions)."""
        return enhanced.add_(self.get_parameter("w_z.bias")[:, None].to(enhanced.dtype))


class NLKDINLoss(nn.Module):
    """CanKD loss: half the MSE of the instance-normalised X* and Y (CanKD, equations 1-6).

    ``loss = loss_weight / 2 * mean((IN(X*) - IN(Y))^2)`` with X* from :class:`CanBlock`. The
    paper's weight mu multiplies the undivided mean, hence ``loss_weight = 2 * mu``.

    Args:
        in_channels: C, channels of both maps. A student's map with others needs a 1x1 convolution before the loss.
        inter_channels: C' inside the block. Defaults to C // 2.
        affinity: ``dot_product`` (default), ``gaussian``, ``embedded_gaussian``, ``concatenation``.
        pool_size: teacher-side max-pool: 1 (none), 2 (default), 4 or 8.
        residual: whether the block adds the student's map. Defaults to True.
        instance_norm: whether the maps are normalised before the MSE. Defaults to True.
        batch_norm: whether the block ends with a batch norm. Defaults to True.
        align: whether a student map of another H x W is resized bilinearly to the
            teacher's. Defaults to False.
        loss_weight: factor on the loss. Defaults to 1.0.

    Raises:
        ValueError: for an unknown affinity or a size that is not positive.

    Example:
        >>> import torch
        >>> from cankd.losses import NLKDINLoss
        >>> loss = NLKDINLoss(in_channels=256, loss_weight=10)
        >>> loss(torch.randn(2, 256, 25, 42), torch.randn(2, 256, 25, 42)).shape
        torch.Size([])
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
        align: bool = False,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive_int("in_channels", in_channels)
        if inter_channels is not None:
            check_positive_int("inter_channels", inter_channels)
        check_choice("affinity", affinity, AFFINITIES)
        if pool_size not in (1, 2, 4, 8):
            raise ValueError(f"pool_size: got {pool_size!r}, expected 1 (no pooling), 2, 4 or 8.")
        self.in_channels = in_channels
        self.instance_norm = instance_norm
        self.align = align
        self.loss_weight = loss_weight
        self.block = CanBlock(in_channels, inter_channels, affinity, pool_size, residual, batch_norm)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Computes the loss.

        Args:
            s_feature: the student's map, (B, C, H, W).
            t_feature: the teacher's map, (B, C, H, W); another H x W only with ``align``.

        Returns:
            A scalar of at least float32.

        Raises:
            TypeError: if a map is not a floating point tensor.
            ValueError: if shapes or devices do not fit.
        """
        self._check(s_feature, t_feature)
        if self.align and s_feature.shape[2:] != t_feature.shape[2:]:
            s_feature = F.interpolate(s_feature, t_feature.shape[2:], mode="bilinear", align_corners=False)
        enhanced = self.block(s_feature, t_feature)
        distance = instance_norm_mse if self.instance_norm else half_mse
        return self.loss_weight * distance(enhanced, t_feature)

    def _check(self, s_feature: Tensor, t_feature: Tensor) -> None:
        check_maps(s_feature, t_feature, self.in_channels)
        if not self.align:
            check_equal_sizes(s_feature, t_feature, ", or set align=True to resize the student's map")
        t_size = tuple(t_feature.shape[2:])
        if self.instance_norm and t_size == (1, 1):
            raise ValueError(
                "got maps of one position, expected more: their instance norm is zero whatever they hold. Use a "
                "finer level, larger images or instance_norm=False."
            )
        if min(t_size) < self.block.pool_size:
            raise ValueError(
                f"got a teacher map of H x W {t_size}, expected at least pool_size={self.block.pool_size}. "
                "Use a smaller pool_size, a finer level or larger images."
            )

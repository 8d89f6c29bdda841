"""ACAM-KD: adaptive and cooperative attention masking (ICCV 2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cankd.functional import softmax_attention, widen
from cankd.losses.checks import check_choice, check_equal_sizes, check_maps, check_positive_int

QUERIES = ("teacher", "student")
MASK_SOURCES = ("fusion", "teacher", "fixed_teacher")
NORMALIZATIONS = ("weights", "elements", "batch")
DIVERSITIES = ("ratio", "pairs")


class CrossAttentionFusion(nn.Module):
    """Student-teacher cross-attention (ACAM-KD, STCA-FF): softmax(Q K^T / sqrt(C_q)) V.

    Q, K and V are 1x1 convolutions; the N x N matrix of all pairs of positions is never held
    at once.

    Args:
        in_channels: C, channels of both maps and of V.
        attention_channels: C_q, of Q and K.
    """

    def __init__(self, in_channels: int, attention_channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(in_channels, attention_channels, 1)
        self.key = nn.Conv2d(in_channels, attention_channels, 1)
        self.value = nn.Conv2d(in_channels, in_channels, 1)

    def forward(self, query_map: Tensor, key_map: Tensor) -> Tensor:
        """Computes the fused map.

        Args:
            query_map: map that gives the queries, (B, C, H, W).
            key_map: map that gives the keys and values, of the same shape.

        Returns:
            (B, N, C) with N = H W.
        """
        query = self.query(query_map) * self.query.out_channels**-0.5
        parts = (query, self.key(key_map), self.value(key_map))
        return softmax_attention(*(part.flatten(2).transpose(1, 2) for part in parts))


def scaled_masks(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Computes ``sigmoid(logits)`` as masks with the largest value 1 and the logarithms of their factors.

    Both stay in range where the sigmoid underflows, so that quotients of masks are defined there as well.

    Args:
        logits: logits of the masks, (B, M, L).

    Returns:
        Masks, (B, M, L), and logarithms of their factors, (B, M, 1). The logarithms are constants to
        autograd; the product of mask and factor has the sigmoid's gradient.
    """
    logarithms = F.logsigmoid(logits)
    largest = logarithms.detach().amax(2, keepdim=True)
    return (logarithms - largest).exp(), largest


def pairwise_dice(masks: Tensor, log_scales: Tensor | None = None) -> Tensor:
    """Computes the mean Dice coefficient of the pairs of an image's masks: 1 if all are equal, 0 if none overlap.

    Args:
        masks: masks with values between 0 and 1, (B, M, L).
        log_scales: logarithms of factors on the masks, (B, M, 1), see :func:`scaled_masks`. Defaults to 0.

    Returns:
        A scalar; 0 for a single mask.
    """
    scales = masks.new_zeros(1) if log_scales is None else log_scales - log_scales.transpose(1, 2)
    # Factors of the two masks of each pair, relative to the larger factor.
    one, other = scales.clamp(max=0).exp(), (-scales).clamp(max=0).exp()
    products = masks @ masks.transpose(1, 2)
    squares = products.diagonal(dim1=1, dim2=2)
    dice = 2 * one * other * products / (one.square() * squares[:, :, None] + other.square() * squares[:, None])
    count = masks.shape[1]
    # A mask's Dice coefficient with itself is 1.
    return (dice.sum((1, 2)) - count).mean() / max(count * (count - 1), 1)


def overlap_ratio(masks: Tensor) -> Tensor:
    """Computes ACAM-KD's diversity loss as printed: two sums over pairs, then their quotient.

    2 sum_i sum_{j != i} M_i . M_j / (sum_i |M_i|^2 + sum_j |M_j|^2): 0 if no masks overlap,
    M - 1 if all are equal.

    Args:
        masks: masks with values between 0 and 1, (B, M, L).

    Returns:
        A scalar, the mean over the images.
    """
    products = masks @ masks.transpose(1, 2)
    squares = products.diagonal(dim1=1, dim2=2).sum(1)
    return ((products.sum((1, 2)) - squares) / squares).mean()


class ACAMKDLoss(nn.Module):
    """Feature distillation under masks that student and teacher make together at every step.

    With F the fused map (:class:`CrossAttentionFusion`, with the teacher's queries), m^c (M x 1) and m^s
    (M x C) learnable selectors and d = (T - S)^2 (ACAM-KD, arXiv 2503.06307, section 3):

        M^c = sigmoid(m^c mean_n F_n)    M x C          M^s = sigmoid(m^s F^T)    M x N
        channel   = alpha / M sum_m <M^c_m, d>          spatial = alpha / M sum_m <M^s_m, d>
        diversity = lambda (L_div(M^c) + L_div(M^s))

    It is computed in float32 at least and returns its parts by name. The paper has no public code and leaves some
    choices open; each is an argument, and its default the most direct reading:

    - ``normalization`` of <M, d>. ``weights``: the mean of d weighted by the mask, which is what
      weighting by a mask says, and which a mask cannot lower by shrinking. ``elements``: the sum
      divided by C N, ``batch``: the plain sum; each averaged over the images.
    - ``instance_norm`` of the maps before d: off, because the text takes the difference of the maps.
    - ``init_std`` of the selectors: random, because equal selectors would stay equal; by default
      1 / sqrt(inputs), which gives the logits the scale of the fused map.
    - ``diversity``. ``ratio``: the formula as it is printed, the quotient of two sums over pairs
      (:func:`overlap_ratio`), which most masks can lower by becoming all zeros. ``pairs``: the mean
      Dice coefficient of the pairs of masks (:func:`pairwise_dice`), because the text calls the
      formula the Dice coefficient, which is one of two masks; it is (M - 1) times lower for equal
      masks, so lambda counts that much less.

    Args:
        in_channels: C, channels of both maps.
        num_masks: M. Defaults to 6, as published for detection; 19, the classes, on Cityscapes.
        attention_channels: C_q of the fusion. Defaults to C // 2.
        query: side that gives the queries, ``teacher`` (default) or ``student``.
        mask_source: source of the masks: ``fusion`` (default); ``teacher``: the teacher's map
            alone, the selectors still learn; ``fixed_teacher``: the same, but the selectors stay as
            they were drawn, and there is no diversity loss because nothing could learn from it.
        channel_masks: whether there are channel masks. Defaults to True.
        spatial_masks: whether there are spatial masks. Defaults to True. With neither, the loss is
            alpha times the unweighted d, normalised alike.
        normalization: ``weights`` (default), ``elements`` or ``batch``.
        diversity: ``ratio`` (default), as printed, or ``pairs``.
        instance_norm: whether the maps are instance-normalised before d. Defaults to False.
        init_std: standard deviation of the selectors. Defaults to 1 / sqrt(inputs).
        distill_weight: alpha. Defaults to 1.
        diversity_weight: lambda. Defaults to 1.

    Raises:
        ValueError: for sizes that are not positive and unknown choices.

    Example:
        >>> import torch
        >>> from cankd.losses import ACAMKDLoss
        >>> loss = ACAMKDLoss(in_channels=16)
        >>> sorted(loss(torch.randn(2, 16, 12, 20), torch.randn(2, 16, 12, 20)))
        ['channel', 'diversity', 'spatial']
    """

    def __init__(
        self,
        in_channels: int,
        num_masks: int = 6,
        attention_channels: int | None = None,
        query: str = "teacher",
        mask_source: str = "fusion",
        channel_masks: bool = True,
        spatial_masks: bool = True,
        normalization: str = "weights",
        diversity: str = "ratio",
        instance_norm: bool = False,
        init_std: float | None = None,
        distill_weight: float = 1.0,
        diversity_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive_int("in_channels", in_channels)
        check_positive_int("num_masks", num_masks)
        if attention_channels is None:
            attention_channels = max(in_channels // 2, 1)
        check_positive_int("attention_channels", attention_channels)
        check_choice("query", query, QUERIES)
        check_choice("mask_source", mask_source, MASK_SOURCES)
        check_choice("normalization", normalization, NORMALIZATIONS)
        check_choice("diversity", diversity, DIVERSITIES)
        self.in_channels = in_channels
        self.teacher_queries = query == "teacher"
        self.normalization = normalization
        self.diversity = diversity
        self.instance_norm = instance_norm
        self.distill_weight = distill_weight
        self.diversity_weight = diversity_weight
        self.learns = mask_source != "fixed_teacher"
        self.fusion: CrossAttentionFusion | None = None
        self.channel_selectors: Tensor | None
        self.spatial_selectors: Tensor | None
        if mask_source == "fusion" and (channel_masks or spatial_masks):
            self.fusion = CrossAttentionFusion(in_channels, attention_channels)
        for name, wanted, inputs in (("channel", channel_masks, 1), ("spatial", spatial_masks, in_channels)):
            selectors = None
            if wanted:
                std = inputs**-0.5 if init_std is None else init_std
                selectors = nn.Parameter(torch.randn(num_masks, inputs) * std, requires_grad=self.learns)
            self.register_parameter(f"{name}_selectors", selectors)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> dict[str, Tensor]:
        """Computes the parts of the loss.

        Args:
            s_feature: the student's map, (B, C, H, W).
            t_feature: the teacher's map, of the same shape.

        Returns:
            ``channel``, ``spatial`` and ``diversity``, weighted scalars, as far as there are such
            masks; ``unmasked`` if there are none.

        Raises:
            TypeError: if a map is not a floating point tensor.
            ValueError: if shapes or devices do not fit.
        """
        check_maps(s_feature, t_feature, self.in_channels)
        check_equal_sizes(s_feature, t_feature)
        with torch.autocast(s_feature.device.type, enabled=False):
            student, teacher = widen(s_feature, t_feature)
            logits = self.logits(student, teacher)
            if self.instance_norm:
                student, teacher = F.instance_norm(student), F.instance_norm(teacher)
            squares = (student - teacher).square().flatten(2)
            if not logits:
                everything = squares.new_ones(len(squares), 1, 1)
                unmasked = self._weighted(everything, squares.sum((1, 2))[:, None], squares[0].numel())
                return {"unmasked": self.distill_weight * unmasked}
            parts: dict[str, Tensor] = {}
            overlaps = []
            for name, kind in logits.items():
                summed_over = {"channel": 2, "spatial": 1}[name]
                masks, log_scales = scaled_masks(kind)
                weights = masks if self.normalization == "weights" else kind.sigmoid()
                part = self._weighted(weights, squares.sum(summed_over), squares.shape[summed_over])
                parts[name] = self.distill_weight * part
                overlaps.append(self._overlap(masks, log_scales))
            if self.learns:
                parts["diversity"] = self.diversity_weight * torch.stack(overlaps).sum()
            return parts

    def masks(self, s_feature: Tensor, t_feature: Tensor) -> dict[str, Tensor]:
        """Computes the masks of a pair of maps.

        Args:
            s_feature: the student's map, (B, C, H, W), of the parameters' type.
            t_feature: the teacher's map, of the same shape and type.

        Returns:
            ``channel``, (B, M, C), and ``spatial``, (B, M, H W), unless switched off.
        """
        return {name: logits.sigmoid() for name, logits in self.logits(s_feature, t_feature).items()}

    def logits(self, s_feature: Tensor, t_feature: Tensor) -> dict[str, Tensor]:
        """Computes the logits of the masks; arguments and shapes as for :meth:`masks`."""
        logits: dict[str, Tensor] = {}
        if self.channel_selectors is None and self.spatial_selectors is None:
            return logits
        if self.fusion is None:
            fused = t_feature.flatten(2).transpose(1, 2)
        else:
            maps = (t_feature, s_feature) if self.teacher_queries else (s_feature, t_feature)
            fused = self.fusion(*maps)
        if self.channel_selectors is not None:
            logits["channel"] = self.channel_selectors @ fused.mean(1, keepdim=True)
        if self.spatial_selectors is not None:
            logits["spatial"] = self.spatial_selectors @ fused.transpose(1, 2)
        return logits

    def _overlap(self, masks: Tensor, log_scales: Tensor) -> Tensor:
        """Computes the diversity loss of one kind of masks, given by :func:`scaled_masks`."""
        if self.diversity == "pairs":
            return pairwise_dice(masks, log_scales)
        return overlap_ratio(masks * (log_scales - log_scales.amax(1, keepdim=True)).exp())

    def _weighted(self, masks: Tensor, squares: Tensor, shared: int) -> Tensor:
        """Computes <M, d>, averaged over masks and images.

        Args:
            masks: masks, (B, M, L).
            squares: d, summed over the elements that share a weight of a mask, (B, L).
            shared: number of elements that share a weight.
        """
        weighted = (masks @ squares[:, :, None])[:, :, 0]
        if self.normalization == "weights":
            weighted = weighted / (masks.sum(2) * shared)
        elif self.normalization == "elements":
            weighted = weighted / (masks.shape[2] * shared)
        return weighted.mean()

"""The mathematics of the losses as pure functions of tensors.

The attention in linear order is :func:`dot_product_context`; docs/cankd.md derives it.
"""

from __future__ import annotations

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_SPATIAL = (2, 3)
# Attention scores that are held at once: 36 MB in float32. glibc returns freed memory of more than 32 MB to
# the system and may keep smaller pieces, which fragments it.
_BLOCK_SCORES = 9 << 20
# Elements of a map in each of the two temporaries of the instance-norm MSE: 4 MB in float32 on CPUs, and 16 MB
# on GPUs, where each operation costs a kernel launch.
_CPU_BLOCK, _CUDA_BLOCK = 1 << 20, 1 << 22
# From torch 2.2 on, its attention needs bounded memory on CPUs as well.
_BOUNDED_ATTENTION = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 2)


def _statistics_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Returns the type of the statistics of two maps: the wider one of theirs, at least float32."""
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)


def widen(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Converts two maps to one type of at least float32, in which sums of squares over a map stay in range.

    Args:
        x: first map, of any shape and type.
        y: second map.

    Returns:
        Both maps; one that has the type already is not copied.
    """
    dtype = _statistics_dtype(x, y)
    return x.to(dtype), y.to(dtype)


def _mean_square(x: Tensor) -> Tensor:
    """Returns the mean of the squares over positions, (B, C, 1, 1)."""
    return torch.linalg.vector_norm(x, dim=_SPATIAL, keepdim=True).square() / (x.shape[2] * x.shape[3])


def _channel_blocks(x: Tensor) -> list[slice]:
    """Returns slices of so few channels that a temporary fits a CPU's cache and is small beside the maps."""
    step = max(1, (_CUDA_BLOCK if x.is_cuda else _CPU_BLOCK) // x[:, 0].numel())
    return [slice(start, start + step) for start in range(0, x.shape[1], step)]


def _shift(x: Tensor, work: Tensor) -> Tensor:
    """Subtracts from each channel its value at the first position.

    A constant channel becomes exactly zero, and large means no longer cause rounding: no position is
    further from the mean than sqrt(H W) standard deviations.

    Args:
        x: map (B, C, H, W).
        work: memory for the result, (B, C or more, H, W).

    Returns:
        The result, a view of ``work``.
    """
    return work[:, : x.shape[1]].copy_(x).sub_(x[..., :1, :1])


class _InstanceNormMSE(torch.autograd.Function):
    """Closed form of the loss, which keeps no normalised map for the backward pass.

    It keeps the two maps as they came in and five (B, C, 1, 1) statistics. With m, v the mean
    and variance over positions, i = (v + eps)^-1/2 and c the covariance of x and y,

        loss = 1/2 mean(v_x i_x^2 + v_y i_y^2 - 2 c i_x i_y).

    That sum cancels where the maps agree. So the loss is computed as the variance of
    (x - m_x) i_x - (y - m_y) i_y (each normalised map has mean 0), and c follows from it.
    The maps are shifted (:func:`_shift`) before they are multiplied by i, which is 300 in a constant
    channel and would multiply the rounding of its value; m are the means of the shifted maps.
    """

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, eps: float) -> Tensor:
        blocks = _channel_blocks(x)
        x_work, y_work = (torch.empty_like(x[:, blocks[0]], dtype=_statistics_dtype(x, y)) for _ in range(2))
        found = []
        for block in blocks:
            x_part, y_part = _shift(x[:, block], x_work), _shift(y[:, block], y_work)
            m_x, m_y = (part.mean(_SPATIAL, keepdim=True) for part in (x_part, y_part))
            v_x, v_y = _mean_square(x_part.sub_(m_x)), _mean_square(y_part.sub_(m_y))
            i_x, i_y = (v_x + eps).rsqrt(), (v_y + eps).rsqrt()
            squares = _mean_square(x_part.mul_(i_x).addcmul_(y_part, i_y, value=-1))
            correlation = (v_x * i_x * i_x + v_y * i_y * i_y - squares) / 2
            found.append((m_x, m_y, i_x, i_y, correlation, squares))
        *statistics, squares = (torch.cat(parts, dim=1) for parts in zip(*found))
        ctx.save_for_backward(x, y, *statistics)
        ctx.eps = eps
        return squares.mean() / 2

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y, m_x, m_y, i_x, i_y, correlation = ctx.saved_tensors
        if torch.is_grad_enabled():
            # create_graph=True: the saved statistics carry no graph, so the definition is differentiated.
            wide = _statistics_dtype(x, y)
            loss = half_mse(*(F.instance_norm(part.to(wide), eps=ctx.eps) for part in (x, y)))
            wanted = [part for part, needed in zip((x, y), ctx.needs_input_grad) if needed]
            grads = iter(torch.autograd.grad(loss, wanted, upstream, create_graph=True))
            return next(grads) if ctx.needs_input_grad[0] else None, next(grads, None), None
        scale = upstream / x.numel()

        def gradient(x: Tensor, y: Tensor, m_x: Tensor, m_y: Tensor, i_x: Tensor, i_y: Tensor) -> Tensor:
            # 1 - v i^2 = eps i^2
            a = scale * i_x * i_x * (ctx.eps * i_x * i_x + correlation)
            b = -scale * i_x * i_y
            constant = a * m_x + b * m_y
            blocks, result = _channel_blocks(x), torch.empty_like(x)
            x_work, y_work = (torch.empty_like(x[:, blocks[0]], dtype=a.dtype) for _ in range(2))
            for block in blocks:
                x_part, y_part = _shift(x[:, block], x_work), _shift(y[:, block], y_work)
                x_part.mul_(a[:, block]).sub_(constant[:, block])
                result[:, block] = x_part.addcmul_(y_part, b[:, block])
            return result

        grad_x = gradient(x, y, m_x, m_y, i_x, i_y) if ctx.needs_input_grad[0] else None
        grad_y = gradient(y, x, m_y, m_x, i_y, i_x) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y, None


def instance_norm_mse(x: Tensor, y: Tensor, eps: float = 1e-5) -> Tensor:
    """Computes half the mean squared difference of two instance-normalised maps (CanKD, section 3.3).

    Computes ``0.5 * mse_loss(instance_norm(x), instance_norm(y))`` in closed form: temporaries hold a
    few channels at a time, and only ``x``, ``y`` and per-channel statistics are kept for the backward
    pass. The definition also keeps the two normalised maps and their difference. The cost is about
    12 operations per element forward and 8 backward. Statistics are computed in float32 at least. A
    backward pass that is itself differentiated (``create_graph=True``) uses the definition, with its
    memory.

    Args:
        x: first map, (B, C, H, W).
        y: second map, (B, C, H, W).
        eps: constant that is added to the variances. Defaults to 1e-5.

    Returns:
        A scalar of at least float32.
    """
    return _InstanceNormMSE.apply(x, y, eps)


def half_mse(x: Tensor, y: Tensor) -> Tensor:
    """Computes ``0.5 * mse_loss(x, y)`` in float32 at least, for maps that are not normalised.

    Args:
        x: first map, of any shape.
        y: second map, of the same shape.

    Returns:
        A scalar of at least float32.
    """
    return F.mse_loss(*widen(x, y)) / 2


def dot_product_context(phi: Tensor, g: Tensor) -> Tensor:
    """Computes the teacher's context, a small matrix that replaces its keys and values (CanKD, equations 1-3).

    Without a softmax ``(theta^T phi) g^T / N' = theta^T (phi g^T / N')``. The linear order, on the right,
    gives the same numbers as the paper's order without the N x N' matrix of all pairs of positions.

    Args:
        phi: keys of the teacher, (B, C', N').
        g: values of the teacher, (B, C'', N').

    Returns:
        ``g phi^T / N'``, (B, C'', C').
    """
    # Each factor is scaled by a part of 1/N', so that the sum stays in the range of half precision.
    scale = phi.shape[-1] ** -0.5
    return (g * scale) @ (phi * scale).transpose(1, 2)


def _in_blocks(function: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Applies an attention to blocks of queries and recomputes each block in the backward pass."""
    block = max(1, _BLOCK_SCORES // (q.shape[0] * k.shape[1]))
    if block >= q.shape[1]:
        return function(q, k, v)
    parts = [
        checkpoint(function, part, k, v, use_reentrant=False, preserve_rng_state=False)
        for part in q.split(block, dim=1)
    ]
    return torch.cat(parts, dim=1)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes ``softmax(q k^T) v`` without a scale and without holding the whole N x N' matrix.

    torch's own attention does that if keys and values have equal widths and are contiguous. Releases
    before 2.2 hold the matrix on CPUs; there, the queries are split into blocks that the backward pass
    recomputes. Keys and values are centred over the positions first, which changes nothing in exact
    arithmetic (the weights of a query add up to 1 and do not depend on a constant in its scores) and
    keeps the rounding of large means out of the weights and of their gradients.

    Args:
        q: queries, (B, N, C').
        k: keys, (B, N', C').
        v: values, (B, N', C'').

    Returns:
        (B, N, C'').
    """
    # The means can be constants to autograd: the gradients that they would get add up to zero over the positions.
    k_mean, v_mean = (part.detach().mean(1, keepdim=True) for part in (k, v))
    k, v = k - k_mean, v - v_mean
    if not _BOUNDED_ATTENTION:
        return _in_blocks(lambda q, k, v: (q @ k.transpose(1, 2)).softmax(-1) @ v, q, k, v) + v_mean
    width = v.shape[-1]
    common = max(width, k.shape[-1])
    q, k, v = (F.pad(part, (0, common - part.shape[-1]))[:, None].contiguous() for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0, :, :width] + v_mean


def relu_sum_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Computes the sum over j of ``relu(q_i + k_j) v_j / N'``, the attention of the concatenation affinity.

    A 1x1 convolution of a concatenated pair is the sum of one term for each side, so the function takes
    these terms. It does not hold the whole N x N' matrix.

    Args:
        q: terms of the student's positions, (B, N, 1).
        k: terms of the teacher's positions, (B, N', 1).
        v: values, (B, N', C'').

    Returns:
        (B, N, C'').
    """
    return _in_blocks(lambda q, k, v: F.relu(q + k.transpose(1, 2)) @ (v / k.shape[1]), q, k, v)

"""Computes and draws the weights of a distillation's cross-attention, and its share of the enhanced student's map."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.distillers import ConfigurableDistiller
from torch import Tensor

from cankd.losses import NLKDINLoss
from cankd.losses.cankd import CanBlock
from cankd.openmmlab.preprocessing import TeacherImages
from cankd.openmmlab.recording import record_predictions
from cankd.openmmlab.visualization.panels import View, save_figure, show_map

Cell = Sequence[int]


class Attention(NamedTuple):
    """The attention of one loss for one image.

    ``rows``: one (H', W') map over the teacher's pooled positions for each chosen cell; ``cells``:
    (row, column) of each cell in the student's map; ``size``: (H, W) of that map; ``reach``: the
    fractions of the teacher's height and width that its pooled map covers, less than 1 where
    pooling leaves an odd row or column out; ``share``: share of the block in the whole map;
    ``share_map``: (H, W), the share for each position.
    """

    rows: list[np.ndarray]
    cells: list[tuple[int, int]]
    size: tuple[int, int]
    reach: tuple[float, float]
    share: float
    share_map: np.ndarray


def attention_row(block: CanBlock, x: Tensor, y: Tensor, cell: Cell) -> Tensor:
    """Computes the weights with which one student position reads the teacher's positions.

    One row of the matrix that the loss never forms (CanKD, equation 1): for ``dot_product``
    theta(x_p) . phi(y_j) / N', of either sign; for the Gaussian affinities the softmax; for
    ``concatenation`` relu(w . [theta(x_p), phi(y_j)]) / N'. Memory and time grow with the
    positions of one map, not of their pairs.

    Args:
        block: attention block of the loss.
        x: the student's map, (1, C, H, W).
        y: the teacher's map, (1, C, H, W).
        cell: row and column of the student's position.

    Returns:
        (H', W') over the pooled teacher positions.
    """
    row, column = cell
    query = x[:, :, row : row + 1, column : column + 1]
    if block.theta is not None and block.phi is not None:
        query, y = block.theta(query), block.phi(y)
    keys = F.max_pool2d(y, block.pool_size)
    if block.concat is not None:
        student, teacher = block.concat.weight.chunk(2, dim=1)
        scores = F.relu((student * query).sum() + F.conv2d(keys, teacher))[0, 0]
        return scores / scores.numel()
    scores = (query * keys).sum(1)[0]
    if block.affinity == "dot_product":
        return scores / scores.numel()
    return scores.flatten().softmax(0).view_as(scores)


def residual_share(block: CanBlock, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Computes which share of the enhanced map X* = block(X, Y) + X the block contributes.

    ``|B| / (|B| + |X|)`` with B the block's part, BN(W_z Z), and Euclidean norms: over the whole
    map, and for each position over the channels. 0 for a block that adds nothing, as every block
    does at the start of a training; 1/2 where it adds as much as there was. Without a residual
    connection it is 1.

    Args:
        block: attention block of the loss, in eval mode.
        x: the student's map, (1, C, H, W).
        y: the teacher's map, (1, C, H, W).

    Returns:
        The share of the whole map, and that of each position, (H, W).
    """
    enhanced = block(x, y)
    own = x if block.residual else torch.zeros_like(x)
    added = enhanced - own

    def share(part: Tensor, rest: Tensor) -> Tensor:
        return part / (part + rest).clamp(min=torch.finfo(part.dtype).tiny)

    return share(added.norm(), own.norm()).item(), share(added.norm(dim=1), own.norm(dim=1))[0]


def fractions(
    points: Sequence[tuple[float, float]] | None, sample: BaseDataElement, view: View
) -> list[tuple[float, float]]:
    """Converts points of an image file to fractions of the network's input, for :func:`attend`.

    Args:
        points: (x, y) in pixels of the file. None for its centre.
        sample: data sample of the image from the test pipeline.
        view: the image as the network saw it. Where it is smaller than the file after resizing,
            the pipeline has cropped it around its centre, as classifiers' do.

    Returns:
        (x, y) of each point.

    Raises:
        ValueError: if a point lies outside the file, or where it was cropped off.
    """
    sizes = sample.ori_shape[1::-1]
    scales = sample.get("scale_factor", (1.0, 1.0))
    shown = view.image.shape[1::-1]
    offsets = [max(0, round((round(size * scale) - seen) / 2)) for size, scale, seen in zip(sizes, scales, shown)]
    limits = [
        (offset / scale, min(size, (offset + seen) / scale))
        for size, scale, seen, offset in zip(sizes, scales, shown, offsets)
    ]
    found = []
    for x, y in points or [(sizes[0] / 2, sizes[1] / 2)]:
        if not all(low <= value < high for value, (low, high) in zip((x, y), limits)):
            (left, right), (top, bottom) = limits
            raise ValueError(
                f"--points: got {x:g},{y:g}, expected a point within the image of {sizes[0]} x {sizes[1]} pixels, of "
                f"which the model sees x from {left:g} to {right:g} and y from {top:g} to {bottom:g}."
            )
        x, y = (value * scale - offset for value, scale, offset in zip((x, y), scales, offsets))
        found.append((x / view.covered[1], y / view.covered[0]))
    return found


@torch.no_grad()
def attend(
    student: BaseModel,
    teacher: BaseModel,
    distiller: ConfigurableDistiller,
    data: dict[str, Any],
    points: Sequence[tuple[float, float]],
    teacher_images: TeacherImages | None = None,
) -> dict[str, Attention]:
    """Runs both models of a distillation on one image and computes the attention of its CanKD losses.

    Args:
        student: student in eval mode.
        teacher: teacher in eval mode.
        distiller: distiller whose recorders are attached to both models.
        data: batch of one image, from the student's ``data_preprocessor``.
        points: (x, y) of the chosen positions, as fractions of the network's input.
        teacher_images: what makes the teacher's images of the batch, for a distillation with ``teacher_preprocess``.
            Defaults to None: the teacher gets the same batch.

    Returns:
        Name of the loss -> its attention.

    Raises:
        ValueError: if the distiller has no CanKD loss.
    """
    losses = {name: loss for name, loss in distiller.distill_losses.items() if isinstance(loss, NLKDINLoss)}
    if not losses:
        raise ValueError("the distillation has no NLKDINLoss, expected at least one in distiller.distill_losses.")
    record_predictions(distiller, student, teacher, data, teacher_images)
    found = {}
    for name, loss in losses.items():
        mappings = distiller.loss_forward_mappings[name]
        x, y = (distiller.get_record(**mappings[side]) for side in ("s_feature", "t_feature"))
        if loss.align:
            x = F.interpolate(x, y.shape[2:], mode="bilinear", align_corners=False)
        height, width = x.shape[2:]
        cells = [(int(v * height), int(u * width)) for u, v in points]
        rows = [attention_row(loss.block, x, y, cell).cpu().numpy() for cell in cells]
        reach = tuple(pooled * loss.block.pool_size / size for pooled, size in zip(rows[0].shape, y.shape[2:]))
        share, share_map = residual_share(loss.block, x, y)
        found[name] = Attention(rows, cells, (height, width), reach, share, share_map.cpu().numpy())
    return found


def draw_attention(view: View, attentions: dict[str, Attention], path: str | Path, alpha: float = 0.6) -> None:
    """Draws the attention of each chosen position and loss, and the block's share below.

    Rows are positions, a square marks each at the size of its cell; columns are losses. The
    colour scale of a column is symmetric around zero where weights have both signs.

    Args:
        view: the image as the network saw it.
        attentions: result of :func:`attend`.
        path: PNG file to write.
        alpha: opacity of the maps over the image.
    """
    points = len(next(iter(attentions.values())).rows)
    columns = len(attentions)
    aspect = min(max(view.image.shape[0] / view.image.shape[1], 0.5), 2.0)
    figure = Figure(figsize=(2.7 * columns + 0.4, (2.3 * aspect + 0.75) * (points + 1) + 0.4), layout="constrained")
    axes = figure.subplots(points + 1, columns, squeeze=False)
    most = max(attention.share_map.max() for attention in attentions.values())
    for column, (name, attention) in enumerate(attentions.items()):
        top = max(np.abs(row).max() for row in attention.rows)
        signed = min(row.min() for row in attention.rows) < 0
        scale = {"vmin": -top, "cmap": "RdBu_r"} if signed else {"vmin": 0, "cmap": "viridis"}
        (height, width), (full_height, full_width) = attention.size, view.covered
        read = View(view.image, (full_height * attention.reach[0], full_width * attention.reach[1]))
        axes[0][column].set_title(f"{name}\n{height} x {width} to {' x '.join(map(str, attention.rows[0].shape))}")
        for ax, row, (i, j) in zip(axes[:, column], attention.rows, attention.cells):
            shown = show_map(ax, row, read, alpha, vmax=top, **scale)
            corner, size = (
                (j * full_width / width, i * full_height / height),
                (full_width / width, full_height / height),
            )
            for color, line in (("white", 3.0), ("black", 1.2)):
                ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=line))
        figure.colorbar(shown, ax=axes[:-1, column].tolist(), location="bottom", shrink=0.9, label="weight")
        ax = axes[-1][column]
        shown = show_map(ax, attention.share_map, view, alpha, vmin=0, vmax=most, cmap="viridis")
        ax.set_title(f"{100 * attention.share:.1f} % of all", fontsize=10)
        figure.colorbar(shown, ax=ax, location="bottom", shrink=0.9, label="share of the block")
    for number, ax in enumerate(axes[:-1, 0], start=1):
        ax.set_ylabel(f"position {number}")
    axes[-1][0].set_ylabel("share")
    save_figure(figure, path)

"""Panels of boxes, heatmaps and curves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor


class Boxes(NamedTuple):
    """Boxes of one image: corners (N, 4) in pixels, N captions."""

    corners: np.ndarray
    captions: Sequence[str]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, whole or not at all.

    Args:
        figure: what to write.
        path: the file; its folder is made if needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=120)
    os.replace(part, path)


def draw_box_panel(images: Sequence[np.ndarray], columns: Mapping[str, Sequence[Boxes]], path: str | Path) -> None:
    """Draws images as rows and, beside each other, what each column found in them.

    Args:
        images: (H, W, 3) uint8, RGB.
        columns: title -> the boxes of each image.
        path: PNG to write.
    """
    figure = Figure(figsize=(2.6 * len(columns), 2.6 * len(images) + 0.4), layout="constrained")
    axes = figure.subplots(len(images), len(columns), squeeze=False)
    for column, (title, found) in enumerate(columns.items()):
        axes[0][column].set_title(title)
        for row, image in enumerate(images):
            ax = axes[row][column]
            ax.imshow(image)
            ax.axis("off")
            for (x0, y0, x1, y1), caption in zip(found[row].corners, found[row].captions):
                color = f"C{sum(map(ord, caption.split()[0])) % 10}"  # the same class, the same colour
                ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1.4))
                ax.text(
                    x0,
                    max(y0, 5),
                    caption,
                    color="white",
                    fontsize=6,
                    va="bottom",
                    clip_on=True,
                    bbox={"facecolor": color, "edgecolor": "none", "pad": 0.6},
                )
    save_figure(figure, path)


def feature_energy(feature: Tensor) -> np.ndarray:
    """Mean of the absolute value over channels, (H, W), of one map (C, H, W)."""
    return feature.detach().float().abs().mean(0).cpu().numpy()


def draw_heatmap_panel(
    image: np.ndarray, rows: Mapping[str, Sequence[np.ndarray]], levels: Sequence[str], path: str | Path
) -> None:
    """Draws one image and, per level, the heatmaps of several models on one shared colour scale.

    Args:
        image: (H, W, 3) uint8, RGB.
        rows: title -> one (H, W) map for each level.
        levels: titles of the levels.
        path: PNG to write.
    """
    figure = Figure(figsize=(2.3 * (len(levels) + 1), 2.2 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(levels) + 1, squeeze=False)
    for column, level in enumerate(levels, start=1):
        axes[0][column].set_title(level)
        maps = [maps[column - 1] for maps in rows.values()]
        low, high = min(m.min() for m in maps), max(m.max() for m in maps)
        for row, values in enumerate(maps):
            shown = axes[row][column].imshow(values, cmap="viridis", vmin=low, vmax=high)
        figure.colorbar(shown, ax=axes[:, column].tolist(), location="bottom", shrink=0.8, pad=0.02)
    axes[0][0].set_title("image")
    for row, title in enumerate(rows):
        axes[row][0].imshow(image)
        axes[row][0].set_ylabel(title)
        for ax in axes[row]:
            ax.set_xticks([])
            ax.set_yticks([])
    save_figure(figure, path)


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    labels: tuple[str, str],
    path: str | Path,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draws curves in one chart.

    Args:
        curves: name -> (x, y).
        labels: of the x and the y axis.
        path: PNG to write.
        levels: name -> y of a horizontal line.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    for name, (x, y) in curves.items():
        ax.plot(x, y, marker="o", markersize=3, label=name)
    for name, level in (levels or {}).items():
        ax.axhline(level, linestyle="--", color="gray", label=name)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])
    ax.grid(alpha=0.3)
    ax.legend()
    save_figure(figure, path)

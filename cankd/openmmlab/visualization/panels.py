"""Draws panels of boxes, labels, heatmaps and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from cankd.utils.files import whole

LABELS = ("class", "score", "none")
MASK_OPACITY = 0.5


class Boxes(NamedTuple):
    """Boxes of one image.

    Corners (N, 4) in pixels, N captions and, for predictions, N scores as text; of instance segmentation also the masks
    (N, H, W).
    """

    corners: np.ndarray
    captions: Sequence[str]
    scores: Sequence[str] | None = None
    masks: np.ndarray | None = None


class View(NamedTuple):
    """An image (H, W, 3), uint8, RGB, as a network saw it, and the size (H, W) of its input with padding."""

    image: np.ndarray
    covered: tuple[float, float]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure in the format of the file's suffix, whole or not at all.

    Args:
        figure: figure to write.
        path: file to write; its folder is made if needed.

    Raises:
        ValueError: if matplotlib does not write files of that suffix.
    """
    path = Path(path)
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise ValueError(f"got {path}, expected a name that ends in one of {', '.join(sorted(known))}.")
    with whole(path) as part:
        figure.savefig(part, format=path.suffix[1:], dpi=120)


def _image_grid(
    images: Sequence[np.ndarray], titles: Sequence[str], names: Sequence[str], width: float, below: float = 0.0
) -> tuple[Figure, np.ndarray]:
    """Makes a figure with a row for each image, its name beside it, and a column for each title.

    Args:
        images: images (H, W, 3), whose shapes determine the heights of the rows.
        titles: titles of the columns.
        names: names of the images, or none.
        width: width of a column, in inches.
        below: height of the space below the rows, in inches.
    """
    aspects = [image.shape[0] / image.shape[1] for image in images]
    size = (width * len(titles) + 0.2 * bool(names), width * sum(aspects) + 0.3 + below)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0))
    axes = figure.subplots(len(images), len(titles), squeeze=False, gridspec_kw={"height_ratios": aspects})
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    for ax, title in zip(axes[0], titles):
        ax.set_title(title)
    for ax, name in zip(axes[:, 0], names):
        ax.set_ylabel(name, fontsize=7)
    return figure, axes


def draw_box_panel(
    images: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[Boxes]],
    path: str | Path,
    names: Sequence[str] = (),
    labels: str = "class",
) -> None:
    """Draws images as rows, with the boxes of each column and the masks within them.

    Args:
        images: images (H, W, 3), uint8, RGB.
        columns: title -> the boxes of each image.
        path: PNG file to write.
        names: names of the images, drawn beside their rows. Defaults to none.
        labels: text at each box: ``class`` (default) for its whole caption, ``score`` or ``none``, for
            which the classes are in a legend.
    """
    legend = {}
    if labels != "class":
        everything = [boxes for found in columns.values() for boxes in found]
        kinds = {_kind(caption): _color(caption) for boxes in everything for caption in boxes.captions}
        legend = dict(sorted(kinds.items()))
    legend_columns = 6
    figure, axes = _image_grid(images, list(columns), names, 2.6, 0.3 * -(-len(legend) // legend_columns))
    for column, found in enumerate(columns.values()):
        for row, image in enumerate(images):
            axes[row][column].imshow(image)
            _draw_boxes(axes[row][column], found[row], labels)
    handles = [Patch(color=color, label=kind) for kind, color in legend.items()]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns, fontsize=8)
    _move_labels_inside(figure)
    save_figure(figure, path)


def _kind(caption: str) -> str:
    """Returns a caption without its score."""
    kind, _, score = caption.rpartition(" ")
    return kind if kind and score.replace(".", "", 1).isdigit() else caption


def _color(caption: str) -> str:
    """Returns the colour of a class, which is the same in all pictures."""
    return f"C{sum(map(ord, _kind(caption))) % 10}"


def _draw_boxes(ax: Axes, boxes: Boxes, labels: str = "class") -> None:
    """Draws boxes with their labels, and their masks, into a picture that is already there."""
    if boxes.masks is not None and len(boxes.masks):
        colors = np.zeros((*boxes.masks.shape[1:], 4))
        for mask, caption in zip(boxes.masks, boxes.captions):
            colors[mask.astype(bool)] = (*to_rgb(_color(caption)), MASK_OPACITY)
        ax.imshow(colors)
    texts = {"class": boxes.captions, "score": boxes.scores, "none": None}[labels] or [""] * len(boxes.captions)
    for (x0, y0, x1, y1), caption, text in zip(boxes.corners, boxes.captions, texts):
        color = _color(caption)
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=1.4))
        if text:
            background = {"facecolor": color, "edgecolor": "none", "pad": 0.6}
            drawn = ax.text(x0, y0, text, color="white", fontsize=6, va="bottom", clip_on=True, bbox=background)
            drawn.set_in_layout(False)


def _move_labels_inside(figure: Figure) -> None:
    """Moves text in pictures as far as needed to lie within their frames."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        frame = ax.get_window_extent()
        for text in ax.texts:
            extent = text.get_window_extent().padded(1)
            right = max(frame.x0 - extent.x0, 0) + min(frame.x1 - extent.x1, 0)
            up = max(frame.y0 - extent.y0, 0) + min(frame.y1 - extent.y1, 0)
            place = ax.transData.transform(text.get_position()) + (right, up)
            x, y = ax.transData.inverted().transform(place).tolist()
            text.set_position((x, y))


def draw_label_panel(
    images: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[np.ndarray]],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]] | None,
    path: str | Path,
    alpha: float = 0.6,
    names: Sequence[str] = (),
) -> None:
    """Draws images as rows, with the label maps of each column over them.

    Args:
        images: images (H, W, 3), uint8, RGB.
        columns: title -> one (H, W) map of class numbers for each image. Numbers without a class,
            such as 255, stay uncoloured.
        classes: names of the classes.
        palette: colour of each class, RGB, 0 to 255. Defaults to matplotlib's colours.
        path: PNG file to write.
        alpha: opacity of the labels.
        names: names of the images, drawn beside their rows. Defaults to none.
    """
    fallback = [[round(255 * part) for part in to_rgb(f"C{number % 10}")] for number in range(len(classes))]
    colors = np.array(palette if palette and len(palette) >= len(classes) else fallback) / 255
    legend_columns = 6
    seen = np.unique(np.concatenate([labels.ravel() for maps in columns.values() for labels in maps]))
    seen = [label for label in seen.tolist() if label < len(classes)]
    legend = 0.3 * -(-len(seen) // legend_columns)
    figure, axes = _image_grid(images, ["image", *columns], names, 3.0, legend)
    for row, image in enumerate(images):
        axes[row][0].imshow(image)
        for ax, maps in zip(axes[row][1:], columns.values()):
            labels = maps[row]
            known = labels < len(classes)
            layer = np.zeros((*labels.shape, 4))
            layer[known] = np.concatenate([colors[labels[known]], np.full((known.sum(), 1), alpha)], axis=1)
            ax.imshow(image)
            ax.imshow(layer, interpolation="nearest")
    handles = [Patch(color=colors[label], label=classes[label]) for label in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns, fontsize=8)
    save_figure(figure, path)


def feature_energy(feature: Tensor) -> np.ndarray:
    """Computes the mean of the absolute values over channels, (H, W), of one map (C, H, W)."""
    return feature.detach().float().abs().mean(0).cpu().numpy()


def show_map(ax: Axes, values: np.ndarray, view: View, alpha: float | None, **scale: Any) -> AxesImage:
    """Draws a map at its place in the image: over it with ``alpha``, else instead of it."""
    height, width = view.image.shape[:2]
    if alpha is not None:
        ax.imshow(view.image, extent=(0, width, height, 0))
    # A padded input's map covers more than the image; what lies outside is cut off.
    extent = (0, view.covered[1], view.covered[0], 0)
    shown = ax.imshow(values, extent=extent, alpha=alpha, interpolation="bilinear" if alpha else None, **scale)
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_xticks([])
    ax.set_yticks([])
    return shown


def draw_heatmap_panel(
    image: np.ndarray,
    rows: Mapping[str, Sequence[np.ndarray]],
    levels: Sequence[str],
    path: str | Path,
    views: Mapping[str, View] | None = None,
    alpha: float | None = None,
    label: str = "",
) -> None:
    """Draws one image and, per level, the heatmaps of several models on one shared colour scale.

    Args:
        image: image (H, W, 3), uint8, RGB.
        rows: title -> one (H, W) map for each level.
        levels: titles of the levels.
        path: PNG file to write.
        views: title -> the image as that model saw it. Defaults to the image, without padding.
        alpha: opacity of the heatmaps over the image. Defaults to the heatmaps alone.
        label: label of the colour scales.
    """
    height, width = image.shape[:2]
    size = 2.2 * min(max(height / width, 0.5), 2.0)
    figure = Figure(figsize=(2.3 * (len(levels) + 1), size * len(rows) + 1.0 + 0.2 * bool(label)), layout="constrained")
    axes = figure.subplots(len(rows), len(levels) + 1, squeeze=False)
    for row, title in enumerate(rows):
        view = (views or {}).get(title) or View(image, (height, width))
        ax = axes[row][0]
        ax.imshow(view.image)
        ax.set_ylabel(title)
        ax.set_xticks([])
        ax.set_yticks([])
        for column, values in enumerate(rows[title], start=1):
            level = [maps[column - 1] for maps in rows.values()]
            low, high = min(m.min() for m in level), max(m.max() for m in level)
            shown = show_map(axes[row][column], values, view, alpha, cmap="viridis", vmin=low, vmax=high)
            if row == len(rows) - 1:
                figure.colorbar(
                    shown, ax=axes[:, column].tolist(), location="bottom", shrink=0.8, pad=0.02, label=label
                )
    axes[0][0].set_title("image")
    for column, level_title in enumerate(levels, start=1):
        axes[0][column].set_title(level_title)
    for ax in axes.flat:
        ax.set_anchor("N")  # the image level with the maps, below which the colour scales are
    save_figure(figure, path)


def draw_map_grid(
    maps: Mapping[str, np.ndarray],
    view: View,
    title: str,
    path: str | Path,
    arrangement: tuple[int, int] = (4, 5),
    alpha: float | None = None,
    boxes: Boxes | None = None,
) -> None:
    """Draws maps of one image in rows and columns on one shared colour scale.

    Args:
        maps: caption -> (H, W); a single one is drawn large.
        view: the image as the model saw it.
        title: title of the picture.
        path: PNG file to write.
        arrangement: rows and columns.
        alpha: opacity of the maps over the image. Defaults to the maps alone.
        boxes: boxes to draw over each map, in pixels of the view.

    Raises:
        ValueError: if there are more maps than places.
    """
    rows, columns = (1, 1) if len(maps) == 1 else arrangement
    if len(maps) > rows * columns:
        raise ValueError(
            f"--arrangement: got {rows} x {columns} places for {len(maps)} channels. Give more, or a smaller --topk."
        )
    rows = -(-len(maps) // columns)  # no empty row
    height, width = view.image.shape[:2]
    size = 4.5 if len(maps) == 1 else 1.7
    aspect = min(max(height / width, 0.5), 2.0)
    figure = Figure(figsize=(max(size * columns, 3.0) + 0.8, (size * aspect + 0.2) * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    low, high = min(m.min() for m in maps.values()), max(m.max() for m in maps.values())
    for ax, (caption, values) in zip(axes, maps.items()):
        shown = show_map(ax, values, view, alpha, cmap="viridis", vmin=low, vmax=high)
        ax.set_title(caption, fontsize=8)
        if boxes is not None:
            _draw_boxes(ax, boxes)
    for ax in axes[len(maps) :]:
        ax.axis("off")
    figure.colorbar(shown, ax=axes.tolist(), location="right", shrink=0.8, pad=0.02)
    _move_labels_inside(figure)
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
        labels: labels of the x and the y axis.
        path: PNG file to write.
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

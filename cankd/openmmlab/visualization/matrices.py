"""Draws matrices as tables of coloured cells."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

import numpy as np
from matplotlib.figure import Figure

from cankd.openmmlab.visualization.panels import save_figure

# Beyond so many columns the cells are too small for numbers, and for names.
NUMBERED_COLUMNS = 25
NAMED_COLUMNS = 100


class Matrix(NamedTuple):
    """One matrix of a picture: its values (rows, columns), nan for empty cells, and whether it holds differences."""

    values: np.ndarray
    difference: bool = False


def draw_matrices(
    matrices: Mapping[str, Matrix],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str],
    path: str | Path,
    color_theme: str = "viridis",
    decimals: int = 1,
) -> None:
    """Draws matrices beside each other: plain ones on one colour scale, differences on one around 0.

    Args:
        matrices: title -> matrix.
        rows: names of the rows.
        columns: names of the columns.
        labels: labels of the rows and of the columns.
        path: PNG file to write.
        color_theme: matplotlib's colour map of plain matrices.
        decimals: decimals of the numbers in the cells.
    """
    numbered, named = len(columns) <= NUMBERED_COLUMNS, len(columns) <= NAMED_COLUMNS
    cell = 0.42 if numbered else 0.16 if named else 16 / len(columns)  # inches
    margin = 0.075 * max(map(len, rows))
    inches = (max(cell * len(columns), 2.2) + 1.0, max(cell * len(rows), 1.5) + 1.5 + 0.05 * max(map(len, columns)))
    scale = min(max(1, inches[0] / 7), 2)  # of the text around large matrices
    figure = Figure(figsize=(inches[0] * len(matrices) + margin, inches[1]), layout="constrained")
    axes = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    plain = [matrix.values for matrix in matrices.values() if not matrix.difference]
    for ax, (title, matrix) in zip(axes, matrices.items()):
        if matrix.difference:
            high = max(np.nanmax(np.abs(matrix.values)), 1e-9)
            low, theme = -high, "RdBu"
        else:
            low, high = min(map(np.nanmin, plain)), max(map(np.nanmax, plain))
            theme = color_theme
        shown = ax.imshow(matrix.values, cmap=theme, vmin=low, vmax=high, aspect="auto")
        bar = figure.colorbar(shown, ax=ax, location="bottom", shrink=0.8, pad=0.02, aspect=25 * scale)
        bar.ax.tick_params(labelsize=10 * scale)
        ax.set_title(title, fontsize=12 * scale)
        if not named:
            ax.tick_params(labelsize=10 * scale)
        else:
            size = 8 if numbered else 5
            ax.set_xticks(range(len(columns)), columns, rotation=45, ha="left", rotation_mode="anchor", fontsize=size)
            ax.set_yticks(range(len(rows)), rows, fontsize=size)
        ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
        ax.set_xlabel(labels[1], fontsize=11 * scale)
        if numbered:
            _write_numbers(ax, shown, matrix, decimals)
    axes[0].set_ylabel(labels[0], fontsize=11 * scale)
    save_figure(figure, path)


def _write_numbers(ax, shown, matrix: Matrix, decimals: int) -> None:
    """Writes each cell's value in black or white, whichever stands out from its colour."""
    for (row, column), value in np.ndenumerate(matrix.values):
        if not np.isnan(value):
            red, green, blue, _ = shown.to_rgba(value)
            value = round(value, decimals) + 0.0  # so that there is no -0
            text = f"{value:{'+' if matrix.difference and value else ''}.{decimals}f}"
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")

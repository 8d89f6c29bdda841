"""Draws several charts of curves in one picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Mapping, Sequence

from matplotlib.figure import Figure

from cankd.openmmlab.visualization.panels import save_figure


def draw_chart_grid(
    charts: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    x_label: str,
    path: str | Path,
    levels: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Draws one chart for each quantity, with a curve for each run in the run's own colour.

    Args:
        charts: title -> run -> (x, y).
        x_label: label of all x axes.
        path: PNG file to write.
        levels: title -> name -> y of a horizontal line.
    """
    runs = list(dict.fromkeys(run for curves in charts.values() for run in curves))
    columns = min(3, len(charts))
    rows = math.ceil(len(charts) / columns)
    single = len(charts) == 1
    figure = Figure(figsize=(6.4, 4.4) if single else (3.6 * columns, 2.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    handles: dict = {}
    for ax, (title, curves) in zip(axes, charts.items()):
        for run, (x, y) in curves.items():
            color = f"C{runs.index(run) % 10}"
            (handles[run],) = ax.plot(x, y, color=color, marker="o" if len(x) < 40 else None, markersize=3, label=run)
        for number, (name, level) in enumerate((levels or {}).get(title, {}).items()):
            style = ("--", ":", "-.")[number % 3]
            handles[name] = ax.axhline(level, linestyle=style, color="gray", label=name)
        ax.set_title(title, fontsize=10)
        ax.grid(alpha=0.3)
        ax.set_xlabel(x_label)
    for ax in axes[len(charts) :]:
        ax.remove()
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
    save_figure(figure, path)

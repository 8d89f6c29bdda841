"""Draws pictures without a display."""

from cankd.openmmlab.visualization.panels import (
    LABELS,
    Boxes,
    View,
    draw_box_panel,
    draw_curves,
    draw_heatmap_panel,
    draw_label_panel,
    draw_map_grid,
    feature_energy,
)

__all__ = [
    "LABELS",
    "Boxes",
    "View",
    "draw_box_panel",
    "draw_curves",
    "draw_heatmap_panel",
    "draw_label_panel",
    "draw_map_grid",
    "feature_energy",
]

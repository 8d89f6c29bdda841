"""Pictures that the tools share, drawn without a display."""

from cankd.visualization.panels import Boxes, draw_box_panel, draw_curves, draw_heatmap_panel, feature_energy

__all__ = ["Boxes", "draw_box_panel", "draw_curves", "draw_heatmap_panel", "feature_energy"]

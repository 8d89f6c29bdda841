"""Draws docs/architecture.png, the picture at the head of the README: python docs/architecture.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

STUDENT, TEACHER, LOSS, PLAIN = "#cfe3f7", "#f9dcc4", "#d5efd0", "#eeeeee"
EDGE = "#444444"


def box(ax, x: float, y: float, width: float, text: str, color: str, height: float = 0.8, dashed: bool = False) -> None:
    """A rounded box with text, centred at (x, y)."""
    style = "round,pad=0,rounding_size=0.12"
    corner = (x - width / 2, y - height / 2)
    line = "--" if dashed else "-"
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=color, ec=EDGE, lw=1.1, ls=line))
    ax.text(x, y, text, ha="center", va="center", fontsize=10.5, linespacing=1.35)


def arrow(ax, *points: tuple[float, float]) -> None:
    """A line through the points with an arrow head at the last one."""
    for start, end in zip(points[:-2], points[1:-1]):
        ax.plot(*zip(start, end), color=EDGE, lw=1.3, solid_capstyle="round")
    style = dict(arrowstyle="-|>", color=EDGE, lw=1.3, shrinkA=0, shrinkB=0, mutation_scale=13)
    ax.annotate("", points[-1], points[-2], arrowprops=style)


def note(ax, x: float, y: float, text: str, **kwargs) -> None:
    """Small text beside an arrow."""
    ax.text(x, y, text, ha=kwargs.pop("ha", "center"), va="center", fontsize=9, color="#555555", **kwargs)


def draw_step(ax) -> None:
    """One training step: two models, one loss per level, one sum."""
    ax.set_title("One training step", loc="left", fontsize=12, fontweight="bold")
    box(ax, 1.0, 1.9, 1.3, "images", PLAIN)
    box(ax, 3.6, 3.1, 2.0, "teacher's\nbackbone", TEACHER)
    box(ax, 6.4, 3.1, 2.0, "teacher's\nneck", TEACHER)
    box(ax, 9.2, 3.1, 2.0, "teacher's head:\nnot computed", "white", dashed=True)
    box(ax, 3.6, 0.7, 2.0, "student's\nbackbone", STUDENT)
    box(ax, 6.4, 0.7, 2.0, "student's\nneck", STUDENT)
    box(ax, 9.2, 0.7, 2.0, "student's\nhead", STUDENT)
    box(ax, 9.2, 1.9, 2.9, "NLKDINLoss, one per level\n(P3, P4, P5, P6)", LOSS)
    box(ax, 12.6, 0.7, 2.0, "task losses", PLAIN)
    box(ax, 15.2, 1.9, 1.6, "total loss", PLAIN)
    arrow(ax, (1.65, 2.05), (2.1, 2.05), (2.1, 3.1), (2.6, 3.1))
    arrow(ax, (1.65, 1.75), (2.1, 1.75), (2.1, 0.7), (2.6, 0.7))
    for y in (3.1, 0.7):
        arrow(ax, (4.6, y), (5.4, y))
    arrow(ax, (7.4, 0.7), (8.2, 0.7))
    arrow(ax, (6.4, 2.7), (6.4, 2.05), (7.75, 2.05))
    arrow(ax, (6.4, 1.1), (6.4, 1.75), (7.75, 1.75))
    note(ax, 6.25, 2.38, "t_feature", ha="right")
    note(ax, 6.25, 1.42, "s_feature", ha="right")
    arrow(ax, (10.2, 0.7), (11.6, 0.7))
    arrow(ax, (10.65, 1.9), (14.4, 1.9))
    arrow(ax, (13.6, 0.7), (15.2, 0.7), (15.2, 1.5))
    note(ax, 12.5, 2.12, "distillation losses")
    note(ax, 3.6, 3.72, "frozen, no gradient")


def draw_loss(ax) -> None:
    """One loss: a student's map and a teacher's map to a scalar."""
    ax.set_title("One NLKDINLoss (dot product, linear order)", loc="left", fontsize=12, fontweight="bold")
    box(ax, 1.25, 3.1, 1.9, "Y, teacher\nC x H x W", TEACHER)
    box(ax, 1.25, 0.7, 1.9, "X, student\nC x H x W", STUDENT)
    box(ax, 4.2, 3.1, 2.6, "φ(Y), g(Y): 1x1 conv,\nmax-pool: C' x HW/4", TEACHER)
    box(ax, 4.2, 1.9, 2.6, "θ(X): 1x1 conv\nC' x HW", STUDENT)
    box(ax, 7.35, 3.1, 2.3, "context φ gᵀ / N'\nC' x C'", LOSS)
    box(ax, 7.35, 1.9, 2.3, "Z = θᵀ context\nHW x C'", LOSS)
    box(ax, 10.1, 1.9, 2.0, "W_z (1x1 conv),\nbatch norm", LOSS)
    box(ax, 12.3, 0.7, 1.7, "sum: X*\nC x H x W", STUDENT)
    box(ax, 15.05, 1.9, 1.95, "instance norms,\nhalf the mean\nsquared difference", LOSS, height=1.15)
    arrow(ax, (2.2, 3.1), (2.9, 3.1))
    arrow(ax, (1.25, 1.1), (1.25, 1.9), (2.9, 1.9))
    arrow(ax, (5.5, 3.1), (6.2, 3.1))
    arrow(ax, (5.5, 1.9), (6.2, 1.9))
    arrow(ax, (7.35, 2.7), (7.35, 2.3))
    arrow(ax, (8.5, 1.9), (9.1, 1.9))
    arrow(ax, (11.1, 1.9), (12.3, 1.9), (12.3, 1.1))
    arrow(ax, (2.2, 0.7), (11.45, 0.7))
    arrow(ax, (13.15, 0.7), (15.05, 0.7), (15.05, 1.32))
    arrow(ax, (1.25, 3.5), (1.25, 3.85), (15.05, 3.85), (15.05, 2.48))
    note(ax, 7.35, 1.32, "no HW x HW/4 matrix")
    note(ax, 5.0, 0.9, "residual")


def main() -> None:
    """Writes the picture beside this file."""
    figure, axes = plt.subplots(2, 1, figsize=(13.2, 7.4))
    for ax, draw in zip(axes, (draw_step, draw_loss)):
        ax.set(xlim=(0.1, 16.3), ylim=(0.15, 4.05), aspect="equal")
        ax.axis("off")
        draw(ax)
    figure.tight_layout(h_pad=1.2)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()

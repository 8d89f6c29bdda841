"""Pictures of matrices."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cankd.openmmlab.visualization.matrices import Matrix, draw_matrices


def test_matrices_are_coloured_by_value(tmp_path):
    values = np.array([[1.0, 0.0], [0.0, np.nan]])
    matrices = {"plain": Matrix(values), "difference": Matrix(-values, difference=True)}
    draw_matrices(matrices, ["a", "b"], ["c", "d"], ("rows", "columns"), tmp_path / "m.png")
    drawn = cv2.imread(str(tmp_path / "m.png"))[..., ::-1].astype(int)

    def share(colour) -> float:
        return (np.abs(drawn - colour) < 6).all(axis=2).mean()

    cell = share((253, 231, 37))  # viridis' highest: one of four cells of the left matrix
    assert cell > 0.01 and share((68, 1, 84)) == pytest.approx(2 * cell, rel=0.2)
    assert share((103, 0, 31)) == pytest.approx(cell, rel=0.2)  # the lowest difference, red

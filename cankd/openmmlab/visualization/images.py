"""Writes image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cankd.utils.files import whole


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Writes an image, whole or not at all; unlike ``cv2.imwrite`` it fails where the disk is full.

    Args:
        path: file to write; its suffix determines the format.
        image: (H, W, 3) uint8, BGR, or (H, W).

    Raises:
        OSError: if the file cannot be written.
    """
    with whole(path) as part:
        part.write_bytes(cv2.imencode(Path(path).suffix, image)[1].tobytes())

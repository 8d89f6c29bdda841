"""Synthetic scenes: scikit-learn's handwritten digits on scikit-image's photographs."""

from __future__ import annotations

from typing import List, NamedTuple

import cv2
import numpy as np
from skimage import data

PHOTOGRAPHS = {
    "train": ("astronaut", "chelsea", "rocket", "brick", "coins", "grass", "immunohistochemistry"),
    "val": ("camera", "hubble_deep_field", "coffee", "gravel"),
}
SIZE = 96
OBJECTS = (1, 6)  # per scene, upper end excluded
OBJECT_SIZE = (14, 45)  # pixels, upper end excluded
FINER = 4  # how many times finer than the pixels an outline is


class Digit(NamedTuple):
    """A digit in a scene: its class, its box [x, y, width, height], and the polygons [x, y, x, y, ...] around it."""

    label: int
    box: List[int]
    outlines: List[List[float]]

    def enlarged(self, width: float, height: float) -> Digit:
        """Returns the digit in a scene that is so many times as wide and as high."""
        box = [round(value * factor) for value, factor in zip(self.box, [width, height] * 2)]
        scaled = (np.reshape(outline, (-1, 2)) * (width, height) for outline in self.outlines)
        return Digit(self.label, box, [points.round(2).ravel().tolist() for points in scaled])


def load_photographs(names: tuple[str, ...]) -> list[np.ndarray]:
    """Returns the named scikit-image photographs as (H, W, 3) uint8, at half size."""
    images = []
    for name in names:
        image = getattr(data, name)()
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        images.append(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return images


def outlines_of(mask: np.ndarray, x: int, y: int) -> list[list[float]]:
    """Returns the polygons around the parts of a mask (H, W) whose corner lies at x, y; holes count as filled."""
    fine = mask.astype(np.uint8).repeat(FINER, 0).repeat(FINER, 1)
    contours, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [((contour.reshape(-1, 2) + 0.5) / FINER + (x, y)).round(2).ravel().tolist() for contour in contours]


def draw_scene(
    photographs: list[np.ndarray], digits: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[Digit]]:
    """Draws one scene.

    Args:
        photographs: images that backgrounds are cropped from.
        digits: (N, 8, 8) in 0..1.
        labels: (N,) class of each digit.
        rng: source of randomness.

    Returns:
        The scene, (SIZE, SIZE, 3) uint8, and its digits.
    """
    photograph = photographs[rng.integers(len(photographs))]
    top, left = (rng.integers(extent - SIZE + 1) for extent in photograph.shape[:2])
    scene = photograph[top : top + SIZE, left : left + SIZE].astype(np.float32)
    objects = []
    for _ in range(rng.integers(*OBJECTS)):
        index, extent = rng.integers(len(digits)), int(rng.integers(*OBJECT_SIZE))
        mask = cv2.resize(digits[index], (extent, extent), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        ys, xs = np.nonzero(mask > 0.3)
        mask = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        height, width = mask.shape
        y, x = int(rng.integers(SIZE - height + 1)), int(rng.integers(SIZE - width + 1))
        region = scene[y : y + height, x : x + width]
        region += mask[..., None] * (rng.uniform(0, 255, 3) - region)
        objects.append(Digit(int(labels[index]), [x, y, width, height], outlines_of(mask > 0.3, x, y)))
    return scene.clip(0, 255).astype(np.uint8), objects

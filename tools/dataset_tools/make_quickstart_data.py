"""Generates the quickstart's detection data in COCO layout from images that packages ship.

Scenes are random crops of scikit-image's photographs; the objects are scikit-learn's
handwritten digits (10 classes), scaled, coloured and overlapping. Training and validation
share neither photographs nor digits, and the same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from skimage import data
from sklearn.datasets import load_digits

from cankd.openmmlab.visualization.images import write_image
from cankd.utils.command_line import at_least, one_line_errors
from cankd.utils.files import write_text

PHOTOGRAPHS = {
    "train": ("astronaut", "chelsea", "rocket", "brick", "coins", "grass", "immunohistochemistry"),
    "val": ("camera", "hubble_deep_field", "coffee", "gravel"),
}
SIZE = 96
OBJECTS = (1, 6)  # per scene, upper end excluded
OBJECT_SIZE = (14, 45)  # pixels, upper end excluded


def load_photographs(names: tuple[str, ...]) -> list[np.ndarray]:
    """Returns the named scikit-image photographs as (H, W, 3) uint8, at half size."""
    images = []
    for name in names:
        image = getattr(data, name)()
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        images.append(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return images


def draw_scene(
    photographs: list[np.ndarray], digits: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Draws one scene.

    Args:
        photographs: what backgrounds are cropped from.
        digits: (N, 8, 8) in 0..1.
        labels: (N,) class of each digit.
        rng: source of randomness.

    Returns:
        The scene, (SIZE, SIZE, 3) uint8, and (label, [x, y, width, height]) of each object.
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
        objects.append((int(labels[index]), [x, y, width, height]))
    return scene.clip(0, 255).astype(np.uint8), objects


def make_split(out: Path, split: str, count: int, digits: np.ndarray, labels: np.ndarray, seed: int) -> None:
    """Writes ``count`` scenes under ``out/split`` and ``out/annotations/split.json``."""
    rng = np.random.default_rng([seed, list(PHOTOGRAPHS).index(split)])
    photographs = load_photographs(PHOTOGRAPHS[split])
    (out / split).mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in range(count):
        scene, objects = draw_scene(photographs, digits, labels, rng)
        name = f"{image_id:05d}.png"
        write_image(out / split / name, scene[..., ::-1])
        images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
        for label, box in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": str(label)} for label in range(10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(out / "annotations" / f"{split}.json", json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/quickstart"), help="folder to write")
    parser.add_argument("--train", type=at_least(1), default=6000, help="training scenes")
    parser.add_argument("--val", type=at_least(1), default=400, help="validation scenes")
    parser.add_argument("--seed", type=at_least(0), default=0)
    args = parser.parse_args()

    wanted = {"train": args.train, "val": args.val, "seed": args.seed}
    stamp = args.out / "made.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        print(f"{args.out} is complete.")
        return
    if args.out.exists() and any(args.out.iterdir()) and not stamp.exists():
        parser.error(f"--out: {args.out} holds files that this tool did not write; give an empty or new folder.")
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    stamp.write_text("{}")  # ours, but not complete yet
    bunch = load_digits()
    digits = (bunch.images / 16).astype(np.float32)
    # The data set's own order: the first three quarters of the writers train, the rest validate.
    border = len(digits) * 3 // 4
    make_split(args.out, "train", args.train, digits[:border], bunch.target[:border], args.seed)
    make_split(args.out, "val", args.val, digits[border:], bunch.target[border:], args.seed)
    stamp.write_text(json.dumps(wanted))
    print(f"Wrote {args.train} training and {args.val} validation scenes to {args.out}.")


if __name__ == "__main__":
    with one_line_errors():
        main()

"""Generates the quickstart's detection data in COCO layout from images that packages ship.

Scenes are random crops of scikit-image's photographs; the objects are scikit-learn's
handwritten digits (10 classes), scaled, coloured and overlapping. Training and validation
share neither photographs nor digits, and the same seed gives the same files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Sequence

import numpy as np
from sklearn.datasets import load_digits

from cankd.openmmlab.scenes import PHOTOGRAPHS, SIZE, draw_scene, load_photographs
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import write_image, write_text


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


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/quickstart"), help="folder to write")
    parser.add_argument("--train", type=at_least(1), default=6000, help="training scenes")
    parser.add_argument("--val", type=at_least(1), default=400, help="validation scenes")
    parser.add_argument("--seed", type=at_least(0), default=0)
    args = parser.parse_args(argv)

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

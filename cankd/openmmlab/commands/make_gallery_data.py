"""Generates the small segmentation and classification data behind some pictures of docs/visualization.md.

python tools/dataset_tools/make_gallery_data.py [--out data/gallery] [--train 1500] [--val 100]

The scenes of the quickstart, with a label map each (0 background, 1 digit), and the single digits cut out
of them, in a folder for each class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from sklearn.datasets import load_digits

from cankd.openmmlab.scenes import PHOTOGRAPHS, draw_scene, load_photographs
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import write_image

MARGIN = 3  # pixels around a digit that is cut out


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/gallery"), help="folder to write")
    parser.add_argument("--train", type=at_least(1), default=1500, help="training scenes")
    parser.add_argument("--val", type=at_least(1), default=100, help="validation scenes")
    args = parser.parse_args(argv)
    bunch = load_digits()
    border = len(bunch.images) * 3 // 4
    for split, part in (("train", slice(0, border)), ("val", slice(border, None))):
        digits, labels = (bunch.images[part] / 16).astype(np.float32), bunch.target[part]
        photographs = load_photographs(PHOTOGRAPHS[split])
        for number in range(getattr(args, split)):
            scene, objects = draw_scene(photographs, digits, labels, np.random.default_rng(number))
            # The same digits on black and on white: what differs there is what shows through.
            black, white = (
                draw_scene([np.full_like(p, v) for p in photographs], digits, labels, np.random.default_rng(number))[0]
                for v in (0, 255)
            )
            covered = (white.astype(int) - black).mean(axis=2) < 180
            write_image(args.out / split / "images" / f"{number:05d}.png", scene[..., ::-1])
            write_image(args.out / split / "labels" / f"{number:05d}.png", covered.astype(np.uint8))
            for index, (label, (x, y, width, height)) in enumerate(objects):
                top, left = max(y - MARGIN, 0), max(x - MARGIN, 0)
                cut = scene[top : y + height + MARGIN, left : x + width + MARGIN]
                write_image(args.out / split / "digits" / str(label) / f"{number:05d}_{index}.png", cut[..., ::-1])
    print(f"Wrote {args.train + args.val} scenes and their digits to {args.out}.")

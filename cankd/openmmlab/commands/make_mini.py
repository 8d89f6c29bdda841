"""Writes a few generated images in the layout of a real data set.

File names, JSON fields, label ids and folders are the real ones, so that every configuration
runs on them unmodified but for its data root. The scenes are the quickstart's, enlarged.

python tools/dataset_tools/make_mini.py --layout coco|objects365|cityscapes|imagenet --out DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from cankd.openmmlab.datasets import LAYOUTS
from cankd.openmmlab.scenes import PHOTOGRAPHS
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import whole_folder


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder: the configs' data root")
    parser.add_argument("--train", type=at_least(1), default=8, help="training images")
    parser.add_argument("--val", type=at_least(1), default=4, help="validation images")
    parser.add_argument("--seed", type=at_least(0), default=0)
    args = parser.parse_args(argv)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out: {args.out} is not empty; give a new or empty folder.")
    with whole_folder(args.out) as part:
        for split in PHOTOGRAPHS:
            LAYOUTS[args.layout](part, split, getattr(args, split), args.seed)
    print(f"Wrote {args.train} training and {args.val} validation images in the layout of {args.layout} to {args.out}.")

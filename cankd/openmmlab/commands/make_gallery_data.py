"""Generates the small segmentation and classification data behind some pictures of docs/visualization.md.

python tools/dataset_tools/make_gallery_data.py [--out data/gallery] [--train 1500] [--val 100]

The scenes of the quickstart, with a label map each (0 background, 1 digit), and the single digits cut out
of them, in a folder for each class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from cankd.openmmlab.datasets import make_gallery_split
from cankd.utils.command_line import at_least, command_parser, one_line_errors


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/gallery"), help="folder to write")
    parser.add_argument("--train", type=at_least(1), default=1500, help="training scenes")
    parser.add_argument("--val", type=at_least(1), default=100, help="validation scenes")
    args = parser.parse_args(argv)
    make_gallery_split(args.out, "train", args.train)
    make_gallery_split(args.out, "val", args.val)
    print(f"Wrote {args.train + args.val} scenes and their digits to {args.out}.")

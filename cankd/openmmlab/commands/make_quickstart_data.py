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

from cankd.openmmlab.datasets import make_quickstart_split
from cankd.utils.command_line import at_least, command_parser, one_line_errors


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/quickstart"), help="folder to write")
    parser.add_argument("--train", type=at_least(1), default=6000, help="training scenes")
    parser.add_argument("--val", type=at_least(1), default=400, help="validation scenes")
    parser.add_argument("--seed", type=at_least(0), default=0)
    args = parser.parse_args(argv)

    wanted = {"train": args.train, "val": args.val, "seed": args.seed, "outlines": True}
    stamp = args.out / "made.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        print(f"{args.out} is complete.")
        return
    if args.out.exists() and any(args.out.iterdir()) and not stamp.exists():
        parser.error(f"--out: {args.out} holds files that this tool did not write; give an empty or new folder.")
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    stamp.write_text("{}")  # ours, but not complete yet
    make_quickstart_split(args.out, "train", args.train, args.seed)
    make_quickstart_split(args.out, "val", args.val, args.seed)
    stamp.write_text(json.dumps(wanted))
    print(f"Wrote {args.train} training and {args.val} validation scenes to {args.out}.")

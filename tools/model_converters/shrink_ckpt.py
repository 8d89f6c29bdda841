"""Writes a checkpoint's weights alone, in half precision, to ship a small teacher.

python tools/model_converters/shrink_ckpt.py CHECKPOINT OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cankd.analysis.files import one_line_errors
from cankd.checkpoint import add_trust_argument, load_checkpoint_file, save_whole


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep a checkpoint's weights, in half precision")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    add_trust_argument(parser)
    args = parser.parse_args()
    with one_line_errors():
        state_dict = load_checkpoint_file(args.checkpoint)["state_dict"]
        halves = {name: value.half() if value.is_floating_point() else value for name, value in state_dict.items()}
        save_whole({"meta": {}, "state_dict": halves}, args.out)
    print(f"Wrote {len(halves)} tensors, {args.out.stat().st_size / 1e6:.1f} MB, to {args.out}")


if __name__ == "__main__":
    main()

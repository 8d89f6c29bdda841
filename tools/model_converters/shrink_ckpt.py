"""Writes a checkpoint's weights alone, in half precision, to ship a small teacher.

A tensor with a value beyond half precision's range stays as it is and is named.

python tools/model_converters/shrink_ckpt.py CHECKPOINT OUT
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cankd.openmmlab.checkpoint import add_trust_argument, load_checkpoint_file, save_whole
from cankd.utils.command_line import one_line_errors


def is_wide(value: Any) -> bool:
    """Whether a value is a tensor that can be halved."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.half


def halved(value: Any) -> Any:
    """A tensor in half precision, unless a finite value would become infinite; anything else as it is."""
    if not is_wide(value):
        return value
    half = value.half()
    return half if bool((half.isfinite() | ~value.isfinite()).all()) else value


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep a checkpoint's weights, in half precision")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    add_trust_argument(parser)
    args = parser.parse_args()
    with one_line_errors():
        state_dict = load_checkpoint_file(args.checkpoint)["state_dict"]
        halves = {name: halved(value) for name, value in state_dict.items()}
        save_whole({"meta": {}, "state_dict": halves}, args.out)
    kept = [name for name, value in halves.items() if is_wide(value)]
    if kept:
        print(f"Not halved, because of values beyond {torch.finfo(torch.half).max:.0f}: {', '.join(kept)}")
    print(f"Wrote {len(halves)} tensors, {args.out.stat().st_size / 1e6:.1f} MB, to {args.out}")


if __name__ == "__main__":
    main()

"""Cuts the student out of a distillation checkpoint.

python tools/model_converters/convert_kd_ckpt_to_student.py CHECKPOINT [--out-path DIR] [--inplace]

Writes <name>_student.pth beside the checkpoint, or in DIR; it loads into the student's own
configuration, without this package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cankd.openmmlab.checkpoint import add_trust_argument, load_checkpoint_file, save_whole, student_state_dict
from cankd.utils.command_line import one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(description="Cut the student out of a distillation checkpoint")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a distillation run")
    parser.add_argument("--out-path", type=Path, help="folder to write to; the checkpoint's own by default")
    parser.add_argument("--inplace", action="store_true", help="replace the checkpoint instead")
    add_trust_argument(parser)
    args = parser.parse_args()
    folder = args.out_path or args.checkpoint.parent
    target = args.checkpoint if args.inplace else folder / f"{args.checkpoint.stem}_student.pth"
    with one_line_errors():
        checkpoint = load_checkpoint_file(args.checkpoint)
        state_dict = student_state_dict(checkpoint["state_dict"])
        save_whole({"meta": checkpoint.get("meta", {}), "state_dict": state_dict}, target)
    print(f"Wrote {len(state_dict)} of {len(checkpoint['state_dict'])} tensors to {target}")


if __name__ == "__main__":
    main()

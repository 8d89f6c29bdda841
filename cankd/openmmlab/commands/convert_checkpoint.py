"""Makes smaller checkpoints: the student of a distillation alone, or the weights alone in half precision."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Sequence

import torch

from cankd.openmmlab.checkpoint import Checkpoint, is_wide
from cankd.openmmlab.checkpoint_files import save_whole
from cankd.openmmlab.commands.arguments import add_trust_argument
from cankd.utils.command_line import command_parser, one_line_errors


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Cuts the student out of a distillation checkpoint.

    python tools/model_converters/convert_kd_ckpt_to_student.py CHECKPOINT [--out-path DIR] [--inplace]

    Writes <name>_student.pth beside the checkpoint, or in DIR; it loads into the student's own
    configuration, without this package.
    """
    parser = command_parser(inspect.getdoc(main))
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a distillation run")
    parser.add_argument("--out-path", type=Path, help="folder to write to; the checkpoint's own by default")
    parser.add_argument("--inplace", action="store_true", help="replace the checkpoint instead")
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    folder = args.out_path or args.checkpoint.parent
    target = args.checkpoint if args.inplace else folder / f"{args.checkpoint.stem}_student.pth"
    checkpoint = Checkpoint.read(args.checkpoint)
    student = checkpoint.converted()
    save_whole(student, target)
    print(f"Wrote {len(student['state_dict'])} of {len(checkpoint.state_dict)} tensors to {target}")


@one_line_errors()
def shrink(argv: Sequence[str] | None = None) -> None:
    """Writes a checkpoint's weights alone, in half precision, to ship a small teacher.

    A tensor with a value beyond half precision's range stays as it is and is named.

    python tools/model_converters/shrink_ckpt.py CHECKPOINT OUT
    """
    parser = command_parser(inspect.getdoc(shrink))
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    shrunk = Checkpoint.read(args.checkpoint).shrunk()
    save_whole(shrunk, args.out)
    kept = [name for name, value in shrunk["state_dict"].items() if is_wide(value)]
    if kept:
        print(f"Not halved, because of values beyond {torch.finfo(torch.half).max:.0f}: {', '.join(kept)}")
    print(f"Wrote {len(shrunk['state_dict'])} tensors, {args.out.stat().st_size / 1e6:.1f} MB, to {args.out}")


@one_line_errors()
def mobilenet(argv: Sequence[str] | None = None) -> None:
    """Renames torchvision's weights of a MobileNetV2 as mmdet or mmsegmentation names them.

    All list the same tensors in the same order. The classifier is left out, and for mmsegmentation, whose backbone ends
    before it, the last convolution.

    python tools/model_converters/mobilenet_from_torchvision.py WEIGHTS OUT [--library mmseg]
    """
    parser = command_parser(inspect.getdoc(mobilenet))
    parser.add_argument("weights", type=Path, help="state dict of torchvision's mobilenet_v2")
    parser.add_argument("out", type=Path)
    parser.add_argument("--library", choices=("mmdet", "mmseg"), default="mmdet", help="whose names; mmdet by default")
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    mobilenets = [import_module(f"{name}.models.backbones").MobileNetV2() for name in ("mmdet", args.library)]
    whole, named = (model.state_dict() for model in mobilenets)
    given = {name: value for name, value in Checkpoint.read(args.weights).state_dict.items() if "features." in name}
    if [value.shape for value in given.values()] != [value.shape for value in whole.values()]:
        raise ValueError(
            f"{args.weights}: got {len(given)} tensors named features.*, expected the {len(whole)} of torchvision's "
            "mobilenet_v2 with their shapes. Give its state dict."
        )
    save_whole({"meta": {}, "state_dict": dict(zip(named, given.values()))}, args.out)
    print(f"Wrote {len(named)} tensors to {args.out}")

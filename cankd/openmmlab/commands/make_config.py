"""Writes the configuration that distils any teacher into any student, of mmdet, mmseg, mmpretrain or one's own.

python tools/make_config.py STUDENT TEACHER [--method cankd] [--source MODULE] [--levels N ...] [--out my_config.py]

STUDENT and TEACHER are names from the zoo (rtmdet-s, rtmdet_tiny_8xb32-300e_coco, or the beginning of one name),
mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py, or configuration files of your own. Both models are built and see one
image, to find which of their maps have equal strides. The configuration inherits the student's own recipe, with its
data, schedule and hooks, and replaces the model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Sequence

from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.pairing import (
    METHODS,
    Pairing,
    Side,
    accuracy_text,
    config_text,
    distiller_config,
    load_side,
    pair_maps,
)
from cankd.openmmlab.zoo import find_config
from cankd.utils.command_line import command_parser, table
from cankd.utils.files import write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("student", help="name or configuration of the student")
    parser.add_argument("teacher", help="name or configuration of the teacher")
    parser.add_argument("--method", choices=[*METHODS], default="cankd", help="default cankd")
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="MODULE",
        help="module whose output is compared, or the student's and the teacher's; default: the neck, or the backbone "
        "if one of the models has no neck",
    )
    parser.add_argument("--levels", nargs="+", type=int, metavar="N", help="indices of the student's maps to compare")
    parser.add_argument("--teacher-ckpt", help="the teacher's weights; default: those that its package publishes")
    parser.add_argument("--out", type=Path, default=Path("my_config.py"), help="file to write; default my_config.py")
    args = parser.parse_args(argv)
    if args.source and len(args.source) > 2:
        parser.error(f"--source: got {len(args.source)} modules, expected one, or the student's and the teacher's")
    return args


def checkpoint_of(teacher: Side, given: str | None) -> str:
    """Returns the teacher's checkpoint."""
    found = given or (teacher.entry.checkpoint if teacher.entry else None)
    if not found:
        raise ValueError(
            f"{teacher.config}: no package publishes a checkpoint of this teacher. Give one with --teacher-ckpt FILE."
        )
    return found


def print_models(student: Side, teacher: Side) -> None:
    rows = [
        [
            role,
            side.config,
            accuracy_text(side.entry),
            f"{side.parameters / 1e6:.1f}",
            f"{side.multiply_adds / 1e9:.2f}",
        ]
        for role, side in (("student", student), ("teacher", teacher))
    ]
    height, width = student.image
    print(table(["", "configuration", "accuracy", "M parameters", f"G multiply-adds, {height} x {width}"], rows))


def print_pairs(pairing: Pairing, method: str) -> None:
    rows = []
    for one, other in pairing.pairs:
        connector = "-" if one.channels == other.channels else f"1x1, {one.channels} to {other.channels}"
        stride = f"{one.stride}" if one.stride == other.stride else f"{one.stride} to {other.stride}"
        places = [
            source if found.index is None else f"{source}[{found.index}]"
            for source, found in zip((pairing.student_source, pairing.teacher_source), (one, other))
        ]
        positions = f"{one.height} x {one.width}"
        if (one.height, one.width) != (other.height, other.width):
            positions += f" to {other.height} x {other.width}"
        rows.append([*places, stride, str(one.channels), str(other.channels), connector, positions])
    header = ["student", "teacher", "stride", "student's channels", "teacher's", "connector", "positions"]
    print(table(header, rows))


def print_next(student: Side, out: Path) -> None:
    """Prints the commands that train the distillation and cut the student out."""
    schedule = student.cfg.get("train_cfg") or {}
    last = f"epoch_{schedule['max_epochs']}" if "max_epochs" in schedule else f"iter_{schedule.get('max_iters')}"
    as_command = sys.argv[0].startswith("cankd ")
    train = "cankd train" if as_command else "python tools/train.py"
    convert = "cankd convert" if as_command else "python tools/model_converters/convert_kd_ckpt_to_student.py"
    print(f"\nWrote {out}. Next:\n  {train} {out}\n  {convert} work_dirs/{out.stem}/{last}.pth")


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    configs = [find_config(name) for name in (args.student, args.teacher)]
    student, teacher = map(load_side, configs)
    teacher_ckpt = checkpoint_of(teacher, args.teacher_ckpt)
    pairing = pair_maps(student, teacher, args.method, args.source, args.levels)
    distiller = distiller_config(args.method, pairing, student.classes)
    write_text(args.out, config_text(student, teacher, teacher_ckpt, args.method, distiller, args.out))
    print_models(student, teacher)
    print()
    print_pairs(pairing, args.method)
    print_next(student, args.out)

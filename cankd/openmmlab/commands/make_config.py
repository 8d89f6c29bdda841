"""Writes the configuration that distils any teacher into any student, of mmdet, mmseg, mmpretrain or one's own.

python tools/make_config.py STUDENT TEACHER [--method cankd] [--source MODULE] [--levels N ...] [--out my_config.py]
python tools/make_config.py STUDENT [TEACHER] --data my_data.py [--out my_config.py]
python tools/make_config.py STUDENT [TEACHER] --data-root DIR --classes cat,dog [--out my_config.py]

STUDENT and TEACHER are names from the zoo (rtmdet-s, rtmdet_tiny_8xb32-300e_coco, or the beginning of one name),
mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py, or configuration files of your own. Both models are built and see one
image, to find which of their maps have equal strides. The configuration inherits the student's own recipe, with its
data, schedule and hooks, and replaces the model.

--data names a file that describes data of your own, which replace the recipe's: docs/your_data.md. With --data-root
they are found in COCO's layout (annotations/instances_train.json and instances_val.json, train/, val/) or as
images/train, images/val, masks/train and masks/val. Without a teacher the configuration trains the student alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Sequence

from cankd.openmmlab.algorithms.crosskd import check_heads
from cankd.openmmlab.checkpoint_files import local_file
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.configs import dataset_meta, read_config
from cankd.openmmlab.loading import has_classes
from cankd.openmmlab.own_data import GivenData, OwnData, check_own_data, data_in
from cankd.openmmlab.own_recipe import learns_masks
from cankd.openmmlab.pairing import (
    METHODS,
    Pairing,
    Side,
    accuracy_text,
    config_text,
    crosskd_config,
    distiller_config,
    load_side,
    loss_costs,
    pair_maps,
    training_text,
)
from cankd.openmmlab.zoo import find_config, zoo_model
from cankd.utils.command_line import command_parser, figure, table
from cankd.utils.files import write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("student", help="name or configuration of the student")
    parser.add_argument("teacher", nargs="?", help="name or configuration of the teacher; may be left out with --data")
    parser.add_argument("--method", choices=[*METHODS], default="cankd", help="default cankd")
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="MODULE",
        help="module whose output is compared, or the student's and the teacher's; default: the neck, or the backbone "
        "if one of the models has no neck, or the last part of a backbone that returns no maps",
    )
    parser.add_argument("--levels", nargs="+", type=int, metavar="N", help="indices of the student's maps to compare")
    parser.add_argument("--teacher-ckpt", help="the teacher's weights; default: those that its package publishes")
    parser.add_argument("--data", type=Path, metavar="FILE", help="file that describes data of your own")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder with data of your own")
    parser.add_argument("--classes", metavar="A,B,...", help="names of the classes in --data-root")
    parser.add_argument("--out", type=Path, default=Path("my_config.py"), help="file to write; default my_config.py")
    args = parser.parse_args(argv)
    if args.source and len(args.source) > 2:
        parser.error(f"--source: got {len(args.source)} modules, expected one, or the student's and the teacher's")
    if (args.data_root is None) != (args.classes is None):
        parser.error("--data-root, --classes: got one of them, expected both: --data-root data/mine --classes cat,dog")
    if args.data and args.data_root:
        parser.error("--data, --data-root: got both, expected one of them")
    if args.teacher is None and not (args.data or args.data_root):
        parser.error("got no teacher, expected one; a student alone can be trained on --data or --data-root")
    if args.method == "crosskd" and (args.source or args.levels):
        parser.error("--source, --levels: got them with crosskd, which compares predictions; leave them out")
    return args


def data_of(args: argparse.Namespace, student: str) -> tuple[dict[str, Any], GivenData | None]:
    """Returns the data of one's own that the student is trained on, and those that the command line gives."""
    cfg = read_config(student, expand=False)
    if args.data:
        given = GivenData.read(args.data)
    elif args.data_root:
        given = GivenData(data_in(args.data_root, args.classes.split(",")))
    else:
        return cfg.get("own_data", {}), None
    if "own_data" in cfg:
        raise ValueError(f"--data: got data beside {student}, which has own_data already. Leave the option out.")
    check_own_data(OwnData.of(given.values), learns_masks(cfg))
    return given.values, given


def learned_classes(teacher: str, checkpoint: str, own_data: dict[str, Any]) -> bool:
    """Returns whether a teacher tells the classes of one's own data apart; its checkpoint may be trained later."""
    classes = list(OwnData.of(own_data).classes)
    if local_file(checkpoint).is_file():
        return has_classes(read_config(teacher, {"own_data": own_data}), checkpoint, classes)
    known = list(dataset_meta(read_config(teacher)).get("classes", [])) == classes
    if not known and "://" not in checkpoint:
        raise FileNotFoundError(f"--teacher-ckpt: got {checkpoint}, expected an existing file. Check the path.")
    return known


def checkpoint_of(teacher: str, given: str | None) -> str:
    """Returns the teacher's checkpoint."""
    entry = zoo_model(teacher)
    found = given or (entry.checkpoint if entry else None)
    if not found:
        raise ValueError(
            f"{teacher}: no package publishes a checkpoint of this teacher. Give one with --teacher-ckpt FILE."
        )
    return found


def print_models(student: Side, teacher: Side) -> None:
    rows = [
        [
            role,
            side.config,
            accuracy_text(side.entry),
            f"{side.parameters / 1e6:.1f}",
            figure(side.multiply_adds and side.multiply_adds / 1e9, 2),
        ]
        for role, side in (("student", student), ("teacher", teacher))
    ]
    height, width = student.image
    print(table(["", "configuration", "accuracy", "M parameters", f"G multiply-adds, {height} x {width}"], rows))


def print_pairs(pairing: Pairing, costs: Sequence[int | None]) -> None:
    rows = []
    for (one, other), cost in zip(pairing.pairs, costs):
        connectors = [f"{side}'s tokens" for side, found in (("student", one), ("teacher", other)) if found.tokens]
        if one.channels != other.channels:
            connectors.append(f"1x1, {one.channels} to {other.channels}")
        stride = f"{one.stride}" if one.stride == other.stride else f"{one.stride} to {other.stride}"
        places = [
            source if found.index is None else f"{source}[{found.index}]"
            for source, found in zip((pairing.student_source, pairing.teacher_source), (one, other))
        ]
        positions = f"{one.height} x {one.width}"
        if (one.height, one.width) != (other.height, other.width):
            positions += f" to {other.height} x {other.width}"
        channels = [str(found.channels) for found in (one, other)]
        connector = "; ".join(connectors) or "-"
        rows.append([*places, stride, *channels, connector, positions, figure(cost and cost / 1e9, 3)])
    header = ["student", "teacher", "stride", "student's channels", "teacher's", "connector", "positions"]
    print(table([*header, "G of the loss"], rows))


def print_heads(student: Side, teacher: Side) -> None:
    adapter, start = check_heads(student.model, teacher.model)
    head: Any = student.model.bbox_head
    strides = ", ".join(str(stride[0]) for stride in head.prior_generator.strides)
    losses = ", ".join(f"{name} {weight:g}" for name, weight in adapter.weights.items())
    row = [type(head).__name__, f"{start} of {head.stacked_convs}", str(head.num_classes), strides, losses]
    print(table(["head", "student's convolutions", "classes", "strides", "weights of the losses"], [row]))


def print_next(student: Side, out: Path, is_distillation: bool = True) -> None:
    """Prints the commands that train, and that cut the student out of a distillation."""
    schedule = student.cfg.get("train_cfg") or {}
    last = f"epoch_{schedule['max_epochs']}" if "max_epochs" in schedule else f"iter_{schedule.get('max_iters')}"
    as_command = sys.argv[0].startswith("cankd ")
    train = "cankd train" if as_command else "python tools/train.py"
    convert = "cankd convert" if as_command else "python tools/model_converters/convert_kd_ckpt_to_student.py"
    if is_distillation:
        print()
    print(f"Wrote {out}. Next:\n  {train} {out}")
    if is_distillation:
        print(f"  {convert} work_dirs/{out.stem}/{last}.pth")


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    student_config = find_config(args.student)
    own_data, given = data_of(args, student_config)
    student = load_side(student_config, given.values if given else None)
    if given and args.teacher is None:
        write_text(args.out, training_text(student, given, args.out))
        print_next(student, args.out, is_distillation=False)
        return
    teacher_config = find_config(args.teacher)
    teacher_ckpt = checkpoint_of(teacher_config, args.teacher_ckpt)
    is_learned = bool(own_data) and learned_classes(teacher_config, teacher_ckpt, own_data)
    if own_data and not is_learned:
        if args.method == "crosskd":
            raise ValueError(
                f"--method: got crosskd, which needs the classes of the data in the teacher's head; {teacher_ckpt} has "
                "others. Train the teacher on the data first, or choose another method."
            )
        print(f"{teacher_ckpt} has other classes than the data: only the teacher's backbone and neck are used.\n")
    lays_over = is_learned and "own_data" not in read_config(teacher_config, expand=False)
    teacher = load_side(teacher_config, own_data if lays_over else None)
    if args.method == "crosskd":
        pairing, distiller = None, crosskd_config(student, teacher)
    else:
        pairing = pair_maps(student, teacher, args.method, args.source, args.levels)
        distiller = distiller_config(args.method, pairing, student.classes)
    teacher_classes = len(own_data["classes"]) if lays_over else None
    text = config_text(student, teacher, teacher_ckpt, args.method, distiller, args.out, given, teacher_classes)
    write_text(args.out, text)
    print_models(student, teacher)
    print()
    if pairing:
        print_pairs(pairing, loss_costs(distiller, student, teacher, pairing))
    else:
        print_heads(student, teacher)
    if "://" not in teacher_ckpt and not local_file(teacher_ckpt).is_file():
        print(f"\n{teacher_ckpt}, the teacher's weights, is not there yet.")
    print_next(student, args.out)

"""Lists published models that can teach a student, the most accurate first.

python tools/find_teacher.py STUDENT [--task TASK] [--dataset NAME] [--max-params M] [--limit N]

STUDENT is a name from the zoo (rtmdet-t, the beginning of one name), mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py, or a
configuration file of your own. Listed are models of the same package that are more accurate on the same data set, have
a checkpoint and return maps that tools/make_config.py can pair with the student's.
"""

from __future__ import annotations

import argparse
import itertools
import math
from typing import Sequence

from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.configs import repo_of
from cankd.openmmlab.pairing import load_side
from cankd.openmmlab.teachers import find_teachers
from cankd.openmmlab.zoo import ZooModel, find_config
from cankd.utils.command_line import at_least, command_parser, table

# Task -> its metric, and the data set that is compared on for a student without a published accuracy.
TASKS = {
    "detection": ("box AP", "COCO"),
    "instance-segmentation": ("mask AP", "COCO"),
    "panoptic-segmentation": ("PQ", "COCO"),
    "segmentation": ("mIoU", "Cityscapes"),
    "classification": ("top-1", "ImageNet-1k"),
}
OF_PACKAGE = {"mmdet": "detection", "mmseg": "segmentation"}
HEADER = ["teacher", "", "ahead by", "M parameters", "common strides", "preprocessor", "checkpoint"]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("student", help="name or configuration of the student")
    parser.add_argument("--task", choices=[*TASKS], help="what accuracy is compared; default: the student's first")
    parser.add_argument("--dataset", help="data set of the accuracy, such as ADE20K; default: the student's")
    parser.add_argument("--max-params", type=float, metavar="M", help="millions of parameters of the largest teacher")
    parser.add_argument("--limit", type=at_least(1), default=10, help="number of teachers; default 10")
    return parser.parse_args(argv)


def benchmark_of(student: ZooModel, task: str | None, dataset: str | None) -> tuple[str, str]:
    """Returns data set and metric that a student and its teachers are compared by."""
    package = student.config.split("::")[0]
    metric, default = TASKS[task or OF_PACKAGE.get(package, "classification")]
    known = [found for found in student.accuracies if not task or found[1] == metric]
    if dataset is None and known:
        return known[0]
    return dataset or default, metric


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    config = find_config(args.student)
    own = load_side(config, outline=True)
    student = own.entry or ZooModel(config, f"{repo_of(own.cfg)}::", (), None, {}, None, None)
    benchmark = benchmark_of(student, args.task, args.dataset)
    accuracy = student.accuracies.get(benchmark)
    rows = []
    most = args.max_params * 1e6 if args.max_params else math.inf
    for teacher in itertools.islice(find_teachers(own, student, benchmark, most), args.limit):
        value = teacher.model.accuracies[benchmark]
        ahead = "?" if accuracy is None else f"{value - accuracy:+.1f}"
        strides = ", ".join(map(str, teacher.strides)) or "none"
        preprocessor = "same" if teacher.same_preprocessor else "other"
        cells = [f"{value:g}", ahead, f"{teacher.parameters / 1e6:.1f}", strides, preprocessor]
        rows.append([teacher.model.config, *cells, str(teacher.model.checkpoint)])
    if not rows:
        raise ValueError(
            f"got {args.student}, which no published model beats in {benchmark[1]} on {benchmark[0]} within "
            "the limits. Choose another --dataset, --task or --max-params."
        )
    published = "unknown" if accuracy is None else f"{accuracy:g}"
    print(f"{config}: {benchmark[1]} on {benchmark[0]} {published}, {own.parameters / 1e6:.1f} M parameters\n")
    print(table([HEADER[0], benchmark[1], *HEADER[2:]], rows))

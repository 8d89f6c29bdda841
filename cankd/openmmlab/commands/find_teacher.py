"""Lists published models that can teach a student, the most accurate first.

python tools/find_teacher.py STUDENT [--task TASK] [--dataset NAME] [--max-params M] [--limit N]

STUDENT is a name from the zoo (rtmdet-t, the beginning of one name), mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py, or a
configuration file of your own. Listed are models of the same package that are more accurate on the same data set and
have a checkpoint. Whether their maps can be paired with the student's, tools/make_config.py finds out.
"""

from __future__ import annotations

import argparse
from typing import Any, Sequence

import torch
from mmengine.config import Config

from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.configs import read_config, repo_of
from cankd.openmmlab.loading import build_model
from cankd.openmmlab.zoo import ZooModel, find_config, rivals, zoo_model
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
HEADER = ["teacher", "", "ahead by", "M parameters", "preprocessor", "checkpoint"]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("student", help="name or configuration of the student")
    parser.add_argument("--task", choices=[*TASKS], help="what accuracy is compared; default: the student's first")
    parser.add_argument("--dataset", help="data set of the accuracy, such as ADE20K; default: the student's")
    parser.add_argument("--max-params", type=float, metavar="M", help="millions of parameters of the largest teacher")
    parser.add_argument("--limit", type=at_least(1), default=10, help="number of teachers; default 10")
    return parser.parse_args(argv)


def preprocessing(cfg: Config) -> tuple[Any, ...]:
    """Returns how a configuration's images are normalised: mean, standard deviation and order of the colours."""
    found = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    values = (list(map(float, found.get(key) or [])) for key in ("mean", "std"))
    return (*values, bool(found.get("bgr_to_rgb") or found.get("to_rgb")))


def parameters_of(cfg: Config) -> float:
    """Returns the number of a model's parameters in millions, without the memory for them where possible."""
    try:
        with torch.device("meta"):
            model = build_model(cfg)
    except Exception:  # some constructors compute with values
        model = build_model(cfg)
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


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
    own = read_config(config)
    student = zoo_model(config) or ZooModel(config, f"{repo_of(own)}::", (), None, {}, None, None)
    benchmark = benchmark_of(student, args.task, args.dataset)
    accuracy = student.accuracies.get(benchmark)
    rows: list[list[str]] = []
    for teacher in rivals(student, benchmark):
        if len(rows) == args.limit:
            break
        parameters = (teacher.parameters or 0) / 1e6
        if args.max_params and parameters > args.max_params:
            continue
        cfg = read_config(teacher.config)
        if "language_model" in cfg.model:
            continue
        parameters = parameters or parameters_of(cfg)
        if args.max_params and parameters > args.max_params:
            continue
        value = teacher.accuracies[benchmark]
        ahead = "?" if accuracy is None else f"{value - accuracy:+.1f}"
        same = "same" if preprocessing(cfg) == preprocessing(own) else "other"
        rows.append([teacher.config, f"{value:g}", ahead, f"{parameters:.1f}", same, str(teacher.checkpoint)])
    if not rows:
        raise ValueError(
            f"got {args.student}, which no published model beats in {benchmark[1]} on {benchmark[0]} within "
            "the limits. Choose another --dataset, --task or --max-params."
        )
    published = "unknown" if accuracy is None else f"{accuracy:g}"
    print(f"{config}: {benchmark[1]} on {benchmark[0]} {published}, {parameters_of(own):.1f} M parameters\n")
    print(table([HEADER[0], benchmark[1], *HEADER[2:]], rows))

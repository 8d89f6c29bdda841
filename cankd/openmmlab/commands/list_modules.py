"""Lists the modules that a recorder can name, with the shape of what each puts out.

python tools/list_modules.py CONFIG [--input-shape H W] [--depth N] [--cfg-options KEY=VALUE ...]

Of a distillation's configuration student and teacher stand side by side, with whether a loss can compare
their maps. A module that runs several times has a line for each record_idx, one that puts out several maps
for each data_idx; a backbone that returns further maps in training (PIDNet, DDRNet) is listed with them. `-`
stands for a module that does not run when the model predicts, such as a loss, or a head that only training uses.
"""

from __future__ import annotations

import argparse
from typing import Any, Sequence

from mmengine.model import BaseModel

from cankd.openmmlab.analysis.module_outputs import SAME_SIZE, Outputs, Shape, label, match, outputs_of
from cankd.openmmlab.commands.arguments import add_cfg_options
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.configs import is_distillation_config, read_config, repo_of
from cankd.openmmlab.inference import noise_batch
from cankd.openmmlab.loading import ROLES, build_model
from cankd.openmmlab.recording import OutputIndex, module_shapes, shapes_in_training
from cankd.utils.command_line import at_least, command_parser, table


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="configuration of a distillation or of one model")
    parser.add_argument(
        "--input-shape",
        nargs=2,
        type=at_least(1),
        metavar=("H", "W"),
        help="size of the image; 512 512 by default, 224 224 for classifiers",
    )
    parser.add_argument("--depth", type=at_least(1), help="how deep names go: 2 for backbone.layer1; default all")
    add_cfg_options(parser)
    return parser.parse_args(argv)


def text(shape: Shape | None) -> str:
    return "" if shape is None else " x ".join(map(str, shape)) or "-"


def recordable_shapes(model: BaseModel, data: dict[str, Any]) -> dict[str, dict[OutputIndex, Shape]]:
    """Returns the shapes of what each module returns when the model predicts, and of a backbone's maps in training."""
    shapes = module_shapes(model, data)
    if (0,) in shapes.get("backbone", {}):  # one map, beside which some return others
        shapes["backbone"] = shapes_in_training(model, data)
    return shapes


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = read_config(args.config, args.cfg_options)
    side = 512 if repo_of(cfg) in ("mmdet", "mmseg") else 224
    batch = noise_batch(cfg, args.input_shape or (side, side))
    roles = ROLES if is_distillation_config(cfg) else ROLES[:1]
    models = {role: build_model(cfg, role) for role in roles}
    # A distillation gives the student's normalised images to both.
    data = models["student"].data_preprocessor(batch, False)
    found = {role: outputs_of(recordable_shapes(model, data), args.depth) for role, model in models.items()}
    print(f"Network input: {text(tuple(data['inputs'].shape))}")
    if len(roles) == 1:
        outputs = found["student"]
        print(table(["module", "output"], [[label(*key, outputs), text(shape)] for key, shape in outputs.items()]))
        return
    everything = {**found["student"], **found["teacher"]}
    rows = []
    for key in everything:
        shapes = [found[role].get(key) for role in ROLES]
        rows.append([label(*key, everything), *map(text, shapes), match(*shapes)])
    print(table(["module", "student", "teacher", "match"], rows))
    print(
        "\nfits: equal shapes. connector: other channels, add one to the student's side. align: another height and "
        "width, set align=True in the loss."
    )
    print_partners(found["student"], found["teacher"])


def print_partners(student: Outputs, teacher: Outputs) -> None:
    """Prints where the student's stages find their height and width if the module of their own name differs."""
    rows = []
    for (name, index), shape in student.items():
        if name.count(".") > 1 or len(shape) != 4 or match(shape, teacher.get((name, index))) in SAME_SIZE:
            continue
        partners = [
            f"{label(other, place, teacher)} ({how})"
            for (other, place), theirs in teacher.items()
            for how in [match(shape, theirs)]
            if other.split(".")[0] == name.split(".")[0] and other.count(".") <= 1 and how in SAME_SIZE
        ]
        if partners:
            rows.append([label(name, index, student), text(shape), ", ".join(partners)])
    if rows:
        print("\nOther modules of the teacher with equal height and width:")
        print(table(["student", "output", "teacher"], rows))

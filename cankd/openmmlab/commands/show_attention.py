"""Draws which teacher positions chosen student positions attend to in a CanKD distillation.

python tools/visualizations/attention.py IMG [IMG ...] CONFIG CKPT [--points X,Y ...] [--losses NAME ...]

CONFIG and CKPT are a distillation's, since the attention is part of its losses. Points are in pixels of
the image file. One picture for each image: positions as rows, losses as columns, and below them the share
of the enhanced student's map that the block contributes (0 at the start of every training). The weights
are computed one row at a time, so the finest levels cost no more memory than their maps.
"""

from __future__ import annotations

import argparse
from typing import Sequence

from cankd.openmmlab.commands import picture_arguments as arguments
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.configs import read_config, test_dataset
from cankd.openmmlab.inference import prepare
from cankd.openmmlab.loading import load_distillation
from cankd.openmmlab.preprocessing import TeacherImages
from cankd.openmmlab.recording import nearest_names
from cankd.openmmlab.visualization.attention import attend, draw_attention, fractions
from cankd.openmmlab.visualization.features import image_names, list_images, network_view


def point(text: str) -> tuple[float, float]:
    """Returns (x, y) of an argument X,Y."""
    x, y = (float(part) for part in text.split(","))
    return x, y


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.image_parser(__doc__)
    parser.add_argument("config", help="configuration of the distillation")
    parser.add_argument("checkpoint", help="checkpoint of the distillation's run")
    parser.add_argument(
        "--points", nargs="+", type=point, metavar="X,Y", help="student positions, in pixels of the file; the centre"
    )
    parser.add_argument("--losses", nargs="+", help="names in distill_losses; default all CanKD losses")
    parser.add_argument("--alpha", type=float, default=0.6, help="opacity over the image; default 0.6")
    arguments.add_common_arguments(parser)
    return parser.parse_args(argv)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    images = list_images(args.img)
    cfg = read_config(args.config, args.cfg_options)
    arguments.check_repo(args.repo, cfg)
    if "EfficientNetCenterCrop" in str(test_dataset(cfg).get("pipeline")):
        raise ValueError(
            "the test pipeline's EfficientNetCenterCrop does not say where a point of the file goes. Replace it with "
            "ResizeEdge and CenterCrop."
        )
    student, teacher, distiller, cfg = load_distillation(cfg, args.checkpoint, args.device)
    teacher_images = None
    if cfg.model.get("teacher_preprocess"):
        teacher_images = TeacherImages(student.data_preprocessor, teacher.data_preprocessor).to(args.device)
    for number, (image, name) in enumerate(zip(images, image_names(images)), start=1):
        batch = prepare(cfg, image)
        data = student.data_preprocessor(batch, False)
        view = network_view(batch, data["inputs"].shape[-2:])
        points = fractions(args.points, data["data_samples"][0], view)
        found = attend(student, teacher, distiller, data, points, teacher_images)
        for loss in args.losses or []:
            if loss not in found:
                raise ValueError(f"--losses: got {loss}, expected names like {nearest_names(loss, list(found))}.")
        found = {loss: attention for loss, attention in found.items() if loss in (args.losses or found)}
        path = arguments.picture_path(args.out_file, len(images), name, "attention")
        draw_attention(view, found, path, args.alpha)
        shares = ", ".join(f"{loss} {100 * attention.share:.1f} %" for loss, attention in found.items())
        print(f"[{number}/{len(images)}] {image} -> {path}; share of the block: {shares}", flush=True)

"""Draws the Grad-CAM of several classifiers' backbone stages, one picture for each image.

python tools/visualizations/grad_cam.py IMG [IMG ...] --model TITLE CONFIG CKPT [--model ...]
    [--teacher TITLE CONFIG CKPT] [--category N] [--target-layers NAME ...] [--out-file F]

Models are rows, stages columns. Each map is scaled to 0 to 1. Shown is the class that each model predicts,
or --category for all of them.
"""

from __future__ import annotations

import argparse
from typing import Sequence

from cankd.openmmlab.commands import picture_arguments as arguments
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.inference import prepare
from cankd.openmmlab.visualization import draw_heatmap_panel
from cankd.openmmlab.visualization.cam import backbone_stages, class_scores, grad_cam
from cankd.openmmlab.visualization.features import image_names, list_images, network_view
from cankd.utils.command_line import at_least


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.image_parser(__doc__)
    arguments.add_model_arguments(parser)
    parser.add_argument("--category", type=at_least(0), help="number of the class; each model's prediction by default")
    parser.add_argument(
        "--target-layers", nargs="+", help="names of modules, of every model; the last four stages by default"
    )
    parser.add_argument("--alpha", type=float, default=0.5, help="opacity over the image; default 0.5")
    arguments.add_common_arguments(parser)
    args = parser.parse_args(argv)
    return args


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    images = list_images(args.img)
    models = arguments.load_models(args.models, args.device, args.repo, args.cfg_options)
    for number, (image, name) in enumerate(zip(images, image_names(images)), start=1):
        rows, views = {}, {}
        stages: list[str] = []
        for title, model, cfg, _ in models:
            batch = prepare(cfg, image)
            data = model.data_preprocessor(batch, False)
            scores = class_scores(model, data)
            category = int(scores.argmax()) if args.category is None else args.category
            if not 0 <= category < len(scores):
                raise ValueError(f"--category: got {category}, expected 0 to {len(scores) - 1}.")
            layers = args.target_layers or backbone_stages(model, data)
            stages = stages or layers
            if len(layers) != len(stages):
                raise ValueError(f"got the stages {', '.join(stages)} and {', '.join(layers)}. Give --target-layers.")
            classes = model.dataset_meta.get("classes") or range(len(scores))
            row = f"{title}\n{classes[category]} {scores[category]:.2f}"
            rows[row] = grad_cam(model, data, layers, category)
            views[row] = network_view(batch, data["inputs"].shape[-2:])
        path = arguments.picture_path(args.out_file, len(images), name, "grad_cam")
        titles = [stage.replace("backbone.", "") for stage in stages]
        draw_heatmap_panel(next(iter(views.values())).image, rows, titles, path, views, args.alpha, "Grad-CAM")
        print(f"[{number}/{len(images)}] {image} -> {path}", flush=True)

"""Draws the maps that a model's modules put out for images.

python tools/visualizations/feature_visualization.py IMG [IMG ...] CONFIG VIS_CONFIG CKPT [--overlaid]
    [--channel-reduction squeeze_mean|select_max|pixel_wise_max] [--out-file F] ...
    [--panel --title student --model distilled CONFIG CKPT --teacher teacher CONFIG CKPT]

One picture for each image and map. With --panel one for each image: models as rows, maps as columns,
each column on one colour scale. VIS_CONFIG holds `recorders` and `mappings`.
"""

from __future__ import annotations

import argparse

import numpy as np

import cankd.openmmlab  # noqa: F401  (registers everything before a configuration is read)
from cankd.openmmlab.commands import arguments
from cankd.openmmlab.inference import ROLES
from cankd.openmmlab.visualization import Boxes, draw_heatmap_panel, draw_map_grid
from cankd.openmmlab.visualization.features import (
    ENERGY_LABEL,
    Recorded,
    image_names,
    list_images,
    panel_row,
    predicted_boxes,
    read_vis_config,
    reduce_channels,
)


def parse_args() -> argparse.Namespace:
    parser = arguments.image_parser(__doc__)
    parser.add_argument("config", help="configuration of a distillation or of the model alone")
    parser.add_argument("vis_config", help="recorders and mappings")
    parser.add_argument("checkpoint", help="of a distillation run or of the model alone")
    parser.add_argument("--role", choices=ROLES, default="student", help="which model of a distillation; the student")
    parser.add_argument("--draw-bbox", action="store_true", help="draw a detector's boxes, too")
    parser.add_argument("--score-thr", type=float, default=0.3, help="least score of a box; default 0.3")
    parser.add_argument("--panel", action="store_true", help="several models in one picture")
    parser.add_argument("--title", help="of the model in the panel; its role by default")
    arguments.add_model_arguments(parser)
    arguments.add_map_arguments(parser)
    arguments.add_common_arguments(parser)
    args = parser.parse_args()
    if args.models and not args.panel:
        parser.error("--model and --teacher need --panel")
    if args.draw_bbox and args.panel:
        parser.error("--draw-bbox and --panel exclude each other")
    return args


def boxes_in_view(recorded: Recorded, model: arguments.LoadedModel, score_thr: float) -> Boxes:
    """The predicted boxes in the pixels of the image as the network saw it."""
    boxes = predicted_boxes(recorded.sample, model.model.dataset_meta["classes"], score_thr)
    return boxes._replace(corners=boxes.corners * np.tile(recorded.sample.get("scale_factor", (1.0, 1.0)), 2))


def main() -> None:
    args = parse_args()
    images = list_images(args.img)
    vis = read_vis_config(args.vis_config, ("recorders", "mappings"))
    first = (args.title or args.role, args.config, args.checkpoint, args.role)
    models = arguments.load_models([first, *args.models], args.device, args.repo, args.cfg_options)
    recorders = [arguments.feature_recorder(model, vis.recorders, vis.mappings) for model in models]
    alpha = args.alpha if args.overlaid else None
    for number, (image, name) in enumerate(zip(images, image_names(images)), start=1):
        recorded = [recorder(image) for recorder in recorders]
        progress = f"[{number}/{len(images)}] {image} ->"
        if args.panel:
            path = arguments.picture_path(args.out_file, len(images), name)
            rows = {
                model.title: panel_row(record.maps, args.channel_reduction, args.use_norm, args.resize_shape)
                for model, record in zip(models, recorded)
            }
            views = {model.title: record.view for model, record in zip(models, recorded)}
            label = args.channel_reduction or ENERGY_LABEL
            draw_heatmap_panel(recorded[0].view.image, rows, list(recorded[0].maps), path, views, alpha, label)
            print(progress, path, flush=True)
            continue
        maps = recorded[0].maps
        boxes = boxes_in_view(recorded[0], models[0], args.score_thr) if args.draw_bbox else None
        for key, feature in maps.items():
            path = arguments.picture_path(args.out_file, len(images) * len(maps), name, key)
            shown = reduce_channels(feature, args.channel_reduction, args.topk, args.use_norm, args.resize_shape)
            title = f"{name}, {key}: {len(feature)} channels of {feature.shape[1]} x {feature.shape[2]}"
            draw_map_grid(shown, recorded[0].view, title, path, tuple(args.arrangement), alpha, boxes)
            print(progress, path, flush=True)


if __name__ == "__main__":
    with arguments.tool_errors():
        main()

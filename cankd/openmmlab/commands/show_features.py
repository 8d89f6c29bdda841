"""Draws the feature maps of models, or the difference between the maps of two models."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
from torch import Tensor

from cankd.openmmlab.commands import picture_arguments as arguments
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.loading import ROLES
from cankd.openmmlab.visualization import Boxes, View, draw_heatmap_panel, draw_map_grid
from cankd.openmmlab.visualization.features import (
    ENERGY_LABEL,
    Recorded,
    image_names,
    list_images,
    map_differences,
    panel_row,
    predicted_boxes,
    read_vis_config,
    reduce_channels,
    standardise,
)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Draws the maps that a model's modules put out for images.

    python tools/visualizations/feature_visualization.py IMG [IMG ...] CONFIG VIS_CONFIG CKPT [--overlaid]
        [--channel-reduction squeeze_mean|select_max|pixel_wise_max] [--out-file F] ...
        [--panel --title student --model distilled CONFIG CKPT --teacher teacher CONFIG CKPT]

    One picture for each image and map. With --panel one for each image: models as rows, maps as columns,
    each column on one colour scale. VIS_CONFIG holds `recorders` and `mappings`;
    cankd::vis/fpn_feature_visualization.py and its neighbours are shipped.
    """
    args = parse_features(argv)
    images = list_images(args.img)
    vis = read_vis_config(args.vis_config, ("recorders", "mappings"))
    first = (args.title or args.role, args.config, args.checkpoint, args.role)
    models = arguments.load_models([first, *args.models], args.device, args.repo, args.cfg_options)
    recorders = [arguments.feature_recorder(model, vis.recorders, vis.mappings) for model in models]
    for number, (image, name) in enumerate(zip(images, image_names(images)), start=1):
        recorded = [recorder(image) for recorder in recorders]
        progress = f"[{number}/{len(images)}] {image} ->"
        maps = [shown_maps(record, args) for record in recorded]
        titles = [model.title for model in models]
        if args.panel:
            path = arguments.picture_path(args.out_file, len(images), name)
            views = {title: record.view for title, record in zip(titles, recorded)}
            draw_panel(dict(zip(titles, maps)), views, list(maps[0]), path, args)
            print(progress, path, flush=True)
            continue
        boxes = boxes_in_view(recorded[0], models[0], args.score_thr) if args.draw_bbox else None
        for key, feature in maps[0].items():
            path = arguments.picture_path(args.out_file, len(images) * len(maps[0]), name, key)
            title = f"{name}, {key}: {len(feature)} channels of {feature.shape[1]} x {feature.shape[2]}"
            draw_grid(feature, recorded[0].view, title, path, args, boxes)
            print(progress, path, flush=True)


@tool_errors()
def difference(argv: Sequence[str] | None = None) -> None:
    """Draws where the maps of two models differ for images.

    python tools/visualizations/feature_diff_visualization.py IMG [IMG ...] CONFIG1 CONFIG2 VIS_CONFIG CKPT1 CKPT2
        [--overlaid] [--channel-reduction squeeze_mean|select_max|pixel_wise_max] [--panel] [--out-file F] ...

    Shown is |map 1 - map 2|, channel by channel before any reduction: one picture for each image and pair of
    maps; with --panel one for each image, both models above the difference on one colour scale. VIS_CONFIG
    holds `recorders1`, `mappings1`, `recorders2` and `mappings2`; the mappings are paired in their order. A
    mapping with `connector` shows its map behind that connector of the distillation, as the loss compares it.
    """
    args = parse_difference(argv)
    images = list_images(args.img)
    vis = read_vis_config(args.vis_config, ("recorders1", "mappings1", "recorders2", "mappings2"))
    files = zip(args.titles, (args.config1, args.config2), (args.checkpoint1, args.checkpoint2), args.roles)
    models = arguments.load_models(list(files), args.device, args.repo, args.cfg_options)
    sources = ((vis.recorders1, vis.mappings1), (vis.recorders2, vis.mappings2))
    recorders = [arguments.feature_recorder(model, *source) for model, source in zip(models, sources)]
    for number, (image, name) in enumerate(zip(images, image_names(images)), start=1):
        recorded = [recorder(image) for recorder in recorders]
        progress = f"[{number}/{len(images)}] {image} ->"
        maps = [shown_maps(record, args) for record in recorded]
        differences = map_differences(*maps)
        if args.panel:
            path = arguments.picture_path(args.out_file, len(images), name)
            titles = [*args.titles, "|difference|"]
            views = dict(zip(titles, (recorded[0].view, recorded[1].view, recorded[0].view)))
            draw_panel(dict(zip(titles, [*maps, differences])), views, list(differences), path, args)
            print(progress, path, flush=True)
            continue
        for key, feature in differences.items():
            path = arguments.picture_path(args.out_file, len(images) * len(differences), name, key)
            title = f"{name}, {key}: |{args.titles[0]} - {args.titles[1]}|"
            draw_grid(feature, recorded[0].view, title, path, args)
            print(progress, path, flush=True)


def parse_features(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.image_parser(inspect.getdoc(main))
    parser.add_argument("config", help="configuration of a distillation or of the model alone")
    parser.add_argument("vis_config", help="file with recorders and mappings")
    parser.add_argument("checkpoint", help="checkpoint of a distillation run or of the model alone")
    parser.add_argument("--role", choices=ROLES, default="student", help="model of a distillation; default student")
    parser.add_argument("--draw-bbox", action="store_true", help="draw a detector's boxes, too")
    parser.add_argument("--score-thr", type=float, default=0.3, help="least score of a box; default 0.3")
    parser.add_argument("--panel", action="store_true", help="several models in one picture")
    parser.add_argument("--title", help="title of the model in the panel; its role by default")
    arguments.add_model_arguments(parser)
    arguments.add_map_arguments(parser)
    arguments.add_common_arguments(parser)
    args = parser.parse_args(argv)
    if args.models and not args.panel:
        parser.error("--model and --teacher need --panel")
    if args.draw_bbox and args.panel:
        parser.error("--draw-bbox and --panel exclude each other")
    return args


def parse_difference(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.image_parser(inspect.getdoc(difference))
    for number in ("1", "2"):
        parser.add_argument(f"config{number}", help=f"configuration of model {number}, or of its distillation")
    parser.add_argument("vis_config", help="file with recorders and mappings of both models")
    for number in ("1", "2"):
        parser.add_argument(f"checkpoint{number}", help=f"checkpoint of model {number}, or of its distillation run")
    roles = ("student", "student")
    parser.add_argument("--roles", nargs=2, choices=ROLES, default=roles, help="models of the distillations")
    parser.add_argument("--titles", nargs=2, default=("model 1", "model 2"), help="titles of the two models")
    parser.add_argument("--panel", action="store_true", help="both models and the difference in one picture")
    arguments.add_map_arguments(parser)
    arguments.add_common_arguments(parser)
    return parser.parse_args(argv)


def shown_maps(recorded: Recorded, args: argparse.Namespace) -> dict[str, Tensor]:
    """Returns the recorded maps (C, H, W) by name, standardised if the command line asks for it."""
    return {key: standardise(feature) if args.use_norm else feature for key, feature in recorded.maps.items()}


def boxes_in_view(recorded: Recorded, model: arguments.LoadedModel, score_thr: float) -> Boxes:
    """Returns the predicted boxes in the pixels of the image as the network saw it."""
    boxes = predicted_boxes(recorded.sample, model.model.dataset_meta["classes"], score_thr)
    return boxes._replace(corners=boxes.corners * np.tile(recorded.sample.get("scale_factor", (1.0, 1.0)), 2))


def draw_panel(
    rows: Mapping[str, Mapping[str, Tensor]],
    views: dict[str, View],
    columns: list[str],
    path: Path,
    args: argparse.Namespace,
) -> None:
    """Draws one picture with a row of maps for each title, each map reduced to one channel."""
    shown = {title: panel_row(maps, args.channel_reduction, False, args.resize_shape) for title, maps in rows.items()}
    image = next(iter(views.values())).image
    label = args.channel_reduction or ENERGY_LABEL
    draw_heatmap_panel(image, shown, columns, path, views, args.alpha if args.overlaid else None, label)


def draw_grid(
    feature: Tensor, view: View, title: str, path: Path, args: argparse.Namespace, boxes: Boxes | None = None
) -> None:
    """Draws one picture with the channels of one map."""
    shown = reduce_channels(feature, args.channel_reduction, args.topk, False, args.resize_shape)
    draw_map_grid(shown, view, title, path, tuple(args.arrangement), args.alpha if args.overlaid else None, boxes)

"""Draws where the maps of two models differ for images.

python tools/visualizations/feature_diff_visualization.py IMG [IMG ...] CONFIG1 CONFIG2 VIS_CONFIG CKPT1 CKPT2
    [--overlaid] [--channel-reduction squeeze_mean|select_max|pixel_wise_max] [--panel] [--out-file F] ...

Shown is |map 1 - map 2|, channel by channel before any reduction: one picture for each image and pair of
maps; with --panel one for each image, both models above the difference on one colour scale. VIS_CONFIG
holds `recorders1`, `mappings1`, `recorders2` and `mappings2`; the mappings are paired in their order. A
mapping with `connector` shows its map behind that connector of the distillation, as the loss compares it.
"""

from __future__ import annotations

import argparse

import cankd.openmmlab  # noqa: F401  (registers everything before a configuration is read)
from cankd.openmmlab.commands import arguments
from cankd.openmmlab.inference import ROLES
from cankd.openmmlab.visualization import draw_heatmap_panel, draw_map_grid
from cankd.openmmlab.visualization.features import (
    ENERGY_LABEL,
    image_names,
    list_images,
    map_differences,
    panel_row,
    read_vis_config,
    reduce_channels,
    standardise,
)


def parse_args() -> argparse.Namespace:
    parser = arguments.image_parser(__doc__)
    for number in ("1", "2"):
        parser.add_argument(f"config{number}", help=f"configuration of model {number}, or of its distillation")
    parser.add_argument("vis_config", help="recorders and mappings of both")
    for number in ("1", "2"):
        parser.add_argument(f"checkpoint{number}", help=f"of model {number}, or of its distillation run")
    roles = ("student", "student")
    parser.add_argument("--roles", nargs=2, choices=ROLES, default=roles, help="which model of a distillation")
    parser.add_argument("--titles", nargs=2, default=("model 1", "model 2"), help="of the models in the pictures")
    parser.add_argument("--panel", action="store_true", help="both models and the difference in one picture")
    arguments.add_map_arguments(parser)
    arguments.add_common_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    images = list_images(args.img)
    vis = read_vis_config(args.vis_config, ("recorders1", "mappings1", "recorders2", "mappings2"))
    files = zip(args.titles, (args.config1, args.config2), (args.checkpoint1, args.checkpoint2), args.roles)
    models = arguments.load_models(list(files), args.device, args.repo, args.cfg_options)
    sources = ((vis.recorders1, vis.mappings1), (vis.recorders2, vis.mappings2))
    recorders = [arguments.feature_recorder(model, *source) for model, source in zip(models, sources)]
    alpha = args.alpha if args.overlaid else None
    for number, (image, name) in enumerate(zip(images, image_names(images)), start=1):
        recorded = [recorder(image) for recorder in recorders]
        maps = [record.maps for record in recorded]
        if args.use_norm:
            maps = [{key: standardise(feature) for key, feature in part.items()} for part in maps]
        differences = map_differences(*maps)
        progress = f"[{number}/{len(images)}] {image} ->"
        if args.panel:
            path = arguments.picture_path(args.out_file, len(images), name)
            rows = {
                title: panel_row(part, args.channel_reduction, False, args.resize_shape)
                for title, part in zip((*args.titles, "|difference|"), (*maps, differences))
            }
            label = args.channel_reduction or ENERGY_LABEL
            views = dict(zip(rows, (recorded[0].view, recorded[1].view, recorded[0].view)))
            draw_heatmap_panel(views[args.titles[0]].image, rows, list(differences), path, views, alpha, label)
            print(progress, path, flush=True)
            continue
        for key, feature in differences.items():
            path = arguments.picture_path(args.out_file, len(images) * len(differences), name, key)
            title = f"{name}, {key}: |{args.titles[0]} - {args.titles[1]}|"
            shown = reduce_channels(feature, args.channel_reduction, args.topk, False, args.resize_shape)
            draw_map_grid(shown, recorded[0].view, title, path, tuple(args.arrangement), alpha)
            print(progress, path, flush=True)


if __name__ == "__main__":
    with arguments.tool_errors():
        main()

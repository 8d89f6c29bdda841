"""Draws what several detectors or segmenters predict for images, beside the ground truth.

python tools/visualizations/predictions.py IMG [IMG ...] --model TITLE CONFIG CKPT [--model ...]
    [--teacher TITLE CONFIG CKPT] [--ground-truth] [--score-thr 0.3] [--labels class|score|none] [--out-file F]

Images are rows, models columns. Masks of instances are drawn, too. --ground-truth looks the images up in the first
model's test data set.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Sequence

from cankd.openmmlab.commands import picture_arguments as arguments
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.inference import predict
from cankd.openmmlab.visualization import LABELS
from cankd.openmmlab.visualization.features import list_images
from cankd.openmmlab.visualization.ground_truth import ground_truth
from cankd.openmmlab.visualization.predictions import draw_predictions, drawn_prediction
from cankd.utils.command_line import at_least


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.image_parser(__doc__)
    arguments.add_model_arguments(parser)
    parser.add_argument("--ground-truth", action="store_true", help="a first column with the annotations")
    parser.add_argument("--score-thr", type=float, default=0.3, help="least score of a box; default 0.3")
    parser.add_argument(
        "--labels", choices=LABELS, default=LABELS[0], help="text at boxes; default class, with the score"
    )
    parser.add_argument("--rows", type=at_least(1), default=6, help="most images in one picture; default 6")
    parser.add_argument("--alpha", type=float, default=0.6, help="opacity of label maps; default 0.6")
    arguments.add_common_arguments(parser)
    return parser.parse_args(argv)


def predicted(model: arguments.LoadedModel, image: Path, score_thr: float):
    """Returns what is drawn of a model's prediction for an image."""
    sample = predict(model.model, model.cfg, image)
    return drawn_prediction(sample, model.model.dataset_meta["classes"], score_thr)


@tool_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    images = list_images(args.img)
    models = arguments.load_models(args.models, args.device, args.repo, args.cfg_options)
    truths = ground_truth(models[0].cfg, images) if args.ground_truth else []
    meta = models[0].model.dataset_meta
    starts = range(0, len(images), args.rows)
    for number, start in enumerate(starts, start=1):
        shown = images[start : start + args.rows]
        columns = {model.title: [predicted(model, image, args.score_thr) for image in shown] for model in models}
        path = arguments.picture_path(
            args.out_file, len(starts), "predictions", *([str(number)] if len(starts) > 1 else [])
        )
        draw_predictions(shown, truths[start : start + args.rows], columns, meta, path, args.labels, args.alpha)
        print(f"[{start + len(shown)}/{len(images)}] -> {path}", flush=True)

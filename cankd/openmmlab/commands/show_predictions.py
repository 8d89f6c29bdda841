"""Draws what several detectors or segmenters predict for images, beside the ground truth.

python tools/visualizations/predictions.py IMG [IMG ...] --model TITLE CONFIG CKPT [--model ...]
    [--teacher TITLE CONFIG CKPT] [--ground-truth] [--score-thr 0.3] [--labels class|score|none] [--out-file F]

Images are rows, models columns. Masks of instances are drawn, too. --ground-truth looks the images up in the first
model's test data set.
"""

from __future__ import annotations

import argparse
from typing import Sequence

import mmcv

from cankd.openmmlab.commands import picture_arguments as arguments
from cankd.openmmlab.commands.running import tool_errors
from cankd.openmmlab.inference import predict
from cankd.openmmlab.visualization import LABELS, draw_box_panel, draw_label_panel
from cankd.openmmlab.visualization.features import list_images, predicted_boxes
from cankd.openmmlab.visualization.ground_truth import ground_truth
from cankd.openmmlab.visualization.panels import Boxes
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


def predicted(model: arguments.LoadedModel, image: str, score_thr: float):
    """Returns a detector's boxes, with their masks if it predicts any, or a segmenter's label map (H, W)."""
    sample = predict(model.model, model.cfg, image)
    if "pred_sem_seg" in sample:
        return sample.pred_sem_seg.data[0].cpu().numpy()
    return predicted_boxes(sample, model.model.dataset_meta["classes"], score_thr)


def without_masks(truth):
    """Returns the ground truth that is drawn beside a model without masks."""
    return truth._replace(masks=None) if isinstance(truth, Boxes) else truth


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
        columns: dict = {"ground truth": truths[start : start + args.rows]} if truths else {}
        for model in models:
            columns[model.title] = [predicted(model, str(image), args.score_thr) for image in shown]
        if truths and not any(getattr(found, "masks", None) is not None for found in columns[models[0].title]):
            columns["ground truth"] = [without_masks(truth) for truth in columns["ground truth"]]
        names = [image.name for image in shown]
        pictures = [mmcv.imread(str(image), channel_order="rgb") for image in shown]
        path = arguments.picture_path(
            args.out_file, len(starts), "predictions", *([str(number)] if len(starts) > 1 else [])
        )
        kinds = {type(found) for column in columns.values() for found in column}
        if len(kinds) > 1:
            raise ValueError("got detectors and segmenters, expected models of one kind.")
        if hasattr(columns[models[0].title][0], "corners"):
            draw_box_panel(pictures, columns, path, names, args.labels)
        else:
            draw_label_panel(pictures, columns, meta["classes"], meta.get("palette"), path, args.alpha, names)
        print(f"[{start + len(shown)}/{len(images)}] -> {path}", flush=True)

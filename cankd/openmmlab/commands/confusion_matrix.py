"""Draws confusion matrices: of one model, or of two with their difference.

python tools/analysis_tools/confusion_matrix.py CONFIG PREDICTIONS.pkl SAVE_DIR [--compare OTHER.pkl] [--names A B]

PREDICTIONS is what `cankd test CONFIG CHECKPOINT --out PREDICTIONS.pkl` wrote for a detector, a
segmenter or a classifier. Writes SAVE_DIR/confusion_matrix.png, rows in percent of the true class,
and the counts as SAVE_DIR/confusion_matrix_NAME.csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Sequence

from mmengine.registry import DATASETS

from cankd.openmmlab.analysis.confusion import BACKGROUND, confusion_matrix, load_predictions, row_percentages
from cankd.openmmlab.commands.arguments import add_cfg_options
from cankd.openmmlab.compat import quiet_imports
from cankd.openmmlab.configs import in_scope, read_config, test_dataset
from cankd.openmmlab.visualization.matrices import Matrix, draw_matrices
from cankd.utils.command_line import command_parser, one_line_errors
from cankd.utils.files import write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="configuration whose test data was predicted")
    parser.add_argument("predictions", help="pickle that `cankd test --out` wrote")
    parser.add_argument("save_dir", type=Path, help="folder to write to")
    parser.add_argument("--compare", help="a second model's pickle, drawn beside the first, with the difference")
    parser.add_argument("--names", nargs="+", help="names of the models; the names of the files by default")
    parser.add_argument("--show", action="store_true", help="open the picture")
    parser.add_argument("--color-theme", default="plasma", help="matplotlib colour map")
    parser.add_argument("--score-thr", type=float, default=0.3, help="detections below this score are left out")
    parser.add_argument("--tp-iou-thr", type=float, default=0.5, help="IoU for a detection to match an object")
    parser.add_argument("--nms-iou-thr", type=float, help="IoU of another non-maximum suppression")
    add_cfg_options(parser)
    return parser.parse_args(argv)


def to_csv(matrix, classes: list[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["truth \\ prediction", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, matrix.tolist()))
    return out.getvalue()


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    files = [args.predictions, args.compare] if args.compare else [args.predictions]
    names = args.names or [Path(file).stem for file in files]
    if len(set(names)) != len(files):
        sys.exit(f"--names: got {' '.join(names)}, expected {len(files)} different names, one for each pickle.")
    predictions = [load_predictions(file) for file in files]
    cfg = read_config(args.config, args.cfg_options)
    if not test_dataset(cfg):
        raise ValueError(f"config: {args.config} has no test_dataloader.dataset, whose annotations are compared.")
    with in_scope(cfg), quiet_imports():
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    matrices = [
        confusion_matrix(samples, dataset, args.score_thr, args.tp_iou_thr, args.nms_iou_thr) for samples in predictions
    ]
    classes = list(dataset.metainfo["classes"])
    if len(matrices[0]) > len(classes):
        classes.append(BACKGROUND)
    shown = {name: Matrix(row_percentages(matrix)) for name, matrix in zip(names, matrices)}
    if args.compare:
        first, second = shown.values()
        shown[f"{names[1]} - {names[0]}"] = Matrix(second.values - first.values, difference=True)
    picture = args.save_dir / "confusion_matrix.png"
    for name, matrix in zip(names, matrices):
        write_text(args.save_dir / f"confusion_matrix_{name.replace(' ', '_')}.csv", to_csv(matrix, classes))
    draw_matrices(shown, classes, classes, ("truth", "prediction, % of the row"), picture, args.color_theme, 0)
    for name, matrix in zip(names, matrices):
        print(f"{name}: {matrix.sum()} counted, {100 * matrix.trace() / max(matrix.sum(), 1):.1f} % on the diagonal")
    print(f"Wrote {picture} and the counts beside it")
    if args.show:
        from PIL import Image

        Image.open(picture).show()

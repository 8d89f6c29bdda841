r"""Exports a student as ONNX: backbone, neck and the dense outputs of its head, checked against torch.

python tools/deployment/export_student.py CONFIG CHECKPOINT [--out FILE.onnx] [--images IMAGE ...] [--dynamic]

A distillation configuration or the student's own, a distillation checkpoint or the student's own.
FILE.onnx takes normalised images; onnxruntime must give torch's outputs on every image, or nothing is
written. FILE.json tells where it came from: configuration, hashes of student and teacher, versions,
what was compared. Boxes decoded and suppressed inside the graph, second stages and deformable
convolutions need mmdeploy:

python MMDEPLOY/tools/deploy.py MMDEPLOY/configs/mmdet/detection/detection_onnxruntime_dynamic.py \
    STUDENT_CONFIG STUDENT.pth IMAGE --work-dir DIR
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Sequence

import onnx
import onnxruntime
import torch
from mmengine.logging import MMLogger

import cankd
from cankd.openmmlab.analysis.export import (
    TOLERANCE,
    DensePart,
    check_exportable,
    export_and_check,
    first_images,
    inputs_of,
    preprocessing,
    teacher_of,
    weights_sha256,
)
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.commands.arguments import add_cfg_options, add_trust_argument
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.loading import load_model
from cankd.openmmlab.visualization.features import list_images
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import sha256, write_text


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    parser.add_argument("config", help="configuration of the distillation or of the student")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the distillation or of the student")
    parser.add_argument("--out", type=Path, help="file to write; the checkpoint's name with .onnx by default")
    parser.add_argument(
        "--images", nargs="+", help="files or folders to compare on; the first 4 of the config's test data by default"
    )
    parser.add_argument("--shape", nargs=2, type=at_least(1), help="H W of the input; the first image's by default")
    parser.add_argument("--dynamic", action="store_true", help="let the file take any batch size, height and width")
    parser.add_argument("--opset", type=at_least(1), default=17, help="version of ONNX's operator set")
    parser.add_argument("--metrics", type=Path, help="JSON that `cankd test` wrote, to be kept with the file")
    add_cfg_options(parser)
    add_trust_argument(parser)
    return parser.parse_args(argv)


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    MMLogger.get_current_instance().setLevel("WARNING")
    out = args.out or args.checkpoint.with_suffix(".onnx")
    if out.suffix != ".onnx":
        raise ValueError(f"--out: got {out}, expected a name that ends in .onnx.")
    cfg = read_config(args.config, args.cfg_options)
    checkpoint = Checkpoint.read(args.checkpoint)
    model, _ = load_model(cfg, checkpoint)
    part = DensePart(model)
    check_exportable(part)
    metrics = json.loads(args.metrics.read_text()) if args.metrics else None
    images = list_images(args.images or first_images(cfg))
    inputs = inputs_of(model, cfg, images, args.shape, args.dynamic)
    teacher = teacher_of(checkpoint)
    print(f"Exporting {', '.join(part.parts())} and comparing on {len(images)} images ...", flush=True)
    errors = export_and_check(part, inputs, out, args.dynamic, args.opset)
    with torch.no_grad():
        shapes = dict(zip(errors, (list(output.shape) for output in part(inputs[0]))))
    provenance = {
        "onnx": {"file": out.name, "sha256": sha256(out), "opset": args.opset, "parts": list(part.parts())},
        "input": {"shape": list(inputs[0].shape), "dynamic": args.dynamic, **preprocessing(model)},
        "outputs": shapes,
        "student": {
            "config": str(args.config),
            "checkpoint": args.checkpoint.name,
            "checkpoint_sha256": sha256(args.checkpoint),
            "weights_sha256": weights_sha256(model.state_dict()),
        },
        "teacher": teacher,
        "metrics": metrics,
        "compared": {
            "images": [image.name for image in images],
            "largest_relative_difference": errors,
            "tolerance": TOLERANCE,
        },
        "versions": {
            "python": platform.python_version(),
            **{library.__name__: library.__version__ for library in (cankd, torch, onnx, onnxruntime)},
        },
    }
    write_text(out.with_suffix(".json"), json.dumps(provenance, indent=1) + "\n")
    for name, error in errors.items():
        print(f"{name:16}{' x '.join(map(str, shapes[name])):>22}   differs from torch by {error:.1e}")
    print(f"Wrote {out} and {out.with_suffix('.json')}")

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
import re
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

import cankd
from cankd.openmmlab.analysis.export import (
    TOLERANCE,
    DensePart,
    check_exportable,
    export_and_check,
    preprocessing,
    weights_sha256,
)
from cankd.openmmlab.checkpoint import add_trust_argument, load_checkpoint_file, local_file
from cankd.openmmlab.compat import quiet_imports
from cankd.openmmlab.engine.config_checks import KeyValues
from cankd.openmmlab.inference import in_scope, load_model, part_state_dict, prepare, read_config
from cankd.openmmlab.visualization.features import list_images
from cankd.utils.command_line import at_least, one_line_errors
from cankd.utils.files import sha256, write_text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of the distillation or of the student")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the distillation or of the student")
    parser.add_argument("--out", type=Path, help="file to write; the checkpoint's name with .onnx by default")
    parser.add_argument(
        "--images", nargs="+", help="files or folders to compare on; the first 4 of the config's test data by default"
    )
    parser.add_argument("--shape", nargs=2, type=at_least(1), help="H W of the input; the first image's by default")
    parser.add_argument("--dynamic", action="store_true", help="let the file take any batch size, height and width")
    parser.add_argument("--opset", type=at_least(1), default=17, help="of ONNX")
    parser.add_argument("--metrics", type=Path, help="JSON that tools/test.py wrote, to be kept with the file")
    parser.add_argument("--cfg-options", nargs="+", action=KeyValues, help="overrides of the config, key=value")
    add_trust_argument(parser)
    return parser.parse_args()


def first_images(cfg: Config, count: int = 4) -> list[str]:
    """Files of the configuration's test data."""
    try:
        with in_scope(cfg), quiet_imports():
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
        return [dataset.get_data_info(index)["img_path"] for index in range(min(count, len(dataset)))]
    except (AttributeError, OSError) as error:
        raise ValueError(f"--images: the config's test data cannot be read ({error}). Name image files.") from error


def inputs_of(model: torch.nn.Module, cfg: Config, images: list[Path], shape: list[int] | None, dynamic: bool) -> list:
    """Normalised images (1, 3, H, W) from the config's test pipeline, of one size unless it is dynamic."""
    inputs = []
    for image in images:
        pixels = model.data_preprocessor(prepare(cfg, image), False)["inputs"]
        size = tuple(shape) if shape else None if dynamic or not inputs else inputs[0].shape[2:]
        inputs.append(pixels if size is None else F.interpolate(pixels, size, mode="bilinear", align_corners=False))
    return inputs


def teacher_of(checkpoint: dict[str, Any]) -> dict[str, str | None]:
    """Name and hashes of the teacher, as far as a checkpoint tells and its teacher's own file is there."""
    meta = checkpoint.get("meta", {})
    named = re.search(r"teacher_ckpt\s*=\s*['\"]([^'\"]+)", str(meta.get("cfg", "")))
    name = meta.get("teacher_ckpt") or (named.group(1) if named else None)
    found: dict[str, str | None] = {"checkpoint": name, "checkpoint_sha256": None, "weights_sha256": None}
    if name:
        file = local_file(name)
        found["checkpoint"] = name if "://" in name else file.name
        if file.is_file():
            found["checkpoint_sha256"] = sha256(file)
            found["weights_sha256"] = weights_sha256(load_checkpoint_file(file)["state_dict"])
    if any(key.startswith("teacher.") for key in checkpoint["state_dict"]):
        found["weights_sha256"] = weights_sha256(part_state_dict(checkpoint["state_dict"], "teacher"))
    return found


def main() -> None:
    args = parse_args()
    MMLogger.get_current_instance().setLevel("WARNING")
    out = args.out or args.checkpoint.with_suffix(".onnx")
    with one_line_errors():
        if out.suffix != ".onnx":
            raise ValueError(f"--out: got {out}, expected a name that ends in .onnx.")
        cfg = read_config(args.config, args.cfg_options)
        model, _ = load_model(cfg, args.checkpoint)
        part = DensePart(model)
        check_exportable(part)
        metrics = json.loads(args.metrics.read_text()) if args.metrics else None
        images = list_images(args.images or first_images(cfg))
        inputs = inputs_of(model, cfg, images, args.shape, args.dynamic)
        teacher = teacher_of(load_checkpoint_file(args.checkpoint))
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


if __name__ == "__main__":
    main()

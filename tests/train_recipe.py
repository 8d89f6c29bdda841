"""Trains one recipe on mini data: ``python -m tests.train_recipe RECIPE DATA SIZE WORK_DIR TEACHERS [prepare]``.

The overlay changes data root, image scale, number of iterations, workers and logging. It sets
learning rates: no warm-up, and a high one for the losses, whose blocks start at a scale of zero
and would hardly leave it within three iterations. DETRs have fewer queries, of which the losses on necks know nothing.
Pretrained weights cannot be fetched: the student starts at random, the teacher from a file of
random weights that is made here once under TEACHERS. With ``prepare`` only the configuration
WORK_DIR/overlay.py and the teacher are written.
"""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger

from cankd.openmmlab.checkpoint_files import save_whole
from cankd.openmmlab.configs import read_config
from cankd.openmmlab.models import stock_model
from tests.conftest import ROOT

LAYOUTS = {
    "CocoDataset": "coco",
    "Objects365V2Dataset": "objects365",
    "CityscapesDataset": "cityscapes",
    "ImageNet": "imagenet",
}

QUERIES = 100  # of a DETR instead of 300 or 900, which would need as many positions, and their time


def shrink(config: Any, size: int, roots: tuple[str, str]) -> Any:
    """The same configuration with images of ``size`` pixels and another data root."""
    if isinstance(config, str):
        return config.replace(roots[0].rstrip("/"), roots[1], 1) if config.startswith(roots[0].rstrip("/")) else config
    if isinstance(config, (list, tuple)):
        return type(config)(shrink(part, size, roots) for part in config)
    if not isinstance(config, dict):
        return config
    small = {key: shrink(value, size, roots) for key, value in config.items()}
    kind = small.get("type")
    if kind in ("Resize", "FixScaleResize"):
        small["scale"] = (size, size)
    elif kind == "RandomResize":
        small["scale"] = (2 * size, size)
    elif kind in ("RandomResizedCrop", "ResizeEdge"):
        small["scale"] = size
    elif kind == "RandomChoiceResize":
        small["scales"] = [(size, size)]
    elif kind == "RandomCrop":
        small["crop_size"] = (size, size)
    elif kind in ("CachedMosaic", "CachedMixUp"):
        small["img_scale"] = (size, size)
    elif kind == "Pad" and "size" in small:
        small["size"] = (size, size)
    elif kind == "CenterCrop":
        small["crop_size"] = size
    return small


def overlay(recipe: Path, data: Path, size: int, teachers: Path | None, batch_size: int | None = None) -> dict:
    """The recipe's configuration, resolved, with what the tests change in it; without ``teachers`` none is loaded."""
    cfg = read_config(recipe)
    dataset = cfg.train_dataloader.dataset
    roots = (dataset.data_root, str(data / LAYOUTS[dataset.type]))
    cfg = cfg.to_dict()
    for key in [key for key in cfg if key.endswith(("dataloader", "evaluator", "hooks"))]:
        cfg[key] = shrink(cfg[key], size, roots)
    if batch_size:
        cfg["train_dataloader"]["batch_size"] = batch_size
    cfg["train_dataloader"]["dataset"]["indices"] = 3 * cfg["train_dataloader"]["batch_size"]
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].update(num_workers=0, persistent_workers=False)
    cfg["train_cfg"].update(
        {"max_iters": 3, "val_interval": 3} if "max_iters" in cfg["train_cfg"] else {"max_epochs": 1}
    )
    cfg["default_hooks"]["logger"]["interval"] = 1
    cfg["default_hooks"]["checkpoint"]["interval"] = cfg["train_cfg"].get("max_iters", 1)
    cfg["param_scheduler"] = []
    cfg["randomness"] = {"seed": 0}
    optimizer = cfg["optim_wrapper"]["optimizer"]
    keys = cfg["optim_wrapper"].setdefault("paramwise_cfg", {}).setdefault("custom_keys", {})
    keys["distill_losses"] = {"lr_mult": (0.5 if optimizer["type"] == "SGD" else 0.01) / optimizer["lr"]}
    cfg["custom_imports"] = {"imports": ["cankd.openmmlab", "tests.recording"]}
    cfg["custom_hooks"] = [*cfg.get("custom_hooks", []), {"type": "RecordingHook"}]

    for model in (cfg["model"]["architecture"], cfg["model"]["teacher"]):
        model.setdefault("backbone", {})["init_cfg"] = None
        if model["cfg"].startswith("mmseg"):
            model.update(pretrained=None, data_preprocessor={"size": (size, size)})
        if re.search("dino|detr", model["cfg"]):
            model["num_queries"] = QUERIES
        if "grounding_dino" in model["cfg"] and teachers:
            model["language_model"] = {"name": str(tiny_bert(teachers / "bert"))}
    cfg["model"]["teacher_ckpt"] = str(random_weights(cfg["model"]["teacher"], teachers)) if teachers else None
    cfg["allow_untrained_teacher"] = teachers is None
    return cfg


def random_weights(teacher: dict, folder: Path) -> Path:
    """A checkpoint of a teacher with random weights, made if it is not there."""
    file = folder / f"{hashlib.sha256(json.dumps(teacher, sort_keys=True).encode()).hexdigest()[:16]}.pth"
    if not file.exists():
        torch.manual_seed(1)
        model = stock_model(**{key: value for key, value in teacher.items() if key != "type"})
        model.init_weights()
        save_whole({"state_dict": model.state_dict(), "meta": {}}, file)
    return file


def tiny_bert(folder: Path) -> Path:
    """A BERT with random weights whose vocabulary is the words of COCO's class names."""
    from mmdet.datasets import CocoDataset
    from transformers import BertConfig, BertModel, BertTokenizer

    if not folder.exists():
        words = sorted({word for name in CocoDataset.METAINFO["classes"] for word in name.split()})
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        (part / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *words]))
        BertTokenizer(str(part / "vocab.txt")).save_pretrained(part)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        BertModel(BertConfig(vocab_size=len(words) + 7, **sizes)).save_pretrained(part)
        part.rename(folder)
    return folder


def main() -> None:
    recipe, data, size, work_dir, teachers = sys.argv[1:6]
    MMLogger.get_current_instance().setLevel("ERROR")  # the initialisation of every tensor is logged
    config = overlay(Path(recipe), Path(data), int(size), Path(teachers))
    file = Path(work_dir) / "overlay.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in config.items()))
    if "prepare" in sys.argv[6:]:
        return
    sys.argv = ["train.py", str(file), "--work-dir", work_dir]
    runpy.run_path(str(ROOT / "tools" / "train.py"), run_name="__main__")


if __name__ == "__main__":
    main()

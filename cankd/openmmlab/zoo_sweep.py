"""Tries the families of a package: a configuration for a small student under a large teacher, and one training step."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import multiprocessing
import os
import re
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData, PixelData
from mmrazor.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from cankd.openmmlab.configs import in_scope, read_config
from cankd.openmmlab.engine.optimizers import build_layered_optimizer, names_layers
from cankd.openmmlab.maps import image_sizes
from cankd.openmmlab.pairing import Side, config_text, distiller_config, load_side, pair_maps
from cankd.openmmlab.zoo import ZooModel, zoo

# Package -> teacher of a family without a published model that is larger than its student.
TEACHERS = {
    "mmdet": "mmdet::retinanet/retinanet_r101_fpn_1x_coco.py",
    "mmseg": "mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py",
}
BATCH = 2
LARGER_IMAGE = (512, 512)  # for models that cannot train with a small one


def families(package: str) -> dict[str, list[ZooModel]]:
    """Returns the models of a package by the folder of their configurations.

    Args:
        package: ``mmdet`` or ``mmseg``.
    """
    found: dict[str, list[ZooModel]] = {}
    for model in zoo(package):
        found.setdefault(model.config.split("::")[1].split("/")[0], []).append(model)
    return dict(sorted(found.items()))


def sweep(package: str, names: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Tries families, each in a process of its own, whose memory is released with it.

    Args:
        package: ``mmdet`` or ``mmseg``.
        names: names of the families.
        seconds: time after which a family is given up.

    Yields:
        What :func:`try_family` found, with ``package``, its number of ``families``, ``family``, ``seconds``, ``date``,
        the libraries' ``versions``, and ``reason``: why the family does not train, or None.
    """
    context = multiprocessing.get_context("fork")  # the libraries are imported already
    count = len(families(package))
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "mmcv", "mmrazor", package)}
    for name in names:
        started = time.monotonic()
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(package, name, writer))
        process.start()
        writer.close()
        result: dict[str, Any] = {"package": package, "family": name, "reason": None}
        while reader.poll(max(0, seconds - (time.monotonic() - started))):
            try:
                result.update(reader.recv())
            except EOFError:  # the process has ended
                break
        else:
            result["reason"] = f"not done after {seconds:g} s"
            process.kill()
        process.join()
        if "losses" not in result and not result["reason"]:
            result["reason"] = f"its process ended with status {process.exitcode}"
        took = round(time.monotonic() - started, 1)
        yield {**result, "seconds": took, "date": f"{datetime.date.today()}", "families": count, "versions": versions}


def _report(package: str, name: str, writer: Connection) -> None:
    """Tries a family and sends what it finds."""
    warnings.filterwarnings("ignore")
    MMLogger.get_current_instance().setLevel("ERROR")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        try:
            for part in try_family(package, name):
                writer.send(part)
        except Exception as error:  # of any kind: the models' own code is tried
            text = re.sub(r"\S*/site-packages/", "", " ".join(str(error).split()))  # where the libraries lie
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            writer.send({"reason": kind + (text if len(text) < 300 else f"{text[:300]} ...")})


def try_family(package: str, name: str) -> Iterator[dict[str, Any]]:
    """Trains the smallest model of a family under the largest, or under another family's, for one step.

    Args:
        package: ``mmdet`` or ``mmseg``.
        name: folder of the family's configurations.

    Yields:
        First ``student`` and ``teacher``, their configurations; then ``strides`` of the compared maps, ``lines`` of
        the configuration, and ``losses``, name -> value of the step.

    Raises:
        ValueError: if the family has no student, the maps cannot be paired, or the step is not as it should be.
    """
    student, teacher = choose(package, name)
    yield {"student": student, "teacher": teacher}
    small, large = load_side(student), load_side(teacher)
    pairing = pair_maps(small, large)
    distiller = distiller_config("cankd", pairing, small.classes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.py")
        weights = large.entry.checkpoint if large.entry else None
        file.write_text(config_text(small, large, weights, "cankd", distiller, file))
        lines, cfg = len(file.read_text().splitlines()), read_config(file)
    sizes = list(dict.fromkeys([small.image, *(image_sizes(small.model)[1:] or [LARGER_IMAGE])]))
    del small, large  # the memory of both
    for size in sizes:
        try:
            losses = train_step(cfg, size)
            break
        except RuntimeError:  # some heads need larger images than their backbones and necks
            if size is sizes[-1]:
                raise
    yield {"strides": [pair.student.stride for pair in pairing.pairs], "lines": lines, "losses": losses}


def choose(package: str, name: str) -> tuple[str, str]:
    """Chooses student and teacher of a family.

    Args:
        package: ``mmdet`` or ``mmseg``.
        name: folder of the family's configurations.

    Returns:
        The configuration of the family's smallest model, and that of its largest one with a checkpoint, of the first
        ones with each backbone; where none is larger, one of :data:`TEACHERS`.

    Raises:
        Exception: if no model of the family can be built and run here, of the kind that the first one raises.
    """
    sides: dict[str, Side] = {}
    errors = []
    for model in families(package)[name]:
        try:
            cfg = read_config(model.config)
            backbone = str(cfg.model.get("backbone", cfg.model))
            if backbone not in sides:
                sides[backbone] = load_side(model.config, cfg=cfg, outline=True)
        except Exception as error:  # of any kind: some files cannot be read
            errors.append(error)
    if not sides:
        raise errors[0]
    student = min(sides.values(), key=lambda side: side.parameters)
    larger = [side for side in sides.values() if side.parameters > student.parameters]
    published = [side for side in larger if side.entry and side.entry.checkpoint]
    teacher = max(published, key=lambda side: side.parameters).config if published else TEACHERS[package]
    return student.config, teacher


def train_step(cfg: Config, image: tuple[int, int]) -> dict[str, float]:
    """Trains a distillation for one step on noise, on the CPU, with random weights.

    Args:
        cfg: configuration of the distillation.
        image: height and width of the images.

    Returns:
        Name -> value of each loss.

    Raises:
        ValueError: if a loss is not finite, if the student's backbone or a connector gets no gradient, if the student
            stays as it was, or if the teacher gets a gradient or changes.
    """
    torch.manual_seed(0)
    with in_scope(cfg):
        algorithm = revert_sync_batchnorm(MODELS.build({**cfg.model, "teacher_ckpt": None})).train()
        for module in algorithm.modules():
            if "checkpoint" in str(getattr(module, "init_cfg", None)):
                module.init_cfg = None
            if isinstance(getattr(module, "pretrained", None), str):  # a further backbone, in DetectoRS's neck
                module.pretrained = None  # type: ignore[assignment]
        for model in (algorithm.student, algorithm.teacher):  # some leave weights unset until then
            model.init_weights()
        # Mixed precision needs a GPU, accumulation several steps.
        wrapper = {key: cfg.optim_wrapper[key] for key in OPTIMIZER_KEYS if key in cfg.optim_wrapper}
        build = build_layered_optimizer if names_layers(wrapper) else build_optim_wrapper
        optimizer = build(algorithm, wrapper).optimizer
    preprocessor = algorithm.data_preprocessor
    preprocessor.batch_augments = None  # would pad to the full size, as the next
    if hasattr(preprocessor, "size"):
        preprocessor.size = image
    data = preprocessor(noise_data(cfg, image), True)
    for progress in ("iter", "epoch"):  # some heads begin with a part of their losses; a runner tells them when
        MessageHub.get_current_instance().update_info(progress, 0)
    before = {part: _fingerprint(getattr(algorithm, part)) for part in ("student", "teacher")}
    total, values = algorithm.parse_losses(algorithm(**data, mode="loss"))
    losses = {key: value.item() for key, value in values.items()}
    not_finite = [key for key, value in values.items() if not torch.isfinite(value)]
    if not_finite:  # the first is the sum
        raise ValueError(f"{not_finite[-1]} is {losses[not_finite[-1]]}, expected a finite number")
    total.backward()
    distiller = algorithm.distiller
    trained = {"student's backbone": algorithm.student.backbone, **distiller.connectors}
    without = [key for key, module in trained.items() if not _gets_gradient(module)]
    if without:
        raise ValueError(f"the {without[0]} gets no gradient")
    if any(parameter.grad is not None for parameter in algorithm.teacher.parameters()):
        raise ValueError("the teacher gets a gradient")
    optimizer.step()
    if _fingerprint(algorithm.student) == before["student"]:
        raise ValueError("the step does not change the student")
    if _fingerprint(algorithm.teacher) != before["teacher"]:
        raise ValueError("the step changes the teacher")
    return losses


OPTIMIZER_KEYS = ("optimizer", "paramwise_cfg", "constructor")


def _fingerprint(module: nn.Module) -> list[float]:
    """Returns one number for each tensor of a model, which changes with it."""
    return [float(value.double().sum()) for value in module.state_dict().values()]


def _gets_gradient(module: nn.Module) -> bool:
    return any(part.grad is not None and bool(part.grad.abs().sum() > 0) for part in module.parameters())


def noise_data(cfg: Config, image: tuple[int, int]) -> dict[str, list[Any]]:
    """Makes a training batch of noise with two objects on each image, as a detector's or segmenter's data set has them.

    Args:
        cfg: configuration whose training pipeline tells whether there are masks, and the scale of maps of stuff.
        image: height and width of the images.

    Returns:
        ``inputs``, images (3, H, W), and ``data_samples`` with boxes, masks, proposals, labels and edges.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = image
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.6], [0.4, 0.3, 0.9, 0.9]]) * torch.tensor([width, height, width, height])
    masks = np.zeros((len(boxes), height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    steps = list(_steps(cfg.train_dataloader.dataset))
    scale = next((step.get("scale_factor", 1) for step in steps if str(step["type"]).endswith("SegRescale")), 1)
    loaders = [step for step in steps if str(step["type"]).endswith("Annotations")]
    has_masks = any(step.get("with_mask", "Panoptic" in str(step["type"])) for step in loaders)
    inputs, samples = [], []
    for index in range(BATCH):
        inputs.append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
        sample = (SegDataSample if cfg.get("default_scope") == "mmseg" else DetDataSample)()
        sample.set_metainfo(
            dict(
                img_id=index, img_path="", img_shape=image, ori_shape=image, batch_input_shape=image, pad_shape=image,
                scale_factor=(1.0, 1.0), flip=False, flip_direction=None, border=[0, 0, 0, 0],
            )
        )  # fmt: skip
        stuff_map = torch.randint(0, 2, (1, int(height * scale), int(width * scale)), generator=generator)
        if isinstance(sample, DetDataSample):
            labels = torch.zeros(len(boxes), dtype=torch.long)
            sample.gt_instances = InstanceData(bboxes=boxes.clone(), labels=labels)
            if has_masks:
                sample.gt_instances.masks = BitmapMasks(masks, height, width)
            sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
            sample.proposals = InstanceData(bboxes=boxes.clone(), scores=torch.ones(len(boxes)))
            sample.gt_sem_seg = PixelData(sem_seg=stuff_map)
        else:
            sample.set_data({name: PixelData(data=stuff_map.clone()) for name in ("gt_sem_seg", "gt_edge_map")})
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Yields the steps of all pipelines in a part of a configuration, and whatever else has a type."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
    if isinstance(part, dict) and "type" in part:
        yield part
    for value in inner:
        yield from _steps(value)


def read_results(file: Path) -> list[dict[str, Any]]:
    """Reads the results of a sweep, one in each line of a file; none if there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def page(results: Iterable[dict[str, Any]]) -> str:
    """Writes the documentation's page of a sweep.

    Args:
        results: what :func:`sweep` yielded.

    Returns:
        The page, in Markdown.
    """
    lines = [INTRODUCTION.rstrip()]
    ordered = sorted(results, key=lambda result: (result["package"], result["family"]))
    for package in dict.fromkeys(result["package"] for result in ordered):
        rows = [result for result in ordered if result["package"] == package]
        trained = sum(result["reason"] is None for result in rows)
        dates = sorted({result["date"] for result in rows})
        versions = ", ".join(f"{name} {version}" for name, version in rows[0]["versions"].items())
        lines += ["", f"## {package}", ""]
        lines += [f"{len(rows)} of {rows[0]['families']} families were tried, {trained} train."]
        lines += [f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {versions}.", ""]
        lines += ["| family | student | teacher | strides | result |", "| --- | --- | --- | --- | --- |"]
        for result in rows:
            names = [Path(result[side]).stem if side in result else "–" for side in ("student", "teacher")]
            strides = ", ".join(map(str, result.get("strides", []))) or "–"
            outcome = f"trains, {result['seconds']:.0f} s" if result["reason"] is None else result["reason"]
            outcome = outcome.replace("|", "/").replace("`", "'")  # no marks of Markdown
            lines.append(f"| {' | '.join([result['family'], *names, strides, outcome])} |")
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
# Families that were tried

One training step of a distillation for each family of mmdet and mmsegmentation: its smallest model as the student, its
largest one with a published checkpoint as the teacher (RetinaNet R101 or PSPNet R101 where it has none). The
configuration is what `tools/make_config.py` writes, read back from its file. A family *trains* if all losses are
finite, gradients reach the student's backbone and every connector, the step changes the student, and the teacher
neither gets a gradient nor changes. Weights and images are random, images have 256 x 256 pixels or the size that the
model needs, and everything runs on a CPU. A reason in the last column is the error as it is printed.

`python tools/analysis_tools/zoo_sweep.py` tries the families and writes this page.
"""

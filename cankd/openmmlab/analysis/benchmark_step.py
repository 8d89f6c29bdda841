"""Measures what a distillation step costs beside a plain training step of the student."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from torch import Tensor, nn

from cankd.losses.cankd_naive import NaiveNLKDINLoss
from cankd.openmmlab.analysis.benchmark import markdown_table, measure
from cankd.openmmlab.checkpoint import drop_teacher
from cankd.openmmlab.compat import classification_sample
from cankd.openmmlab.configs import read_config

FUSED = {"teacher_fuse_conv_bn": True}
LAST = {"teacher_channels_last": True}
NARROW = {"teacher_dtype": "bfloat16"}
# Options of the teacher -> whether they change its numbers by more than float32's rounding.
OPTIONS: dict[str, tuple[dict[str, Any], bool]] = {
    "ours": ({}, False),
    "channels_last": (LAST, False),
    "fused": (FUSED, False),
    "fused+channels_last": ({**FUSED, **LAST}, False),
    "compiled": ({"teacher_compile": True}, False),
    "eval": ({"teacher_eval": True}, True),
    "bfloat16": (NARROW, True),
    "bfloat16+fused+channels_last": ({**NARROW, **FUSED, **LAST}, True),
}
# `published` is the published algorithm, mmrazor's, which runs the whole teacher, with the naive loss.
STEPS = ["plain", "teacher", "published", *OPTIONS]
# Algorithms that `published` and `ours` can stand for.
ALGORITHMS = ("PartialTeacherDistill", "SingleTeacherDistill", "FpnTeacherDistill")
EXACT = 1e-3  # relative, of a loss: float32's rounding after two deep networks


MODELS.register_module(module=NaiveNLKDINLoss)


def check_config(cfg: Config) -> None:
    """Checks that the steps can be made of a configuration.

    Raises:
        ValueError: if its model is no distillation, is of another algorithm or records nothing of the teacher.
    """
    if "distiller" not in cfg.model:
        raise ValueError(f"{cfg.filename}: got a model without a distiller, expected a distillation configuration.")
    if str(cfg.model.type).split(".")[-1] not in ALGORITHMS:
        raise ValueError(
            f"{cfg.filename}: got a model of type {cfg.model.type}, expected one of {', '.join(ALGORITHMS)}."
        )
    if not cfg.model.distiller.get("teacher_recorders"):
        raise ValueError(f"{cfg.filename}: got a distiller without teacher_recorders, expected at least one.")


def build(cfg: Config, step: str, device: str) -> nn.Module:
    """Builds the algorithm of a configuration for one step, in training mode, always with the same weights."""
    model = cfg.model.to_dict()
    if step == "published":
        sources = {recorder["source"] for recorder in model["distiller"]["teacher_recorders"].values()}
        model["type"] = "FpnTeacherDistill" if sources == {"neck"} else "SingleTeacherDistill"
        model = {key: value for key, value in model.items() if key == "teacher_ckpt" or not key.startswith("teacher_")}
        for loss in model["distiller"]["distill_losses"].values():
            if loss["type"] == "NLKDINLoss":
                loss["type"] = "NaiveNLKDINLoss"
    else:
        model["type"] = "PartialTeacherDistill"
        model.update(OPTIONS.get(step, ({}, False))[0])
    torch.manual_seed(0)
    algorithm = revert_sync_batchnorm(MODELS.build(model))
    for module in algorithm.modules():
        if "'Pretrained'" in str(getattr(module, "init_cfg", None)):
            module.init_cfg = None  # to be fetched from the network, and no matter for the time
    algorithm.init_weights()
    torch.manual_seed(1)
    for loss in algorithm.distiller.distill_losses.values():
        # By name: the order differs between the two losses. Random: with its initial zeros the block adds nothing.
        for _, parameter in sorted(getattr(loss, "block", loss).named_parameters()):
            nn.init.normal_(parameter, std=0.1)
    algorithm.to(device).train()
    return algorithm


def random_batch(student: nn.Module, batch: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Returns random images with annotations, as a data loader hands them over."""
    package = type(student).__module__.split(".")[0]
    torch.manual_seed(2)
    images = [torch.randint(0, 256, (3, *shape), dtype=torch.uint8) for _ in range(batch)]
    if package == "mmdet":
        from mmdet.testing import demo_mm_inputs

        masks = any(name.endswith("mask_head") for name, _ in student.named_modules())
        packed = demo_mm_inputs(batch, [(3, *shape)] * batch, num_items=[8] * batch, num_classes=2, with_mask=masks)
        return {"inputs": images, "data_samples": packed["data_samples"]}
    if package == "mmseg":
        from mmseg.structures import SegDataSample

        labels = (torch.randint(0, 2, (1, *shape)) for _ in images)
        parts = ("gt_sem_seg", "gt_edge_map")  # PIDNet learns edges, too
        samples = [SegDataSample(**{part: PixelData(data=label) for part in parts}) for label in labels]
        return {"inputs": images, "data_samples": samples}
    sample = classification_sample()
    return {"inputs": images, "data_samples": [sample().set_gt_label(0) for _ in images]}


def make_step(cfg: Config, step: str, options: dict[str, Any]) -> tuple[nn.Module, Callable[[], dict]]:
    """Returns the model of a step, and a function that takes the step and returns what it logs."""
    algorithm: Any = build(cfg, step, options["device"])
    shape = tuple(options["shape"])
    if getattr(algorithm.data_preprocessor, "size", None) is not None:
        algorithm.data_preprocessor.size = shape  # mmseg pads to it
    batch = random_batch(algorithm.student, options["batch"], shape)
    if step == "teacher":

        def run_teacher() -> dict:
            with torch.autocast("cuda", enabled=options["amp"]):  # as AmpOptimWrapper does
                data = algorithm.data_preprocessor(batch, True)
                algorithm.run_teacher(data["inputs"], data["data_samples"])
            return {}

        return algorithm.teacher, run_teacher
    model = algorithm.student if step == "plain" else algorithm
    optim = cfg.optim_wrapper.to_dict()
    optim["optimizer"]["lr"] = 1e-6  # random weights would not survive a higher one
    if options["amp"]:
        # A dynamic scale starts so high that it skips the first updates, and with them their time and memory.
        optim.update(type="AmpOptimWrapper", loss_scale=1.0)
    wrapper = build_optim_wrapper(model, optim)
    return model, lambda: model.train_step(batch, wrapper)


def checkpoint_cost(state_dict: dict[str, Tensor]) -> dict[str, float]:
    """Measures size and time of writing a state dict."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "checkpoint.pth")
        start = time.perf_counter()
        torch.save(state_dict, file)
        return {"bytes": file.stat().st_size, "seconds": time.perf_counter() - start}


def measure_one(step: str, config: str, cfg_options: dict | None, options: dict[str, Any]) -> dict[str, Any]:
    """Measures one kind of step, and reads the losses of the first."""
    MMLogger.get_current_instance().setLevel("ERROR")
    torch.set_num_threads(options["threads"])
    cfg = read_config(config, cfg_options)
    cfg.model.teacher_ckpt = (cfg_options or {}).get("teacher_ckpt")
    init_default_scope(cfg.get("default_scope", "mmdet"))
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the table
        model, take_step = make_step(cfg, step, options)
    losses: dict[str, float] = {}

    def take_and_log() -> None:
        logged = take_step()
        if not losses:
            distilled = {name: part for name, part in logged.items() if name.startswith("distill.")}
            losses.update({name: torch.as_tensor(part).item() for name, part in distilled.items()})

    # The memory is the first step's, with gradients and the optimizer's state.
    result = {"step": step, **measure(take_and_log, options["device"], options["repeats"]), "losses": losses}
    result["weight_bytes"] = sum(part.numel() * part.element_size() for part in model.parameters())
    if step == "ours":
        state = model.state_dict()
        student = dict(state)
        drop_teacher(student)
        result["checkpoint"] = {"with teacher": checkpoint_cost(state), "without": checkpoint_cost(student)}
    return result


def changes(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Returns for each step the largest relative difference of its first distillation losses from those of `ours`."""
    ours: dict[str, float] = next((row["losses"] for row in rows if row["step"] == "ours"), {})
    return {
        row["step"]: max(abs(row["losses"][name] / value - 1) for name, value in ours.items())
        for row in rows
        if ours and row["losses"]
    }


def check(rows: list[dict[str, Any]], device: str) -> None:
    """Compares the first losses of the steps that must agree.

    Args:
        rows: measured steps.
        device: ``cpu`` or ``cuda``, whose convolutions round to TF32 or, in mixed precision, to float16.

    Raises:
        ValueError: if the losses differ.
    """
    allowed = 5e-2 if device == "cuda" else EXACT
    for step, change in changes(rows).items():
        if not OPTIONS.get(step, ({}, False))[1] and not change < allowed:
            raise ValueError(
                f"{step}: got distillation losses that differ from those of `ours` by {change:.1e}, expected less than "
                f"{allowed:.0e}. A teacher with dropout or stochastic depth needs "
                "--cfg-options model.teacher_eval=True. Nothing is printed of steps that are not the same."
            )


def table(rows: list[dict[str, Any]], batch: int) -> str:
    """Returns a Markdown table of all steps, also relative to the plain step, alone and with the bare teacher."""
    median = {row["step"]: row["median"] for row in rows}
    plain, changed = median.get("plain"), changes(rows)
    bare = plain + median["teacher"] if plain and "teacher" in median else None
    lines = []
    for row in rows:
        step, seconds = row["step"], row["median"]
        distilled = step not in ("plain", "teacher")
        lines.append(
            [
                step,
                f"{seconds * 1e3:.1f}",
                " - ".join(f"{quartile * 1e3:.1f}" for quartile in row["quartiles"]),
                f"{seconds / plain:.2f}x" if plain else "",
                f"{seconds / bare:.2f}x" if bare and distilled else "",
                f"{batch / seconds:.2f}",
                f"{row['peak_extra_bytes'] / 1e6:.0f}",
                f"{row['weight_bytes'] / 1e6:.0f}",
                f"{changed[step]:.0e}" if step in changed and step != "ours" else "",
            ]
        )
    header = [
        "step",
        "ms",
        "quartiles",
        "of plain",
        "of plain + teacher",
        "images/s",
        "extra MB",
        "weights MB",
        "loss by",
    ]
    return markdown_table(header, lines)

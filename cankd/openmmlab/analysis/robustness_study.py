"""Measures models under image corruptions and keeps the results in a file, so that a later run continues."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import types
from numbers import Real
from pathlib import Path
from typing import Any, Iterable

import numpy as np
import skimage
import torch
from mmengine.config import Config

import cankd
from cankd.openmmlab.analysis.robustness import GROUPS, find_metric, insert_corruption, summarise
from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import local_file
from cankd.openmmlab.engine.runner import Runner
from cankd.openmmlab.loading import load_model
from cankd.utils.files import sha256


def fingerprint(cfg: Config, checkpoint: Checkpoint, role: str) -> dict[str, str]:
    """Returns the hashes that tell whether stored results belong to these weights, this model and these data."""
    parts = {key: cfg.get(key) for key in ("model", "test_dataloader", "test_evaluator")}
    text = json.dumps(parts, sort_keys=True, default=str)
    file = checkpoint.source(role, cfg).name
    return {"checkpoint_sha256": sha256(local_file(file)), "config_sha256": hashlib.sha256(text.encode()).hexdigest()}


def read_state(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Reads the results so far.

    Raises:
        ValueError: if the file holds results of other settings, or something else.
    """
    if not file.exists():
        libraries = {module.__name__: module.__version__ for module in (cankd, torch, np, skimage)}
        return {"settings": settings, "versions": libraries, "models": {}}
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        found = state["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--out: {file} holds something else than results of this tool. Give another --out."
        ) from error
    if found != settings:
        raise ValueError(
            f"--out: {file} holds results of {found}, this run has {settings}. Give another --out, or the same options."
        )
    return state


class StudiedModel:
    """A model under test; its runner evaluates it under any corruption.

    Args:
        cfg: configuration of the model or of its distillation.
        checkpoint: file or URL of the checkpoint.
        role: ``student`` or ``teacher``.
        seed: seed of the corruptions' noise. Defaults to 0.
        workers: processes that load and corrupt images. Defaults to the configuration's.
        corrupted_dir: folder of corrupted images, to write or to read. Defaults to none.
        load_corrupted: whether images are read from that folder instead of corrupted. Defaults to False.
        show: whether a detector's predictions are shown. Defaults to False.
        show_dir: folder for pictures of a detector's predictions. Defaults to none.
        wait_time: seconds that a picture is shown. Defaults to 2.

    Raises:
        ValueError: if the configuration has no test data.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        role: str,
        *,
        seed: int = 0,
        workers: int | None = None,
        corrupted_dir: str | None = None,
        load_corrupted: bool = False,
        show: bool = False,
        show_dir: str | None = None,
        wait_time: float = 2,
    ) -> None:
        if "test_dataloader" not in cfg:
            raise ValueError(f"config: {cfg.filename} has no test_dataloader. Give the configuration of a training.")
        self.cfg = cfg
        content = Checkpoint.read(checkpoint)
        self.model, _ = load_model(cfg, content, role=role)
        self.fingerprint = fingerprint(cfg, content, role)
        self.corruption = {"seed": seed, "folder": corrupted_dir, "load": load_corrupted}
        self.workers, self.show_dir = workers, show_dir
        self.shown = types.SimpleNamespace(show=show, show_dir=show_dir, wait_time=wait_time)
        self.runner: Runner | None = None
        self.images = 0  # that the last evaluation was of

    def _start(self) -> Runner:
        cfg = self.cfg
        if self.shown.show or self.show_dir:
            from mmdet.engine.hooks.utils import trigger_visualization_hook

            trigger_visualization_hook(cfg, self.shown)
        if self.workers is not None:
            cfg.test_dataloader.update(num_workers=self.workers, persistent_workers=self.workers > 0)
        names = ("test_dataloader", "test_evaluator", "test_cfg", "default_hooks", "default_scope")
        # Under a name of their own: mmengine would go on with a logger and a visualizer of an earlier runner.
        unique = f"robustness_{id(self)}"
        return Runner(
            model=self.model,
            work_dir=cfg.work_dir,
            launcher=cfg.launcher,
            env_cfg=cfg.get("env_cfg", dict(dist_cfg=dict(backend="nccl"))),
            log_level="WARNING",
            experiment_name=unique,
            visualizer=dict(cfg.get("visualizer") or {"type": "Visualizer"}, name=unique),
            cfg=cfg,
            **{name: cfg.get(name) for name in names},
        )

    def evaluate(self, name: str, corruption: str | None = None, severity: int = 0) -> dict[str, float]:
        """Returns the evaluator's metrics on the test data, clean or corrupted."""
        loader = self.cfg.test_dataloader.to_dict()
        if corruption:
            step = dict(type="SeededCorruption", corruption=corruption, severity=severity, **self.corruption)
            insert_corruption(loader["dataset"], step)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its tables
            self.runner = self.runner or self._start()
            self.runner.test_loop.dataloader = self.runner.build_dataloader(loader)
            for hook in self.runner.hooks:
                if self.show_dir and hasattr(hook, "test_out_dir"):
                    hook.test_out_dir = str(Path(self.show_dir).absolute() / name / f"{corruption}_{severity}")
            metrics = self.runner.test()
        self.images = len(self.runner.test_loop.dataloader.dataset)
        return {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}


def missing_pairs(results: dict[str, Any], pairs: list[tuple]) -> list[tuple]:
    """Returns the (corruption, severity) pairs that the results of a model do not contain yet."""
    return [
        (corruption, severity)
        for corruption, severity in pairs
        if (str(severity) not in results["corrupted"].get(corruption, {}) if severity else "clean" not in results)
    ]


def summaries(
    models: dict[str, Any], corruptions: list[str], severities: Iterable[int], metric: str | None, average: str
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Summarises the results of all models.

    Args:
        models: name -> results.
        corruptions: corruptions to summarise.
        severities: severities to summarise; 0 stands for clean images.
        metric: name of the metric, or None to find it.
        average: ``benchmark`` to average over those corruptions of the benchmark that were chosen if there are
            any, ``all`` to average over all that were chosen.

    Returns:
        The metric's name and, by model, the result of :func:`summarise` with the ``retention``.
    """
    chosen_severities = [str(severity) for severity in sorted(set(severities)) if severity]
    chosen = {
        name: {
            **results,
            "corrupted": {c: {s: results["corrupted"][c][s] for s in chosen_severities} for c in corruptions},
        }
        for name, results in models.items()
    }
    clean = [results["clean"] for results in chosen.values() if "clean" in results]
    corrupted = [m for results in chosen.values() for by in results["corrupted"].values() for m in by.values()]
    metric = find_metric(clean + corrupted, metric)
    averaged = [name for name in corruptions if name in GROUPS["benchmark"]]
    if average == "all" or not averaged:
        averaged = corruptions
    found = {
        name: summarise(results, metric, averaged if chosen_severities else []) for name, results in chosen.items()
    }
    reference = next((found[name]["mPC"] for name, results in models.items() if results["teacher"]), None)
    for name, summary in found.items():
        known = reference and summary["mPC"] is not None and not models[name]["teacher"]
        summary["retention"] = 100 * summary["mPC"] / reference if known else None
    return metric, found

"""A hook that the training tests' configurations import: writes what each process saw."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from cankd.openmmlab.checkpoint_files import load_checkpoint_file


@HOOKS.register_module()
class RecordingHook(Hook):
    """Appends each iteration's losses and gradient norms to ``work_dir/rank<i>.jsonl``.

    Gradient norms are per top-level part of the algorithm and, within the distiller, per
    parameter. At the end it makes sure that the teacher is still what ``teacher_ckpt`` holds.

    Raises:
        AssertionError: after training, if it is not.
    """

    def before_train(self, runner):
        self.file = Path(runner.work_dir) / f"rank{get_rank()}.jsonl"
        step = runner.optim_wrapper.optimizer.step
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model

        def recording_step(*args, **kwargs):
            norms: dict = {}
            for name, parameter in model.named_parameters():
                key = name if name.startswith("distiller") else name.split(".")[0]
                if parameter.grad is not None:
                    norms[key] = norms.get(key, 0.0) + float(parameter.grad.double().square().sum())
            self.norms = {key: value**0.5 for key, value in norms.items()}
            return step(*args, **kwargs)

        runner.optim_wrapper.optimizer.step = recording_step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        losses = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in outputs.items()}
        with self.file.open("a") as file:
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            weight = getattr(model, "ratio_weight", None)
            file.write(json.dumps({"losses": losses, "gradients": self.norms, "ratio_weight": weight}) + "\n")

    def after_train(self, runner):
        if not runner.cfg.model.get("teacher_ckpt"):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        given = load_checkpoint_file(runner.cfg.model.teacher_ckpt)["state_dict"]
        teacher = model.teacher.state_dict()
        assert set(given) == set(teacher), set(given) ^ set(teacher)
        changed = [
            name for name, value in given.items() if not torch.equal(value.to(teacher[name]), teacher[name].cpu())
        ]
        assert not changed, f"the teacher changed: {changed}"


@HOOKS.register_module()
class PoisonHook(Hook):
    """Makes one distillation loss NaN in one iteration, in one process."""

    def __init__(self, at: int, rank: int = 0) -> None:
        self.at, self.rank = at, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        poisoned = runner.iter == self.at and runner.rank == self.rank
        model.distiller.distill_losses["loss_fpn0"].loss_weight = float("nan") if poisoned else 4

"""Trains and tests by mmengine's runner, also in several CPU processes, with checkpoints that survive a kill."""

from __future__ import annotations

from typing import Any

import mmengine.runner
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, is_distributed, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import HOOKS, MODEL_WRAPPERS, MODELS
from mmrazor.models.algorithms import SingleTeacherDistill
from torch import distributed, nn

from cankd.openmmlab.checkpoint import Checkpoint
from cankd.openmmlab.checkpoint_files import keep_what_is_read, release_what_was_read
from cankd.openmmlab.configs import is_distillation_config
from cankd.openmmlab.engine.optimizers import build_layered_optimizer, is_of_a_library, names_layers
from cankd.openmmlab.engine.resuming import find_checkpoint
from cankd.openmmlab.loading import build_model

# Hooks of every run, beside mmengine's own default hooks.
OWN_HOOKS = {
    "run_checks": {"type": "RunChecksHook"},
    "finite_loss": {"type": "FiniteLossHook"},
    "distill_monitor": {"type": "DistillMonitorHook"},
}


def unwrapped(model: Any) -> Any:
    """Returns the model inside a wrapper for several processes; a model without one is returned as it is."""
    return model.module if is_model_wrapper(model) else model


class _StudentsRunner:
    """A runner as the hooks of the student's own recipe expect it: its model is the student, not the distillation."""

    def __init__(self, runner: Runner) -> None:
        self.__dict__["_runner"] = runner

    @property
    def model(self) -> nn.Module:
        return unwrapped(self._runner.model).student

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._runner, name, value)


def _is_of_a_recipe(hook: Hook) -> bool:
    """Returns whether a hook is a library's, and no average of weights, which is of all parts."""
    return not isinstance(hook, EMAHook) and is_of_a_library(type(hook))


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` for models on the CPU, which have no ``device_ids``."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module=module, device_ids=None, **kwargs)


class Runner(mmengine.runner.Runner):
    """mmengine's ``Runner``, which on a CPU trains with gloo and plain batch norms, and resumes after any kill.

    mmengine selects a CUDA device for every process and hands it to the model wrapper. Where
    there is none, the process group is made here first and the model wrapped without devices.
    SyncBN, which torch has for GPUs only, becomes BN then, as mmengine does in single runs.

    :class:`cankd.openmmlab.engine.ResumableCheckpointHook` replaces ``CheckpointHook``, and a run that resumes goes on
    from the checkpoint that :func:`cankd.openmmlab.engine.resuming.find_checkpoint` finds. Until its loop begins, a
    runner keeps the checkpoint files that it reads, so that building, initialising, resuming and checking a model read
    each file once.

    In a distillation the hooks of mmdet, mmseg and mmpretrain get the student as ``runner.model``: they are part of the
    student's own recipe and reach for its modules, as YOLOX's switch to its last epochs does. So do their constructors
    of optimizers, which give each layer a learning rate by its name; what else is trained has the optimizer's own.
    """

    # Private: mmengine has no public attribute for the checkpoint that a run resumes from.
    _resume: bool
    _load_from: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        keep_what_is_read()
        super().__init__(*args, **kwargs)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Calls a method of all hooks; when a loop begins, releases the checkpoint files that were read for it."""
        is_distillation = isinstance(unwrapped(getattr(self, "model", None)), SingleTeacherDistill)
        for hook in self.hooks:
            if hasattr(hook, fn_name):
                runner = _StudentsRunner(self) if is_distillation and _is_of_a_recipe(hook) else self
                getattr(hook, fn_name)(runner, **kwargs)
        if fn_name in ("before_train", "before_val", "before_test"):
            release_what_was_read()

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """Registers mmengine's hooks and :data:`OWN_HOOKS`, each of which a configuration may change or set to None."""
        merged = dict(hooks or {})
        for name, own in OWN_HOOKS.items():
            given = merged.pop(name, {})
            if given is not None:
                merged[name] = {**own, **given}
        super().register_default_hooks(merged)

    def register_hook(self, hook: Any, priority: Any = None) -> None:
        """Registers a hook; ``ResumableCheckpointHook`` replaces mmengine's ``CheckpointHook``."""
        kind = hook.get("type") if isinstance(hook, dict) else None
        if (HOOKS.get(kind) if isinstance(kind, str) else kind) is CheckpointHook:
            hook = {**hook, "type": "ResumableCheckpointHook"}
        super().register_hook(hook, priority)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Makes the optimizer; one with layer-wise learning rates by :func:`build_layered_optimizer`."""
        algorithm = unwrapped(self.model)
        if isinstance(algorithm, SingleTeacherDistill) and names_layers(optim_wrapper):
            return build_layered_optimizer(algorithm, optim_wrapper)
        return super().build_optim_wrapper(optim_wrapper)

    def train(self) -> nn.Module:
        """Trains; a run that resumes first finds its checkpoint, and takes over the seed that orders its data.

        The checkpoint is ``load_from`` if that holds a run's state, as in mmengine; if it holds weights alone, a run
        without a checkpoint starts with them.
        """
        if self._resume and not (self._load_from and Checkpoint.read(self._load_from).holds_run):
            found = [find_checkpoint(self.work_dir) if is_main_process() else None]
            broadcast_object_list(found)
            if found[0] is None:
                self._resume = False
                self.logger.warning(f"--resume: {self.work_dir} holds no checkpoint; training starts anew.")
            else:
                self._load_from, meta = found[0]
                # Private: mmengine's resume() compares the seed there, and would seed again in the middle of the start.
                if self._randomness_cfg.get("seed") is None and meta.get("seed") is not None:
                    self._randomness_cfg.update(seed=meta["seed"])
                    self.set_randomness(**self._randomness_cfg)
        return super().train()

    def setup_env(self, env_cfg: dict) -> None:
        """Starts the process group with gloo if there is no GPU, then goes on as usual."""
        if self.launcher == "pytorch" and not is_distributed() and get_device() == "cpu":
            distributed.init_process_group(backend="gloo")
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wraps the model for distributed training, on CPUs without devices and without SyncBN."""
        if self.distributed and get_device() == "cpu":
            if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
                print_log("SyncBN needs GPUs: it is replaced by BN in this run on the CPU.", logger="current")
                model = revert_sync_batchnorm(model)
            model_wrapper_cfg = dict(model_wrapper_cfg or {}, type="CPUDistributedDataParallel")
            model_wrapper_cfg.setdefault("broadcast_buffers", False)
            model_wrapper_cfg.setdefault("find_unused_parameters", self.cfg.get("find_unused_parameters", False))
        return super().wrap_model(model_wrapper_cfg, model)


class StudentRunner(Runner):
    """:class:`Runner` that tests the student of a distillation's configuration without building its teacher."""

    def build_model(self, model: Any) -> nn.Module:
        """Builds the student with the data preprocessor of the distillation; the model of any other configuration."""
        if not is_distillation_config(self.cfg):
            return super().build_model(model)
        student = build_model(self.cfg)
        if model.get("data_preprocessor"):  # the distillation's own, which precedes the student's
            student.data_preprocessor = MODELS.build(model["data_preprocessor"])
        return student

"""Saves checkpoints of a distillation without its teacher."""

from __future__ import annotations

from typing import Any

from mmengine.registry import HOOKS

from cankd.openmmlab.checkpoint import Checkpoint, drop_teacher
from cankd.openmmlab.engine.resumable_checkpoint_hook import ResumableCheckpointHook
from cankd.openmmlab.engine.runner import unwrapped


@HOOKS.register_module()
class DistillCheckpointHook(ResumableCheckpointHook):
    """``ResumableCheckpointHook`` that leaves a frozen teacher's weights out of the checkpoints.

    A run that resumes reads those weights from ``teacher_ckpt`` again; without a ``teacher_ckpt``, or if the
    teacher is trained, they are saved. When a checkpoint is loaded, a teacher from ``teacher_ckpt`` keeps its
    weights, whatever the checkpoint holds. How much is left out is logged once.

    Takes the arguments of mmengine's hook, in whose place it is configured:
    ``default_hooks = dict(checkpoint=dict(type='DistillCheckpointHook'))``.
    """

    _has_told = False

    def before_save_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Removes the teacher from a checkpoint that is about to be saved."""
        super().before_save_checkpoint(runner, checkpoint)
        if not self._restores_teacher(runner):
            return
        checkpoint["meta"]["teacher_ckpt"] = _teacher_ckpt(runner)
        weights = checkpoint["state_dict"]
        all_tensors, all_bytes = len(weights), _size(weights)
        for state_dict in (weights, checkpoint.get("ema_state_dict", {})):  # the average of weights has a teacher, too
            drop_teacher(state_dict)
        if not self._has_told:
            self._has_told = True
            runner.logger.info(
                f"Checkpoints leave the teacher out: {all_tensors - len(weights)} of {all_tensors} tensors, "
                f"{(all_bytes - _size(weights)) / 1e6:.1f} of {all_bytes / 1e6:.1f} MB of weights."
            )

    def after_load_checkpoint(self, runner, checkpoint: dict[str, Any]) -> None:
        """Puts the algorithm's own teacher into a checkpoint, so that loading it changes nothing in the teacher."""
        super().after_load_checkpoint(runner, checkpoint)
        loaded = Checkpoint(checkpoint)
        teacher = getattr(unwrapped(runner.model), "teacher", None)
        if teacher is None or (loaded.holds("teacher") and not self._restores_teacher(runner)):
            return
        loaded.keep_teacher(teacher)
        saved, now = loaded.meta.get("teacher_ckpt"), _teacher_ckpt(runner)
        if saved and now and saved != now:
            runner.logger.warning(f"The checkpoint was trained under the teacher {saved}; this run's is {now}.")

    @staticmethod
    def _restores_teacher(runner) -> bool:
        """Returns whether the teacher is frozen and has a checkpoint of its own."""
        frozen = not getattr(unwrapped(runner.model), "teacher_trainable", True)
        return frozen and bool(_teacher_ckpt(runner))


def _teacher_ckpt(runner) -> str | None:
    return runner.cfg.get("model", {}).get("teacher_ckpt")  # a runner may have been built without a configuration


def _size(state_dict: dict[str, Any]) -> int:
    """Returns the bytes of a state dict's tensors."""
    return sum(value.numel() * value.element_size() for value in state_dict.values())

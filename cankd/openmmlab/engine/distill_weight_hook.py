"""A schedule of the weight of all distillation losses."""

from __future__ import annotations

import math

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cankd.openmmlab.engine.runner import unwrapped


@HOOKS.register_module()
class DistillWeightHook(Hook):
    """Multiplies all distillation losses by a weight that depends on the iteration alone, so that it resumes exactly.

    With i the number of iterations that are done:

        weight * min(1, i / warmup)                         from the start on
        ... * (1 + cos(pi (i - begin) / (end - begin))) / 2  between begin and end, with decay="cosine"

    From ``end`` on the distillation is stopped, as ``StopDistillHook`` stops it: the teacher does not run any more. The
    logged losses are the weighted ones, and the weight is logged as ``distill_weight``, 0 once the distillation is
    stopped.

    Args:
        weight: the largest weight, which multiplies each loss's own. Defaults to 1.
        warmup: length of the linear warm-up from zero. Defaults to 0, no warm-up.
        decay: None (default), or ``cosine``, which ends at zero.
        begin: where the decay begins. Defaults to the end of the warm-up.
        end: where the decay ends. Defaults to the end of the training.
        by_epoch: whether ``warmup``, ``begin`` and ``end`` count epochs. Defaults to False, iterations.

    Raises:
        ValueError: for another ``decay``, a negative number, an ``end`` that is not behind ``begin``, and before
            training for an algorithm without ``distill_weight``.
    """

    def __init__(
        self,
        weight: float = 1.0,
        warmup: int = 0,
        decay: str | None = None,
        begin: int | None = None,
        end: int | None = None,
        by_epoch: bool = False,
    ) -> None:
        if decay not in (None, "cosine"):
            raise ValueError(f"DistillWeightHook: got decay={decay!r}, expected None or 'cosine'. Correct it.")
        if decay is None and (begin, end) != (None, None):
            raise ValueError("DistillWeightHook: got begin or end without a decay. Set decay='cosine', or remove them.")
        if min(weight, warmup, begin or 0) < 0:
            raise ValueError(
                f"DistillWeightHook: got weight={weight}, warmup={warmup}, begin={begin}, expected none below 0."
            )
        self.weight = weight
        self.warmup = warmup
        self.decay = decay
        self.begin = warmup if begin is None else begin
        self.end = end
        self.by_epoch = by_epoch
        self._check_end(end)

    def _check_end(self, end: float | None) -> None:
        if self.decay and end is not None and end <= self.begin:
            raise ValueError(
                f"DistillWeightHook: got end={end} and begin={self.begin}, expected an end behind it. Correct one."
            )

    def weight_at(self, iteration: int, max_iters: int, epoch_length: int = 1) -> float:
        """Returns the weight of an iteration.

        Args:
            iteration: number of iterations that are done.
            max_iters: iterations of the whole training.
            epoch_length: iterations of an epoch.
        """
        unit = epoch_length if self.by_epoch else 1
        end = max_iters / unit if self.end is None else self.end
        now = iteration / unit
        weight = self.weight * min(1.0, now / self.warmup) if self.warmup else self.weight
        if self.decay:
            passed = min(max((now - self.begin) / (end - self.begin), 0.0), 1.0)
            weight *= (1 + math.cos(math.pi * passed)) / 2
        return weight

    def before_train(self, runner) -> None:
        """Refuses an algorithm that has no weight, and a decay that begins behind the end of the training."""
        algorithm = unwrapped(runner.model)
        if not hasattr(algorithm, "distill_weight"):
            raise ValueError(
                f"DistillWeightHook: got a {type(algorithm).__name__}, expected PartialTeacherDistill or CrossKD. "
                "Change model.type, or remove the hook."
            )
        if self.end is None:
            self._check_end(runner.max_iters / (len(runner.train_dataloader) if self.by_epoch else 1))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Sets and logs the weight of the iteration."""
        algorithm = unwrapped(runner.model)
        weight = self.weight_at(runner.iter, runner.max_iters, len(runner.train_dataloader))
        if self.decay and not weight and runner.iter and not algorithm.distillation_stopped:
            algorithm.distillation_stopped = True
            runner.logger.info(f"The distillation's weight is zero after {runner.iter} iterations; it is stopped.")
        algorithm.distill_weight = 0.0 if algorithm.distillation_stopped else weight
        runner.message_hub.update_scalar("train/distill_weight", algorithm.distill_weight)

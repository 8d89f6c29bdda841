"""A weight of the distillation that keeps its gradient in a chosen ratio to the task's."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cankd.openmmlab.engine.distill_monitor_hook import GradientShares, loss_scale
from cankd.openmmlab.engine.runner import unwrapped

_WEIGHT = "gradient_ratio_weight"  # key in the message hub, which checkpoints contain
LARGEST_CHANGE = 10.0


@HOOKS.register_module()
class GradientRatioHook(Hook):
    """Adapts the weight of all distillation losses so that their gradient is ``ratio`` times the task's.

    D is the gradient of all distillation losses together and T that of the task at the student's maps that the losses
    read (for CrossKD also the outputs of the neck), with 2-norms over all these maps and all processes. Every
    ``interval`` iterations |D| / |T| is measured (:class:`~cankd.openmmlab.engine.distill_monitor_hook.GradientShares`,
    one more backward pass from the distillation losses to the maps), and from the next step on the weight is

        weight <- weight * (ratio / (|D| / |T|)) ** (1 - momentum)

    with a factor between 1 / 10 and 10. A step without a finite ratio above 0 leaves the weight as it is, which begins
    at 1. The weight multiplies each loss's own and that of ``DistillWeightHook``, whose warm-up and decay scale the
    ratio. It is the same in all processes, is kept in checkpoints for a run that resumes, and is logged as
    ``distill_ratio/weight`` beside the measured ``distill_ratio/measured``; both are 0 once the distillation is
    stopped. Nothing else in a step changes.

    The idea is that of the gradient-guided adaptive modulation of RT-DETRv4 (arXiv 2510.25257), which adapts its weight
    once an epoch by the share of one encoder layer in the norms of the parameters' gradients.

    Args:
        ratio: wanted |D| / |T|. Defaults to 1: both count alike.
        interval: iterations from one measurement to the next. Defaults to 20.
        momentum: part of the logarithm of the weight that a measurement keeps, from 0 to 1. With 1 the hook measures
            and logs only. Defaults to 0.5.

    Raises:
        ValueError: for a number out of its range, and before training for an algorithm without ``ratio_weight`` or
            without the student's own losses.
    """

    def __init__(self, ratio: float = 1.0, interval: int = 20, momentum: float = 0.5) -> None:
        if not (0 < ratio < math.inf and interval >= 1 and 0 <= momentum <= 1):
            raise ValueError(
                f"GradientRatioHook: got ratio={ratio}, interval={interval}, momentum={momentum}, expected a ratio "
                "above 0, an interval of at least 1 and a momentum from 0 to 1. Correct it."
            )
        self.ratio = ratio
        self.interval = interval
        self.momentum = momentum
        self._measuring: GradientShares | None = None

    def before_train(self, runner) -> None:
        """Refuses an algorithm whose losses cannot be weighed, or that has none of the student's own."""
        algorithm = unwrapped(runner.model)
        if not hasattr(algorithm, "ratio_weight"):
            raise ValueError(
                f"GradientRatioHook: got a {type(algorithm).__name__}, expected PartialTeacherDistill or CrossKD. "
                "Change model.type, or remove the hook."
            )
        if not algorithm.calculate_student_loss:
            raise ValueError(
                "GradientRatioHook: got calculate_student_loss=False, expected True: without the student's own losses "
                "there is no ratio. Leave it out, or remove the hook."
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Sets the weight, and starts a measurement."""
        algorithm = unwrapped(runner.model)
        algorithm.ratio_weight = runner.message_hub.get_info(_WEIGHT, 1.0)
        if runner.iter % self.interval == 0:
            self._measuring = GradientShares(algorithm, loss_scale(runner.optim_wrapper), through=True)

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Adapts the weight by what was measured, and logs both."""
        algorithm, hub = unwrapped(runner.model), runner.message_hub
        if self._measuring is not None:
            self._measuring.finish()
            squares = torch.tensor(self._measuring.squares(), dtype=torch.float64)
            self._measuring = None
            all_reduce(squares)
            measured = math.sqrt(squares[0] / squares[1])
            hub.update_scalar("train/distill_ratio/measured", measured)
            if 0 < measured < math.inf:
                change = (self.ratio * algorithm.distill_weight / measured) ** (1 - self.momentum)
                change = min(max(change, 1 / LARGEST_CHANGE), LARGEST_CHANGE)
                hub.update_info(_WEIGHT, algorithm.ratio_weight * change)
        stopped = algorithm.distillation_stopped
        if stopped:
            hub.update_scalar("train/distill_ratio/measured", 0.0)
        hub.update_scalar("train/distill_ratio/weight", 0.0 if stopped else algorithm.ratio_weight)

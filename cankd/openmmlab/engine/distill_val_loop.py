"""Validates a student and, once for a run, its teacher."""

from __future__ import annotations

from typing import Any, Callable

from mmengine.registry import LOOPS
from mmrazor.engine.runner import SingleTeacherDistillValLoop

from cankd.openmmlab.engine.runner import unwrapped


@LOOPS.register_module()
class DistillValLoop(SingleTeacherDistillValLoop):
    """Validates the student; the teacher, which never changes, is evaluated at the first validation only.

    The student's metrics keep their names and come first, so that ``save_best`` and
    learning rate schedules follow them. The teacher's are logged beside them at every
    validation as ``teacher.<name>``, so that curves show its score as a level line. They are saved in
    the run's checkpoints, for a run that resumes with the same ``teacher_ckpt``.

    mmrazor's loop evaluates the teacher at each validation, and calls ``before_val_epoch`` twice,
    which makes an exponential moving average swap its weights back before the run goes on.

    The teacher is evaluated with the student's data preprocessor, as there; with the algorithm's
    ``teacher_preprocess=True`` it is evaluated with its own.

    Args:
        runner: runner of the training.
        dataloader: data loader of the validation data, or its configuration.
        evaluator: evaluator of the metrics, or its configuration.
        fp16: whether validation runs in half precision. Defaults to False.
        teacher_metrics: the teacher's metrics by name if they are known, as
            ``{'coco/bbox_mAP': 0.389}``; an empty dict leaves the teacher out. Defaults to
            None: it is evaluated.

    Raises:
        TypeError: if ``teacher_metrics`` is no dict.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        fp16: bool = False,
        teacher_metrics: dict[str, float] | None = None,
    ) -> None:
        algorithm = unwrapped(runner.model)
        own = algorithm.teacher.data_preprocessor
        super().__init__(runner, dataloader, evaluator, fp16)  # gives the teacher the student's data preprocessor
        if getattr(algorithm, "teacher_images", None) is not None:
            algorithm.teacher.data_preprocessor = own
        if not isinstance(teacher_metrics, (dict, type(None))):
            raise TypeError(
                f"DistillValLoop: got teacher_metrics={teacher_metrics!r}, expected a dict of name -> value, or None. "
                "Set it in the configuration file."
            )
        self.teacher_metrics = teacher_metrics

    def run(self) -> dict[str, float]:
        """Runs one validation.

        Returns:
            Name -> value: the student's metrics, then the teacher's under ``teacher.``.
        """
        self.runner.call_hook("before_val")
        self.runner.call_hook("before_val_epoch")
        metrics = self._evaluate(self.run_iter)
        if metrics:  # none if there was nothing to evaluate: then hooks must not see the teacher's alone
            metrics.update({f"teacher.{name}": value for name, value in self._evaluate_teacher_once().items()})
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        self.runner.call_hook("after_val")
        return metrics

    def _evaluate(self, run_iter: Callable[[int, Any], None]) -> dict[str, float]:
        self.runner.model.eval()
        for idx, data_batch in enumerate(self.dataloader):
            run_iter(idx, data_batch)
        return self.evaluator.evaluate(len(self.dataloader.dataset))

    def _evaluate_teacher_once(self) -> dict[str, float]:
        if self.teacher_metrics is None:
            hub, teacher_ckpt = self.runner.message_hub, self.runner.cfg.get("model", {}).get("teacher_ckpt")
            known = hub.runtime_info.get("teacher_metrics")
            if not known or known["teacher_ckpt"] != teacher_ckpt:
                self.runner.logger.info("Evaluating the teacher, once for this run.")
                known = {"teacher_ckpt": teacher_ckpt, "metrics": self._evaluate(self.run_iter_teacher)}
                hub.update_info("teacher_metrics", known)
            self.teacher_metrics = known["metrics"]
        return self.teacher_metrics

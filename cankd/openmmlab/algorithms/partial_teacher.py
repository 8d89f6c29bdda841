"""Distillation whose teacher stops once all records that the losses read are made."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any, ContextManager, Sequence

import torch
from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn
from mmengine.utils import apply_to
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from mmrazor.models.task_modules.recorder.param_recorder import ParameterRecorder
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from cankd.openmmlab.algorithms.teacher_distill import TeacherDistill, compute_losses
from cankd.openmmlab.recording import fit_teacher_records, release_records, watch_records

TEACHER_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class _AllRecorded(BaseException):
    """Ends the teacher's forward pass. No ``Exception``, so that no model catches it."""


@MODELS.register_module()
class PartialTeacherDistill(TeacherDistill):
    """``SingleTeacherDistill`` whose frozen teacher stops when the last record that is needed was made.

    The teacher's forward pass ends as soon as every teacher recorder holds the records that
    ``loss_forward_mappings`` reads (their ``record_idx``); its head, its assigners and its
    losses do not run if nothing reads from them. The distillation losses are those of the full
    teacher, bit for bit, unless the part left out would have drawn random numbers that the
    student's step draws later, or would have changed a record in place. That holds for any
    mmdet, mmseg or mmpretrain teacher and for module, method and function recorders of inputs
    and outputs. Parameter recorders need no forward pass. The whole teacher runs if a
    ``record_idx`` counts from the end, if there are deliveries (which hand values of the teacher
    to the student), or for a recorder of another kind that does not append its records
    to its buffer. Once a hook has stopped the distillation the teacher does not run at all,
    unless there are deliveries.

    The records are released once the losses are computed, so that no feature map outlives its
    step.

    The options below make the teacher cheaper. All are off by default because they change its
    outputs, if only by rounding; docs/performance.md says by how much.

    Args:
        distiller: recorders, connectors and losses.
        teacher: teacher, or its configuration.
        teacher_ckpt: path or URL of the teacher's weights. Defaults to None.
        teacher_eval: whether the whole teacher is in eval mode. mmrazor leaves its dropout and
            stochastic depth active, so that the target of a Swin teacher is noisy. Models whose
            forward pass for losses needs training mode (DINO's decoder) cannot have it, nor can those
            whose backbone returns several maps in training alone (PIDNet, DDRNet).
        teacher_dtype: ``bfloat16`` or ``float16``: the teacher runs under autocast of that
            type. Its records become float32 again. Defaults to None, as the student does.
        teacher_channels_last: whether the teacher's maps and weights lie channels last.
        teacher_fuse_conv_bn: whether the teacher's batch norms are folded into the convolutions
            before them. Needs batch norms in eval mode, and memory for those convolutions again.
        teacher_compile: whether the teacher's parts are compiled: the largest modules that hold
            no recorded module inside. A dict gives ``torch.compile`` arguments. For module
            recorders.
        **kwargs: further arguments of ``SingleTeacherDistill``, of which ``teacher_trainable`` must stay False, and
            ``teacher_preprocess``: whether the teacher gets the images in its own normalisation, padding value and
            size divisor. Defaults to False. docs/training.md explains it.

    Raises:
        ValueError: if an option does not fit the others, or if no tensor of ``teacher_ckpt`` fits the teacher.
    """

    def __init__(
        self,
        distiller: dict[str, Any],
        teacher: nn.Module | dict[str, Any],
        teacher_ckpt: str | None = None,
        *,
        teacher_eval: bool = False,
        teacher_dtype: str | None = None,
        teacher_channels_last: bool = False,
        teacher_fuse_conv_bn: bool = False,
        teacher_compile: bool | dict[str, Any] = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(distiller, teacher, teacher_ckpt, **kwargs)
        self.teacher_eval = teacher_eval
        self.teacher_dtype = teacher_dtype
        self.teacher_channels_last = teacher_channels_last
        self.teacher_fuse_conv_bn = teacher_fuse_conv_bn
        self.teacher_compile = teacher_compile
        self._check_options()
        self._running_teacher: tuple[nn.Module, ...] = ()  # in a tuple it is no part of the algorithm's modules
        self.register_load_state_dict_post_hook(_drop_running_teacher)
        # With deliveries the whole teacher runs: the student takes what it leaves there.
        self._has_deliveries = bool(self.distiller.deliveries.deliveries)
        self._needed = self._count_needed_records()
        for recorder in self.distiller.teacher_recorders.recorders.values():
            if not isinstance(recorder, ParameterRecorder):
                watch_records(recorder, self._stop_if_recorded)

    def _check_options(self) -> None:
        recorders = self.distiller.teacher_recorders.recorders
        if self.teacher_trainable:
            raise ValueError(
                "PartialTeacherDistill: got teacher_trainable=True, expected False: a teacher that trains needs its "
                "losses. Use type='SingleTeacherDistill'."
            )
        if self.teacher_dtype is not None and self.teacher_dtype not in TEACHER_DTYPES:
            raise ValueError(
                f"teacher_dtype: got {self.teacher_dtype!r}, expected None or one of {', '.join(TEACHER_DTYPES)}."
            )
        if self.teacher_fuse_conv_bn and not (self.teacher_eval or self.teacher_norm_eval):
            raise ValueError(
                "teacher_fuse_conv_bn: got teacher_norm_eval=False, expected True: only the running statistics can be "
                "folded into a convolution. Leave one of the two out."
            )
        in_code = (ModuleOutputsRecorder, ParameterRecorder)
        unwatched = [name for name, recorder in recorders.items() if not isinstance(recorder, in_code)]
        if self.teacher_compile is not False and unwatched:
            raise ValueError(
                f"teacher_compile: got the teacher recorders {', '.join(unwatched)} of functions or methods, which "
                "compiled code does not call. Record modules instead, or leave the option out."
            )

    def _count_needed_records(self) -> dict[str, float]:
        """Returns for each recorder how many of its records the losses read; parameters need no forward pass."""
        needed: dict[str, float] = {}
        for mappings in self.distiller.loss_forward_mappings.values():
            for mapping in mappings.values():
                name = mapping["recorder"]
                if mapping["from_student"] or isinstance(self._teacher_recorder(name), ParameterRecorder):
                    continue
                index = mapping.get("record_idx", 0)
                needed[name] = max(index + 1 if index >= 0 else math.inf, needed.get(name, 0))
        return needed

    def _teacher_recorder(self, name: str) -> BaseRecorder:
        return self.distiller.teacher_recorders.get_recorder(name)

    def _stop_if_recorded(self) -> None:
        if not self._has_deliveries and all(
            len(self._teacher_recorder(name).data_buffer) >= count for name, count in self._needed.items()
        ):
            raise _AllRecorded

    def loss(self, batch_inputs: Tensor, data_samples: list[Any] | None = None) -> dict[str, Tensor]:
        """Computes the losses of the student and of the distillation.

        Args:
            batch_inputs: preprocessed images, (B, 3, H, W).
            data_samples: annotations of the images.

        Returns:
            Name -> loss; the student's own under ``student.``, the others under ``distill.``.

        Raises:
            RuntimeError: if a record that a loss reads was not made.
        """
        losses: dict[str, Tensor] = {}
        if self._has_deliveries or (self._needed and not self.distillation_stopped):
            self.run_teacher(batch_inputs, data_samples)
        self.distiller.set_deliveries_override(True)
        with self.distiller.student_recorders, self.distiller.deliveries:
            needs_gradient = self.calculate_student_loss or self.student_trainable
            with torch.set_grad_enabled(torch.is_grad_enabled() and needs_gradient):
                student_losses = self.student(batch_inputs, data_samples, mode="loss")
        if self.calculate_student_loss:
            losses.update(add_prefix(student_losses, "student"))
        if not self.distillation_stopped:
            losses.update(add_prefix(self.weighted(compute_losses(self.distiller)), "distill"))
        release_records(self.distiller)
        return losses

    def train(self, mode: bool = True) -> PartialTeacherDistill:
        """Sets the mode of student and distiller, and of the teacher unless ``teacher_eval`` keeps it in eval mode."""
        super().train(mode)
        if self.teacher_eval:
            self.teacher.eval()
        return self

    def run_teacher(self, batch_inputs: Tensor, data_samples: Sequence[Any] | None) -> None:
        """Runs the teacher, without gradients, until all that the losses read of it is recorded.

        Args:
            batch_inputs: preprocessed images, (B, 3, H, W).
            data_samples: annotations of the images.

        Raises:
            RuntimeError: if a record that a loss reads was not made.
        """
        if not self._running_teacher:
            self._running_teacher = (self._prepare_teacher(),)
        images, data_samples = self.teacher_batch(batch_inputs, data_samples)
        if self.teacher_channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        autocast: ContextManager = contextlib.nullcontext()
        if self.teacher_dtype:
            autocast = torch.autocast(images.device.type, dtype=TEACHER_DTYPES[self.teacher_dtype])
        self.distiller.set_deliveries_override(False)
        with self.distiller.teacher_recorders, self.distiller.deliveries, torch.no_grad(), autocast:
            with contextlib.suppress(_AllRecorded):
                self._running_teacher[0](images, data_samples, mode="loss")
        for name, count in self._needed.items():
            recorder = self._teacher_recorder(name)
            made = recorder.data_buffer
            if count != math.inf and len(made) < count:
                raise RuntimeError(
                    f"teacher recorder {name!r}: got {len(made)} records of {recorder.source}, expected {count}: the "
                    "teacher's forward pass for losses does not come by there as often. Change `source`, or "
                    "`record_idx` in loss_forward_mappings."
                )
            if self.teacher_dtype:
                made[:] = apply_to(list(made), self._is_narrow, Tensor.float)
        fit_teacher_records(self.distiller, images, batch_inputs)

    def _is_narrow(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype == TEACHER_DTYPES[self.teacher_dtype]  # type: ignore[index]

    def _prepare_teacher(self) -> nn.Module:
        """Returns the teacher, or a copy of it to which the options that change modules are applied.

        The copy shares the recorders and all weights that do not change. The teacher itself stays as
        loaded, for validation, checkpoints, the inheriting hook and averages of weights.
        """
        if not (self.teacher_fuse_conv_bn or self.teacher_channels_last or self.teacher_compile is not False):
            return self.teacher
        recorders = self.distiller.teacher_recorders.recorders.values()
        shared = (*self.teacher.parameters(), *self.teacher.buffers(), *recorders)
        teacher = copy.deepcopy(self.teacher, {id(part): part for part in shared})
        sources = {recorder.source for recorder in recorders if isinstance(recorder, ModuleOutputsRecorder)}
        if self.teacher_fuse_conv_bn:
            fuse_conv_bn(teacher).requires_grad_(False)
            for name in sources:
                before, after = self.teacher.get_submodule(name), teacher.get_submodule(name)
                if type(before) is not type(after) or any(
                    part is not whole for part, whole in zip(after.parameters(False), before.parameters(False))
                ):
                    raise ValueError(
                        f"teacher_fuse_conv_bn: the teacher recorder's source {name} is a convolution or batch norm "
                        "that is fused with its neighbour. Record the module around them, or leave the option out."
                    )
        if self.teacher_channels_last:
            teacher.to(memory_format=torch.channels_last)
        if self.teacher_compile is not False:
            _compile_around(
                teacher, sources, **(self.teacher_compile if isinstance(self.teacher_compile, dict) else {})
            )
        return teacher


def _drop_running_teacher(algorithm: PartialTeacherDistill, _: Any) -> None:
    """Drops the copy of the teacher, so that it is made again from the weights that were loaded."""
    algorithm._running_teacher = ()


def _compile_around(module: nn.Module, sources: set[str], **options: Any) -> None:
    """Compiles the largest modules inside that hold none of the sources, except as themselves."""
    for name, child in module.named_children():
        inside = {source[len(name) + 1 :] for source in sources if source.startswith(name + ".")}
        if inside or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            _compile_around(child, inside, **options)
        else:
            child.forward = torch.compile(child.forward, **options)  # type: ignore[method-assign]

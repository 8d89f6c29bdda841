"""The base of this package's distillation algorithms: safe loading of the teacher, clear errors of recorders."""

from __future__ import annotations

import logging
from typing import Any, Sequence

import torch
from mmengine.logging import print_log
from mmrazor.models.algorithms import SingleTeacherDistill
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from torch import Tensor, nn

from cankd.openmmlab.derivation import complete_distiller
from cankd.openmmlab.loading import load_teacher
from cankd.openmmlab.preprocessing import TeacherImages, normalise_differently
from cankd.openmmlab.recording import describe_records, no_such_source


def compute_losses(distiller: ConfigurableDistiller) -> dict[str, Tensor]:
    """Computes a distiller's losses from its records; an error names the loss and the mapping.

    Args:
        distiller: distiller whose recorders hold the records of student and teacher.

    Returns:
        Name -> loss.

    Raises:
        ValueError: if a record cannot be read or its connector fails, or if a loss fails.
    """
    try:
        return distiller.compute_distill_losses()
    except Exception:
        for name, mappings in distiller.loss_forward_mappings.items():
            inputs = {key: _read_record(distiller, f"{name}.{key}", record) for key, record in mappings.items()}
            try:
                with torch.no_grad():
                    distiller.distill_losses[name](**inputs)
            except Exception as error:
                raise ValueError(f"distill_losses.{name}: {error}{_advice(mappings, inputs)}") from error
        raise


def _advice(mappings: dict[str, dict[str, Any]], inputs: dict[str, Any]) -> str:
    """Returns what to change in the configuration if the first map of the student and of the teacher do not fit."""
    maps: list[Any] = [
        next((inputs[key] for key, record in mappings.items() if record["from_student"] is from_student), None)
        for from_student in (True, False)
    ]
    if not all(isinstance(feature, Tensor) for feature in maps):
        return " In loss_forward_mappings, `data_idx` picks one of several levels."
    if not all(feature.is_floating_point() and feature.dim() == 4 for feature in maps):
        return " The recorder's `source` names the module."
    (s_batch, s_channels, *s_size), (t_batch, t_channels, *t_size) = (feature.shape for feature in maps)
    if s_channels != t_channels:
        return (
            " In the configuration, add a connector to the student's side of the mapping: "
            f"dict(type='ConvModuleConnector', in_channel={s_channels}, out_channel={t_channels}, norm_cfg=None, "
            "act_cfg=None)."
        )
    if s_batch != t_batch:
        return " In loss_forward_mappings, `record_idx` picks one of several calls."
    if s_size != t_size:
        return " In loss_forward_mappings, `data_idx` picks the level."
    return ""


def _read_record(distiller: ConfigurableDistiller, mapping: str, record: dict[str, Any]) -> Any:
    side = "student" if record["from_student"] else "teacher"
    recorder = getattr(distiller, f"{side}_recorders").get_recorder(record["recorder"])
    try:
        return distiller.get_record(**record)
    except Exception as error:
        advice = " Give it larger images, or leave the level out." if "too small" in str(error) else ""
        chosen = "".join(f", {key}={record[key]!r}" for key in ("record_idx", "data_idx", "connector") if key in record)
        raise ValueError(
            f"loss_forward_mappings.{mapping} ({side} recorder {record['recorder']!r} of {recorder.source!r}{chosen}): "
            f"{error or type(error).__name__} The recorder holds {describe_records(recorder.data_buffer)}.{advice}"
        ) from error


class TeacherDistill(SingleTeacherDistill):
    """``SingleTeacherDistill`` that reads its teacher's checkpoint safely and names a recorder that is wrong.

    Args:
        distiller: recorders, connectors and losses; :func:`~cankd.openmmlab.derivation.complete_distiller` derives what
            it leaves out.
        teacher: teacher, or its configuration.
        teacher_ckpt: path or URL of the teacher's weights. Defaults to None.
        teacher_preprocess: whether the teacher gets the images as its own ``data_preprocessor`` makes them
            (:class:`~cankd.openmmlab.preprocessing.TeacherImages`): with its mean, standard deviation, order of
            channels, padding value and size divisor. Nothing changes where these are the student's. Maps of a
            batch that is padded further for the teacher are cropped to the student's extent. Defaults to False, as
            in mmrazor: the teacher gets the student's images.
        **kwargs: further arguments of ``SingleTeacherDistill``.

    Raises:
        ValueError: if a recorder names an unknown module, if no tensor of ``teacher_ckpt`` fits the teacher, or if
            ``teacher_preprocess`` does not understand a data preprocessor.
    """

    def __init__(
        self,
        distiller: dict[str, Any],
        teacher: nn.Module | dict[str, Any],
        teacher_ckpt: str | None = None,
        *,
        teacher_preprocess: bool = False,
        **kwargs: Any,
    ) -> None:
        distiller = complete_distiller(distiller, kwargs.get("architecture"), teacher)
        try:
            super().__init__(distiller, teacher, **kwargs)
        except AssertionError as error:
            for side, model in (("student", "architecture"), ("teacher", "teacher")):
                if hasattr(self, model):
                    self._check_sources(side, getattr(self, model), error)
            raise
        if teacher_ckpt:
            load_teacher(self.teacher, teacher_ckpt)
        self.distill_weight = 1.0  # set by DistillWeightHook
        self.ratio_weight = 1.0  # set by GradientRatioHook
        preprocessors = self.data_preprocessor, self.teacher.data_preprocessor
        self.teacher_images = TeacherImages(*preprocessors) if teacher_preprocess else None
        if not teacher_preprocess and normalise_differently(*preprocessors):
            print_log(
                "The teacher gets the student's images, which its own data_preprocessor would normalise differently. "
                "Set model.teacher_preprocess=True to give it its own normalisation.",
                logger="current",
                level=logging.WARNING,
            )

    def weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Multiplies distillation losses by the hooks' weights; values that are no losses by their names stay."""
        weight = self.distill_weight * self.ratio_weight
        if weight == 1:
            return losses
        return {name: value * weight if "loss" in name else value for name, value in losses.items()}

    def teacher_batch(
        self, batch_inputs: Tensor, data_samples: Sequence[Any] | None
    ) -> tuple[Tensor, Sequence[Any] | None]:
        """Returns the batch that the teacher gets.

        Args:
            batch_inputs: images from the student's data preprocessor, (B, 3, H, W).
            data_samples: annotations of the images.

        Returns:
            Images and data samples, those that came in unless ``teacher_preprocess`` changes them.

        Raises:
            ValueError: if the teacher's batch is larger than the student's and there are deliveries.
        """
        if self.teacher_images is None:
            return batch_inputs, data_samples
        images, samples = self.teacher_images(batch_inputs, data_samples)
        if images.shape != batch_inputs.shape and self.distiller.deliveries.deliveries:
            raise ValueError(
                f"teacher_preprocess: got images of {tuple(batch_inputs.shape[2:])} and distill_deliveries, expected "
                f"multiples of {self.teacher_images.divisor}, the teacher's size divisor: what is delivered cannot be "
                "cropped. Give the student's data_preprocessor this divisor, or the teacher's its own."
            )
        return images, samples

    def _check_sources(self, side: str, model: nn.Module, error: AssertionError) -> None:
        modules = [name for name, _ in model.named_modules()]
        for name, recorder in getattr(self.distiller, f"{side}_recorders").recorders.items():
            if isinstance(recorder, ModuleOutputsRecorder) and recorder.source not in modules:
                raise ValueError(no_such_source(side, name, recorder.source, modules)) from error

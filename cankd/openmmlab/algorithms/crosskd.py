"""CrossKD: cross-head distillation of dense detectors (CVPR 2024)."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import ATSSHead, FCOSHead, GFLHead, RetinaHead
from mmdet.models.losses.iou_loss import giou_loss, iou_loss
from mmdet.utils import reduce_mean
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from cankd.functional import widen
from cankd.openmmlab.algorithms.teacher_distill import TeacherDistill, compute_losses
from cankd.openmmlab.preprocessing import crop_maps
from cankd.openmmlab.recording import fit_teacher_records, recorded_calls, recorded_inputs, release_records

TOWERS = ("cls_convs", "reg_convs")
Head = Any  # one of the supported heads, whose attributes nn.Module does not declare


def align(student: Tensor, teacher: Tensor, eps: float = 1e-6) -> Tensor:
    """Gives the student's map the teacher's mean and standard deviation in each channel.

    Statistics are over the batch and all positions, in float32 at least, the deviation unbiased.
    The gradient of a constant channel is multiplied by 1 / eps: in float16, where that is out of range, it is
    limited to the largest finite number.

    Args:
        student: map of the student, (B, C, H, W).
        teacher: map of the teacher, (B, C, H, W).
        eps: number added to the student's deviation.

    Returns:
        The aligned map, (B, C, H, W), in float32 at least.
    """
    limit = torch.finfo(student.dtype).max
    student, teacher = widen(student, teacher)
    if student.requires_grad and limit < torch.finfo(student.dtype).max:
        student.register_hook(lambda gradient: gradient.where(gradient.isinf(), gradient.clamp(-limit, limit)))
    several = student[:, 0].numel() > 1
    s_std, s_mean = torch.std_mean(student, (0, 2, 3), unbiased=several, keepdim=True)
    t_std, t_mean = torch.std_mean(teacher, (0, 2, 3), unbiased=several, keepdim=True)
    return (student - s_mean) / (s_std + eps) * t_std + t_mean


def quality_focal_loss(predicted: Tensor, target: Tensor, weights: Tensor, beta: float = 1.0) -> Tensor:
    """Computes |sigmoid(p) - sigmoid(t)|^beta BCE(p, sigmoid(t)), summed over classes and positions.

    Args:
        predicted: logits p, (N, classes).
        target: the teacher's logits t, (N, classes).
        weights: weights of the positions, (N,).
        beta: exponent of the difference.

    Returns:
        A scalar.
    """
    target = target.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(predicted, target, reduction="none")
    return ((predicted.sigmoid() - target).abs() ** beta * entropy).sum(1) @ weights


class Targets(NamedTuple):
    """Targets that the student's head was assigned, one tensor for each level, positions image by image.

    ``priors`` are anchors (N, 4) or points (N, 2), ``weights`` the label weights (N,),
    ``positives`` whether there is an object (N,). ``average`` is the average factor of the student's own losses.
    """

    priors: list[Tensor]
    weights: list[Tensor]
    positives: list[Tensor]
    average: Tensor


def _positives(head: Head, labels: Sequence[Tensor]) -> list[Tensor]:
    return [((level >= 0) & (level < head.num_classes)).flatten() for level in labels]


def _retina_targets(head: Head, arguments: tuple, result: tuple) -> Targets:
    labels, weights, _, _, average = result[:5]
    anchors = [torch.cat(level) for level in zip(*arguments[0])]
    # RetinaNet alone does not average its factor over the processes.
    return Targets(anchors, [w.flatten() for w in weights], _positives(head, labels), weights[0].new_tensor(average))


def _atss_targets(head: Head, arguments: tuple, result: tuple) -> Targets:
    anchors, labels, weights, _, _, average = result
    return Targets(
        [a.flatten(0, 1) for a in anchors],
        [w.flatten() for w in weights],
        _positives(head, labels),
        reduce_mean(weights[0].new_tensor(average)),
    )


def _fcos_targets(head: Head, arguments: tuple, result: tuple) -> Targets:
    labels, box_targets = result
    positives = _positives(head, labels)
    centerness = sum(head.centerness_target(boxes[chosen]).sum() for boxes, chosen in zip(box_targets, positives))
    points = [level.repeat(len(chosen) // len(level), 1) for level, chosen in zip(arguments[0], positives)]
    weights = [torch.ones_like(chosen, dtype=level.dtype) for chosen, level in zip(positives, points)]
    return Targets(points, weights, positives, reduce_mean(centerness).clamp(min=1))


def _divergence(head: Head, predicted: Tensor, target: Tensor, priors: Tensor) -> Tensor:
    """Computes the KL divergence of GFL's distributions, averaged over the four sides."""
    predicted, target = (part.view(-1, 4, head.reg_max + 1).log_softmax(2) for part in (predicted, target))
    return F.kl_div(predicted, target, reduction="none", log_target=True).sum(2).mean(1)


def _box_distance(
    head: Head, predicted: Tensor, target: Tensor, priors: Tensor, distance: Callable[..., Tensor]
) -> Tensor:
    """Computes ``iou_loss`` or ``giou_loss`` of the decoded boxes."""
    predicted, target = (head.bbox_coder.decode(priors, part) for part in (predicted, target))
    return distance(predicted, target, reduction="none", eps=1e-6)


@dataclass(frozen=True)
class HeadAdapter:
    """The properties of a kind of head that CrossKD uses.

    Attributes:
        start: published number of the student's own convolutions, i.
        weights: published weight of each loss.
        targets: function of the head and of the arguments and the result of its ``get_targets``, which returns
            :class:`Targets`.
        regression: function of the head, predicted and target outputs (N, D) and priors, which returns the
            regression losses (N,).
        by_quality: whether the regression loss is divided by its weights' sum, not the average factor.
    """

    start: int
    weights: Mapping[str, float]
    targets: Callable[[Head, tuple, tuple], Targets]
    regression: Callable[[Head, Tensor, Tensor, Tensor], Tensor]
    by_quality: bool = False


_GIOU, _IOU = (functools.partial(_box_distance, distance=distance) for distance in (giou_loss, iou_loss))
ADAPTERS: dict[type, HeadAdapter] = {
    GFLHead: HeadAdapter(3, {"cls": 1.0, "reg": 4.0}, _atss_targets, _divergence, by_quality=True),
    RetinaHead: HeadAdapter(3, {"cls": 1.0, "reg": 1.0}, _retina_targets, _GIOU),
    FCOSHead: HeadAdapter(2, {"cls": 0.4, "reg": 0.75}, _fcos_targets, _IOU),
    ATSSHead: HeadAdapter(3, {"cls": 1.0, "reg": 1.0, "centerness": 1.0}, _atss_targets, _GIOU),
}


def check_heads(student: Any, teacher: Any, start: int | None = None) -> tuple[HeadAdapter, int]:
    """Checks that the teacher's head can continue where the student's stops.

    Args:
        student: detector with a ``bbox_head``.
        teacher: detector with a ``bbox_head``.
        start: i, the number of the student's own convolutions in each tower. Defaults to the published one, in towers
            that are too short for it to all but one.

    Returns:
        What CrossKD uses of the heads, and i.

    Raises:
        TypeError: for a head that is not supported.
        ValueError: if the heads do not fit.
    """
    heads: list[Any] = [getattr(model, "bbox_head", None) for model in (student, teacher)]
    own, theirs = heads
    for side, head in zip(("student", "teacher"), heads):
        if type(head) not in ADAPTERS:
            supported = ", ".join(cls.__name__ for cls in ADAPTERS)
            raise TypeError(
                f"CrossKD: got a {side} whose bbox_head is {type(head).__name__}, expected one of {supported}. "
                "Choose another detector or another method."
            )
    if type(own) is not type(theirs):
        raise TypeError(
            f"CrossKD: got a {type(own).__name__} under a {type(theirs).__name__}, expected heads of one class: the "
            "teacher's goes on where the student's stops."
        )
    adapter = ADAPTERS[type(own)]
    convolutions = min(head.stacked_convs for head in heads)
    if start is None:
        start = adapter.start if adapter.start <= convolutions else max(convolutions - 1, 0)
    if not isinstance(start, int) or not 0 <= start <= convolutions:
        raise ValueError(f"start: got {start!r}, expected 0 to {convolutions}, the towers' convolutions.")
    for name, values in {
        "channels at the place where the teacher's head is entered": [
            head.feat_channels if start else head.in_channels for head in heads
        ],
        "num_base_priors": [head.num_base_priors for head in heads],
        "classes": [head.cls_out_channels for head in heads],
        "strides": [head.prior_generator.strides for head in heads],
    }.items():
        if values[0] != values[1]:
            raise ValueError(
                f"CrossKD: got {name} {values[0]} (student) and {values[1]} (teacher), expected equal ones. "
                "Change the student's bbox_head, or choose another teacher."
            )
    return adapter, start


class _Entry(nn.Module):
    """Replaces a tower's first convolutions and returns one map after the other."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.maps = iter(maps)

    def forward(self, _: Tensor) -> Tensor:
        return next(self.maps)


def _entered_at(head: Head, start: int, maps: Mapping[str, Sequence[Tensor]]) -> Head:
    """Returns a copy of a head that shares its parameters and whose towers continue from maps behind ``start``."""
    entered = copy.copy(head)
    # Private, because torch has no public copy of a module that shares its parts but for some.
    entered._modules = dict(head._modules)
    for tower in TOWERS:
        entered._modules[tower] = nn.ModuleList([_Entry(maps[tower]), *getattr(head, tower)[start:]])
    return entered


def _entrances(head: Head, start: int) -> dict[str, nn.Module]:
    """Returns, for each tower, the module whose input is the map behind convolution ``start``, before activation."""
    towers = {tower: getattr(head, tower) for tower in TOWERS}
    return {tower: convs[start - 1].activate if start else convs[0] for tower, convs in towers.items()}


@MODELS.register_module()
class CrossKD(TeacherDistill):
    """Cross-head distillation: the teacher's head continues from intermediate maps of the student's head.

    (CrossKD, arXiv 2306.11369.) In both towers of the head the student's map behind convolution i,
    before its activation, gets the teacher's statistics (:func:`align`), is activated and goes
    through the rest of the teacher's frozen head. That cross-head prediction is compared with the
    teacher's own, so that only the ground truth supervises the student's own predictions:

        loss_cls:        quality focal loss / average factor, beta = 1 (:func:`quality_focal_loss`)
        loss_reg:        GFL: sum w KL / sum w; others: sum w (G)IoU loss of decoded boxes / average factor,
                         with w the teacher's largest class score, 0 where the label weight is 0
        loss_centerness: ATSS: binary cross entropy where there is an object / average factor

    The average factor is that of the student's own losses: the number of positives, averaged over the processes (GFL,
    ATSS) or of this process (RetinaNet), or the sum of the positives' centerness, averaged over the processes
    and at least 1 (FCOS, as published for both of its losses). The heads stay mmdet's; the student's
    own losses are those of plain training, bit for bit. The teacher is in eval mode.

    Losses of a distiller are added, so that it composes with any feature loss: CrossKD with PKD or
    CanKD is ``type="CrossKD"`` with their distiller, CrossKD alone has an empty one,
    ``distiller=dict(type="ConfigurableDistiller")``.

    Args:
        distiller: configuration of the feature losses; may be empty.
        teacher: configuration of the teacher; its head must be of the same class as the student's.
        teacher_ckpt: path or URL of the teacher's weights. Defaults to None.
        start: i, the number of the student's own convolutions in each tower; 0 starts with the
            neck's maps. Defaults to the published one: 3, for FCOS 2; in towers that are too short for it to all but
            one.
        cls_weight: weight of ``loss_cls``. Defaults to the published one: 1, for FCOS 0.4.
        reg_weight: weight of ``loss_reg``. Defaults to the published one: 1, for GFL 4, for FCOS 0.75.
        centerness_weight: weight of ``loss_centerness``. Defaults to the published one, 1.
        **kwargs: further arguments of ``SingleTeacherDistill``, and ``teacher_preprocess``: whether the teacher gets
            the images in its own normalisation, padding value and size divisor. Defaults to False. docs/training.md
            explains it.

    Raises:
        TypeError: for a head that is not supported.
        ValueError: if the heads of teacher and student do not fit, if no tensor of ``teacher_ckpt``
            fits the teacher, or for a trainable teacher.
    """

    def __init__(
        self,
        distiller: dict,
        teacher: nn.Module | dict,
        teacher_ckpt: str | None = None,
        *,
        start: int | None = None,
        cls_weight: float | None = None,
        reg_weight: float | None = None,
        centerness_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(distiller, teacher, teacher_ckpt, **kwargs)
        if self.teacher_trainable:
            raise ValueError(
                "CrossKD: got teacher_trainable=True, expected False: its head must stay frozen. Leave it out."
            )
        self.adapter, self.start = check_heads(self.student, self.teacher, start)
        given = {"cls": cls_weight, "reg": reg_weight, "centerness": centerness_weight}
        self.weights = {
            name: published if given[name] is None else given[name] for name, published in self.adapter.weights.items()
        }
        for head in (self.teacher.bbox_head, self.student.bbox_head) if self.start else ():
            for tower in TOWERS:
                # In place, it would change the recorded map.
                getattr(head, tower)[self.start - 1].activate.inplace = False

    def loss(self, batch_inputs: Tensor, data_samples: list[Any] | None = None) -> dict[str, Tensor]:
        """Computes the losses of the student, of the cross-head predictions and of the distiller.

        Args:
            batch_inputs: preprocessed images, (B, 3, H, W).
            data_samples: annotations of the images.

        Returns:
            Name -> loss, under ``student.``, ``crosskd.`` and ``distill.``.
        """
        losses: dict[str, Tensor] = {}
        student, teacher = self.student.bbox_head, self.teacher.bbox_head
        if not self.distillation_stopped or self.distiller.deliveries.deliveries:
            features, t_maps, expected = self._run_teacher(batch_inputs, data_samples)
        self.distiller.set_deliveries_override(True)
        with self.distiller.student_recorders, self.distiller.deliveries:
            with recorded_inputs(_entrances(student, self.start)) as s_maps:
                with recorded_calls(student, "get_targets") as calls:
                    student_losses = self.student(batch_inputs, data_samples, mode="loss")
        if self.calculate_student_loss:
            losses.update(add_prefix(student_losses, "student"))
        if not self.distillation_stopped:
            maps = {tower: self._aligned(tower, s_maps[tower], t_maps[tower]) for tower in TOWERS}
            crossed = _entered_at(teacher, self.start, maps)(features)
            targets = self.adapter.targets(student, *calls[0])
            losses.update(add_prefix(self.weighted(self._cross_losses(crossed, expected, targets)), "crosskd"))
            losses.update(add_prefix(self.weighted(compute_losses(self.distiller)), "distill"))
        release_records(self.distiller)
        return losses

    def _run_teacher(self, batch_inputs: Tensor, data_samples: list[Any] | None) -> tuple[Any, dict, tuple]:
        """Returns the teacher's features, the maps behind its towers' first convolutions, and its predictions."""
        self.distiller.set_deliveries_override(False)
        with torch.no_grad(), self.distiller.teacher_recorders, self.distiller.deliveries:
            images, _ = self.teacher_batch(batch_inputs, data_samples)
            features = self.teacher.extract_feat(images)
            with recorded_inputs(_entrances(self.teacher.bbox_head, self.start)) as t_maps:
                expected = self.teacher.bbox_head(features)
        if images.shape != batch_inputs.shape:
            t_maps, expected = crop_maps((t_maps, expected), images, batch_inputs)
        fit_teacher_records(self.distiller, images, batch_inputs)
        return features, t_maps, expected

    def train(self, mode: bool = True) -> CrossKD:
        """Sets the mode of student and distiller; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def _aligned(self, tower: str, student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
        maps = [align(*pair) for pair in zip(student, teacher)]
        if not self.start:
            return maps
        activate = getattr(self.teacher.bbox_head, tower)[self.start - 1].activate
        return [activate(level) for level in maps]

    def _cross_losses(self, crossed: tuple, expected: tuple, targets: Targets) -> dict[str, Tensor]:
        """Sums the losses of all levels; ``crossed`` and ``expected`` hold a list of levels for each kind of output."""
        head = self.teacher.bbox_head
        sums: dict[str, Any] = {name: 0 for name in self.weights}
        quality_sum: Any = 0
        for level, (priors, weights, positives) in enumerate(zip(*targets[:3])):
            (cls, reg, *rest), (t_cls, t_reg, *t_rest) = (
                [_positions(output[level], len(priors)) for output in outputs] for outputs in (crossed, expected)
            )
            classes = (-1, head.cls_out_channels)
            cls, t_cls = cls.reshape(classes), t_cls.reshape(classes)
            sums["cls"] = sums["cls"] + quality_focal_loss(cls, t_cls, weights)
            quality = t_cls.amax(1).sigmoid() * (weights != 0)
            sums["reg"] = sums["reg"] + self.adapter.regression(head, reg, t_reg, priors) @ quality
            quality_sum = quality_sum + quality.sum()
            if "centerness" in sums:
                centerness, t_centerness = (part[0].flatten()[positives] for part in (rest, t_rest))
                sums["centerness"] = sums["centerness"] + F.binary_cross_entropy_with_logits(
                    centerness, t_centerness.sigmoid(), reduction="sum"
                )
        averages = {name: targets.average for name in sums}
        if self.adapter.by_quality:
            averages["reg"] = quality_sum
        return {f"loss_{name}": self.weights[name] * sums[name] / averages[name] for name in sums}


def _positions(output: Tensor, count: int) -> Tensor:
    """Reshapes a level's output (B, A D, H, W) to one row for each prior, (N, D), in float32 at least."""
    output = output.to(torch.promote_types(output.dtype, torch.float32))
    return output.permute(0, 2, 3, 1).reshape(count, -1)

"""Measures how much of the gradient at the student's feature maps comes from the distillation."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmrazor.models.algorithms import SingleTeacherDistill
from torch import Tensor

from cankd.openmmlab.algorithms.crosskd import CrossKD
from cankd.openmmlab.engine.runner import unwrapped

CROSSKD = "crosskd"  # prefix of CrossKD's losses, which have no record: they reach the student through its neck


def loss_name(key: str) -> str | None:
    """Returns the name of the distillation loss that a key of an algorithm's losses belongs to.

    Args:
        key: for example ``distill.loss_fpn0``, ``distill.loss_fpn0.foreground`` or ``crosskd.loss_cls``.

    Returns:
        ``loss_fpn0``, ``crosskd``, or None for the student's own losses.
    """
    prefix, _, rest = key.partition(".")
    return rest.split(".")[0] if prefix == "distill" else CROSSKD if prefix == CROSSKD else None


def loss_scale(optim_wrapper: Any) -> float:
    """Returns the factor by which an optimizer wrapper multiplies the total loss for mixed precision, otherwise 1."""
    scaler = getattr(optim_wrapper, "loss_scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()


@dataclass
class _Part:
    """A loss value's gradients at maps, before the total loss scales it by ``factor``."""

    name: str
    gradients: dict[int, Tensor]  # by the id of the map
    factor: Any = 0.0


@dataclass
class _Map:
    """A student's map that losses read."""

    value: Tensor
    labels: dict[str, str] = field(default_factory=dict)  # name of a loss -> what its share is called


class GradientShares:
    """Measures each distillation loss's share of the gradient at the student's maps, in the next training step.

    At a map, a loss i contributes the gradient D_i to that of the total loss, G. The rest T = G - (D_1 + D_2 + ...) is
    the task's, and the share of i is ``|D_i| / (|T| + |D_1| + |D_2| + ...)``, with 2-norms. Shares do not depend on the
    scale of the total loss, such as that of mixed precision; a loss that the total loss leaves out has 0.

    The maps are those that the student's recorders hand to the losses, before any connector; for CrossKD the outputs of
    the student's neck. Measuring takes one more backward pass from the distillation losses to these maps. It adds
    nothing to the graph of the step, so that no other number changes.

    Args:
        algorithm: distillation algorithm, not wrapped.
        loss_scale: factor by which mixed precision multiplies the total loss; it keeps the gradients of half-precision
            maps from vanishing here as there. Defaults to 1.
        through: whether the gradient of a loss is followed to the maps that other losses read, too, so that T has no
            part of it where one map is computed from another. Needs a student that does not recompute its activations
            between them (``with_cp``). Defaults to False.
    """

    def __init__(self, algorithm: Any, loss_scale: float = 1.0, through: bool = False) -> None:
        self._distiller = algorithm.distiller
        self._loss_scale = loss_scale
        self._through = through
        self._maps: dict[int, _Map] = {}
        self._parts: list[_Part] = []
        self._shares: dict[str, Tensor] = {}
        self._squares: dict[int, Tensor] = {}  # of each map: (|D_1 + D_2 + ...|^2, |T|^2)
        self._handles = [
            self._distiller.distill_losses[name].register_forward_pre_hook(functools.partial(self._note_records, name))
            for name in self._distiller.loss_forward_mappings
        ]
        self._handles.append(algorithm.register_forward_hook(lambda module, inputs, losses: self._measure(losses)))
        if isinstance(algorithm, CrossKD):
            self._handles.append(
                algorithm.student.neck.register_forward_hook(
                    lambda module, inputs, maps: self._note(CROSSKD, list(maps))
                )
            )

    def finish(self) -> dict[str, float]:
        """Ends the measurement, after the step.

        Returns:
            Name -> share from 0 to 1. The name is the loss's; that of a loss which reads several maps has the map's
            number, as in ``crosskd.0``.
        """
        for handle in self._handles:
            handle.remove()
        return {name: float(share) for name, share in self._shares.items()}

    def squares(self) -> tuple[float, float]:
        """Returns the squared 2-norms of all distillation losses' gradient and of the task's, over all maps."""
        squares = list(self._squares.values())
        distilled, task = torch.stack(squares).sum(0).tolist() if squares else (0.0, 0.0)
        return distilled, task

    def _note_records(self, name: str, *_: Any) -> None:
        records = []
        for record in self._distiller.loss_forward_mappings[name].values():
            if record["from_student"]:
                recorder = self._distiller.student_recorders.get_recorder(record["recorder"])
                records.append(recorder.get_record_data(record.get("record_idx", 0), record.get("data_idx")))
        self._note(name, records)

    def _note(self, name: str, records: list[Any]) -> None:
        maps = [record for record in records if isinstance(record, Tensor) and record.requires_grad]
        for number, value in enumerate(maps):
            noted = self._maps.setdefault(id(value), _Map(value))
            noted.labels[name] = name if len(maps) == 1 else f"{name}.{number}"

    def _measure(self, losses: dict[str, Any]) -> None:
        for key, values in losses.items():
            name = loss_name(key)
            read = any(name in noted.labels for noted in self._maps.values())
            reached = {
                place: noted.value for place, noted in self._maps.items() if self._through or name in noted.labels
            }
            for value in values if isinstance(values, (list, tuple)) else [values]:
                if read and isinstance(value, Tensor) and value.requires_grad:
                    self._add_part(str(name), value, reached)
        for place, noted in self._maps.items():
            noted.value.register_hook(lambda total, place=place: self._compare(place, total))

    def _add_part(self, name: str, value: Tensor, reached: dict[int, Tensor]) -> None:
        with torch.autocast(value.device.type, enabled=False):
            wide = value.float()
            scale = torch.full_like(wide, self._loss_scale)
            found = torch.autograd.grad(wide, list(reached.values()), scale, retain_graph=True, allow_unused=True)
        part = _Part(name, {place: gradient for place, gradient in zip(reached, found) if gradient is not None})
        self._parts.append(part)

        def keep_factor(gradient: Tensor) -> None:
            part.factor = gradient.float().mean() / self._loss_scale

        value.register_hook(keep_factor)

    def _compare(self, place: int, total: Tensor) -> None:
        """Computes the shares at one map, when the gradient of the whole loss has arrived there.

        The backward pass of another measurement of the step may call this, too; the step's own comes last and counts.
        """
        labels = self._maps[place].labels
        zeros = torch.zeros_like(total, dtype=torch.float32)
        given = dict.fromkeys(labels, zeros)
        for part in self._parts:
            gradient = part.gradients.get(place)
            if gradient is not None:
                given[part.name] = given.get(part.name, zeros) + part.factor * gradient.float()
        distilled = sum(given.values(), zeros)
        task = total.float() - distilled
        self._squares[place] = torch.stack([distilled.norm(), task.norm()]).square()
        norms = {name: gradient.norm() for name, gradient in given.items()}
        everything = task.norm() + sum(norms.values())
        for name, label in labels.items():
            self._shares[label] = norms[name] / everything.clamp(min=torch.finfo(torch.float32).tiny)


@HOOKS.register_module()
class DistillMonitorHook(Hook):
    """Logs each distillation loss's share of the gradient at the student's maps, every ``interval`` iterations.

    The shares (:class:`GradientShares`) are logged in the log and by the visualizer, that of ``loss_fpn0`` as
    ``distill_share/fpn0``, and are 0 once the distillation is stopped. A share near 0 tells that a loss weighs nothing,
    one near 1 that the task weighs nothing. In a distillation every run of this package's runner has this hook;
    ``--cfg-options default_hooks.distill_monitor.interval=50`` sets the option.

    Args:
        interval: iterations from one measurement to the next. Defaults to 200.

    Raises:
        ValueError: for an interval below 1.
    """

    def __init__(self, interval: int = 200) -> None:
        if interval < 1:
            raise ValueError(f"DistillMonitorHook: got interval={interval}, expected at least 1. Correct it.")
        self.interval = interval
        self._logged: dict[str, float] = {}
        self._measuring: GradientShares | None = None

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Starts a measurement."""
        algorithm = unwrapped(runner.model)
        if self.every_n_train_iters(runner, self.interval) and isinstance(algorithm, SingleTeacherDistill):
            self._measuring = GradientShares(algorithm, loss_scale(runner.optim_wrapper))

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Logs what was measured."""
        if self._measuring is None:
            return
        self._logged = {**dict.fromkeys(self._logged, 0.0), **self._measuring.finish()}
        self._measuring = None
        for name, share in self._logged.items():
            # mmengine's log shows the mean of the last values of all that has `loss` in its name.
            label = name.replace("loss", "").strip("_") or "all"
            runner.message_hub.update_scalar(f"train/distill_share/{label}", share)

"""Takes a few training steps of a distillation and notes what the checks look at."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from cankd.openmmlab.configs import in_scope
from cankd.openmmlab.doctor.subject import Subject
from cankd.openmmlab.engine.distill_monitor_hook import GradientShares
from cankd.openmmlab.engine.run_checks import not_loaded, watch_missing

CAUTION = 0.01  # of the learning rate: a training warms up, and noise would not survive the whole one


class Seen(NamedTuple):
    """The record that an argument of a loss got, before any connector.

    ``data_idx`` is the map's number among several, ``made`` tells whether there is such a record, ``shape`` is empty if
    it is no tensor, and ``others`` are the shapes of all maps that the module returned in that call, by number.
    """

    argument: str
    from_student: bool
    source: str
    data_idx: int | None
    connector: str | None
    made: bool
    shape: tuple[int, ...]
    others: dict[int, tuple[int, ...]]


@dataclass
class Steps:
    """What some training steps showed.

    Attributes:
        seen: name of a distillation loss -> records that it got.
        failed: name of a distillation loss -> error of computing it.
        problem: error that ended the steps, or an empty string.
        losses: for each step, name of a loss -> value, as they are logged.
        shares: of the first step, see :class:`~cankd.openmmlab.engine.distill_monitor_hook.GradientShares`.
        moved: name of a parameter of the distiller -> first step, from 1, in which it had a gradient.
        without_gradient: names of trainable parameters that no step gave a gradient.
        left_out: names of the distiller's parameters that the optimizer does not have, or has with a rate of 0.
        teacher_changed: names of the teacher's tensors that a step changed.
        missing: names of the teacher's tensors that were not loaded; None if its checkpoint is not here.
        needed: those of them that the losses depend on.
        input_shape: shape of the batch, (B, 3, H, W).
        loss_bytes: what the distillation losses keep for the backward pass.
        step_bytes: what the whole step keeps for it.
        state_bytes: weights, gradients and the optimizer's state.
    """

    seen: dict[str, list[Seen]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    losses: list[dict[str, float]] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    without_gradient: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    teacher_changed: list[str] = field(default_factory=list)
    missing: list[str] | None = None
    needed: list[str] = field(default_factory=list)
    input_shape: tuple[int, ...] = ()
    loss_bytes: int = 0
    step_bytes: int = 0
    state_bytes: int = 0


class _SavedBytes:
    """Adds up the memory of the tensors that operations inside :meth:`counted` keep for the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        self.total = 0
        self._known = {parameter.data_ptr() for parameter in model.parameters()}

    def _pack(self, value: Tensor) -> Tensor:
        if value.data_ptr() not in self._known:
            self._known.add(value.data_ptr())
            self.total += value.numel() * value.element_size()
        # Not the tensor itself, which would keep the operation that made it, and so itself, alive.
        return value.detach().requires_grad_(value.requires_grad)

    def counted(self) -> contextlib.AbstractContextManager:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda value: value)


def take_steps(subject: Subject, count: int = 2) -> Steps:
    """Takes training steps on one batch, with the configured optimizer at a hundredth of its rate.

    Args:
        subject: distillation with a batch.
        count: number of steps; from the second on a block that starts at zero moves, too. Defaults to 2.

    Returns:
        What they showed; an error of the algorithm ends them and is noted as their ``problem``.
    """
    algorithm, steps = subject.algorithm, Steps()
    if subject.teacher_is_here and not subject.teacher_problem:
        steps.missing = not_loaded(algorithm.teacher, subject.teacher_file)
        watch_missing(algorithm, steps.missing, steps.needed.extend)
    teacher = {name: value.clone() for name, value in algorithm.teacher.state_dict().items()}
    optimizer = dict(copy.deepcopy(subject.cfg.optim_wrapper.to_dict()), type="OptimWrapper")
    for option in ("loss_scale", "dtype", "use_fsdp"):  # of AmpOptimWrapper, which needs a GPU
        optimizer.pop(option, None)
    with in_scope(subject.cfg):
        wrapper = build_optim_wrapper(algorithm, optimizer)
    rates = {id(value): group["lr"] for group in wrapper.param_groups for value in group["params"]}
    for group in wrapper.param_groups:
        group["lr"] *= CAUTION
    trained = {name: value for name, value in algorithm.named_parameters() if value.requires_grad}
    distilled = {name for name in trained if name.startswith("distiller.")}
    steps.left_out = [name for name in distilled if not rates.get(id(trained[name]))]
    idle = set(trained)
    for number in range(1, count + 1):
        try:
            total = _forward(subject, steps, wrapper, first=number == 1)
        except Exception as error:  # of any model: it is what the examination reports
            steps.problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return steps
        idle -= {name for name in idle if trained[name].grad is not None}
        for name in distilled - set(steps.moved):
            gradient = trained[name].grad
            if gradient is not None and bool(gradient.any()):
                steps.moved[name] = number
        if not torch.isfinite(total):
            break
        wrapper.step()
        wrapper.zero_grad()
    steps.without_gradient = [name for name in trained if name in idle]
    after = algorithm.teacher.state_dict()
    steps.teacher_changed = [name for name, value in teacher.items() if not torch.equal(value, after[name])]
    held = [value for state in wrapper.optimizer.state.values() for value in state.values()]
    held += [*algorithm.parameters(), *trained.values()]  # the weights, and a gradient for each that is trained
    steps.state_bytes = sum(value.numel() * value.element_size() for value in held if isinstance(value, Tensor))
    return steps


def _forward(subject: Subject, steps: Steps, wrapper: Any, first: bool) -> Tensor:
    """Runs a step up to its gradients, and returns the total loss."""
    algorithm = subject.algorithm
    data = algorithm.data_preprocessor(copy.deepcopy(subject.batch), True)
    with contextlib.ExitStack() as stack:
        if first:
            saved = _SavedBytes(algorithm)
            shares = GradientShares(algorithm)
            stack.callback(lambda: steps.shares.update(shares.finish()))
            _look_at_records(algorithm.distiller, steps, saved)
            stack.enter_context(saved.counted())
            steps.input_shape = tuple(data["inputs"].shape)
        total, values = algorithm.parse_losses(algorithm(**data, mode="loss"))
        if first:
            steps.step_bytes = saved.total
        wrapper.backward(total)
    steps.losses.append({name: value.item() for name, value in values.items()})
    return total.detach()


def _look_at_records(distiller: Any, steps: Steps, saved: _SavedBytes) -> None:
    """Makes a distiller note the records of its next step, the memory of its losses and which of them fail."""
    compute = distiller.compute_distill_losses

    def compute_and_look() -> dict[str, Tensor]:
        for name, mappings in distiller.loss_forward_mappings.items():
            steps.seen[name] = [_seen(distiller, argument, record) for argument, record in mappings.items()]
        before = saved.total
        try:
            losses = compute()
        except Exception:
            for name, mappings in distiller.loss_forward_mappings.items():
                try:
                    with torch.no_grad():
                        inputs = {argument: distiller.get_record(**record) for argument, record in mappings.items()}
                        distiller.distill_losses[name](**inputs)
                except Exception as error:
                    steps.failed[name] = " ".join(f"{error or type(error).__name__}".split())
            raise
        steps.loss_bytes = saved.total - before
        return losses

    distiller.compute_distill_losses = compute_and_look


def _seen(distiller: Any, argument: str, record: dict[str, Any]) -> Seen:
    side = distiller.student_recorders if record["from_student"] else distiller.teacher_recorders
    recorder, place, index = side.get_recorder(record["recorder"]), record.get("record_idx", 0), record.get("data_idx")
    found: Any = (
        recorder.data_buffer[place] if -len(recorder.data_buffer) <= place < len(recorder.data_buffer) else None
    )
    maps = list(found) if isinstance(found, (list, tuple)) else []
    others = {number: tuple(value.shape) for number, value in enumerate(maps) if isinstance(value, Tensor)}
    if index is not None:
        found = maps[index] if -len(maps) <= index < len(maps) else None
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    made, connector = found is not None, record.get("connector")
    return Seen(argument, record["from_student"], recorder.source, index, connector, made, shape, others)

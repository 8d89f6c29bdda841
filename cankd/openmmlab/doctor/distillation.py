"""Checks of recorders, maps, losses, gradients and the parameters of a distillation."""

from __future__ import annotations

import math
from typing import Any, Sequence

from mmengine.config import Config

from cankd.openmmlab.doctor.finding import ERROR, NOT_CHECKED, OK, WARNING, Finding, some
from cankd.openmmlab.doctor.steps import Seen, Steps
from cankd.openmmlab.engine.distill_monitor_hook import loss_name

# A share of the gradient below which a loss is taken for one without effect, and the ratios of all losses to the task's
# outside of which one of the two has none. Right weights differ by orders of magnitude from method to method, and a
# head that was just initialised sends hardly any gradient to the maps, so that no share is too large.
LEAST_SHARE = 1e-5
LEAST_RATIO, LARGEST_RATIO = 1e-6, 1e4


def check_recorders(cfg: Config, steps: Steps) -> Finding:
    """Checks that every record that a loss reads was made; the algorithm refuses names that do not exist."""
    check = "recorders"
    if not cfg.model.distiller.get("loss_forward_mappings"):
        return Finding(check, OK, "none is read")
    empty = [f"{loss}.{seen.argument}" for loss, read in steps.seen.items() for seen in read if not seen.made]
    if empty or not steps.seen:
        cure = "`cankd list-modules CONFIG` lists the modules and their maps."
        return Finding(check, ERROR, f"nothing was recorded for {some(empty) or 'the losses'}. {steps.problem}", cure)
    sources = {
        side: ", ".join(
            dict.fromkeys(
                seen.source for read in steps.seen.values() for seen in read if seen.source and _of(side, seen)
            )
        )
        for side in ("student", "teacher")
    }
    return Finding(check, OK, f"student's {sources['student'] or 'none'}, teacher's {sources['teacher'] or 'none'}")


def _of(side: str, seen: Seen) -> bool:
    return seen.from_student == (side == "student")


def check_maps(cfg: Config, steps: Steps) -> list[Finding]:
    """Checks of each loss that the maps fit: their channels, strides, levels and connectors."""
    findings = []
    for loss, read in steps.seen.items():
        pair = [next((seen for seen in read if _of(side, seen)), None) for side in ("student", "teacher")]
        student, teacher = pair
        check = f"maps of {loss}"
        found = " and ".join(_described(seen, steps.input_shape) for seen in pair if seen is not None)
        if loss in steps.failed:
            changes = _changes(cfg, loss, student, teacher) if student and teacher else {}
            cure = "The lines below make them fit." if changes else "Change recorders, levels or connectors."
            findings.append(Finding(check, ERROR, f"{found}. {steps.failed[loss]}", cure, changes))
        else:
            findings.append(Finding(check, OK, found))
    return findings


def _described(seen: Seen, inputs: Sequence[int]) -> str:
    place = seen.source or "inputs"
    place += "" if seen.data_idx is None else f"[{seen.data_idx}]"
    side = "student's" if seen.from_student else "teacher's"
    if len(seen.shape) != 4:
        return f"{side} {place}" + (f" {' x '.join(map(str, seen.shape))}" if seen.shape else "")
    _, channels, height, width = seen.shape
    behind = f", through {seen.connector}" if seen.connector else ""
    return f"{side} {place} {channels} channels, stride {round(inputs[2] / height)} ({height} x {width}){behind}"


def _changes(cfg: Config, loss: str, student: Seen, teacher: Seen) -> dict[str, Any]:
    """Returns what makes a loss's maps fit: another level, a connector, ``align`` or ``in_channels``."""
    if len(student.shape) != 4 or len(teacher.shape) != 4:
        return {}
    config = cfg.model.distiller.distill_losses[loss]
    shape: tuple[int, ...] = teacher.shape
    mapping: dict[str, Any] = {}
    distiller: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    if student.shape[2:] != shape[2:]:
        fitting = [number for number, other in teacher.others.items() if other[2:] == student.shape[2:]]
        if fitting and not teacher.connector:
            mapping[teacher.argument] = dict(data_idx=fitting[0])
            shape = teacher.others[fitting[0]]
        elif config.type == "NLKDINLoss":
            changed["align"] = True
    if student.shape[1] != shape[1] and not student.connector and not teacher.connector:
        name = loss.replace("loss_", "", 1)
        distiller["connectors"] = {
            name: dict(
                type="ConvModuleConnector",
                in_channel=student.shape[1],
                out_channel=shape[1],
                norm_cfg=None,
                act_cfg=None,
            )
        }
        mapping[student.argument] = dict(connector=name)
    if config.get("in_channels") not in (None, shape[1]) and not teacher.connector:
        changed["in_channels"] = shape[1]
    if mapping:
        distiller["loss_forward_mappings"] = {loss: mapping}
    if changed:
        distiller["distill_losses"] = {loss: changed}
    return {"model": {"distiller": distiller}} if distiller else {}


def _distilled(losses: dict[str, float]) -> dict[str, float]:
    """Returns the distillation losses of a step, the parts of a loss added up."""
    found: dict[str, float] = {}
    for key, value in losses.items():
        name = loss_name(key)
        if name is not None:
            found[name] = found.get(name, 0.0) + value
    return found


def check_losses(steps: Steps) -> Finding:
    """Checks that each distillation loss is there, finite and not zero, and how large it is beside the task's."""
    check = "losses"
    if not steps.losses:
        return Finding(check, NOT_CHECKED, "no step could be taken")
    first, last = steps.losses[0], steps.losses[-1]
    infinite = [name for name, value in last.items() if not math.isfinite(value)]
    if infinite:
        found = f"{some(infinite)} is not finite in step {len(steps.losses)}."
        return Finding(check, ERROR, found, "Lower the learning rate or the loss's weight; look at the teacher's maps.")
    distilled = _distilled(first)
    absent = [name for name in steps.seen if name in distilled and "loss" not in name]
    if absent or not distilled:
        found = f"{some(absent) or 'no distillation loss'} is no part of the total loss."
        return Finding(check, ERROR, found, "The name of a loss must contain `loss`.")
    zero = [name for name, value in distilled.items() if value == 0]
    if zero:
        found = f"{some(zero)} is zero."
        return Finding(check, ERROR, found, "Check its loss_weight, and that its two maps differ.")
    total = sum(abs(value) for value in distilled.values())
    task = abs(first["loss"] - sum(distilled.values()))
    found = f"{', '.join(f'{name} {value:.3g}' for name, value in distilled.items())}; the task's is {task:.3g}"
    if task and not LEAST_RATIO <= total / task <= LARGEST_RATIO:
        return Finding(check, WARNING, f"{found}, {total / task:.1g} times.", "Change loss_weight.")
    return Finding(check, OK, f"{found}, {total / task:.2g} times" if task else found)


def check_shares(steps: Steps) -> Finding:
    """Checks each loss's share of the gradient at the student's maps that it reads."""
    check = "shares of the gradient"
    if not steps.shares:
        return Finding(check, NOT_CHECKED, "no loss reads a map of the student that gets a gradient")
    found = ", ".join(f"{name} {100 * share:.3g} %" for name, share in sorted(steps.shares.items()))
    largest: dict[str, float] = {}  # of each loss, over the maps that it reads
    for label, share in steps.shares.items():
        name = label.split(".")[0]
        largest[name] = max(share, largest.get(name, 0.0))
    at_zero = [name for name, share in largest.items() if share == 0 and _moved_first(name, steps)]
    if at_zero:
        found += f"; {some(at_zero)} without a residual: a block that begins at zero passes no gradient on in step 1"
    small = [name for name, share in largest.items() if not share >= LEAST_SHARE and name not in at_zero]
    if small:
        verb = "has" if len(small) == 1 else "have"
        return Finding(check, WARNING, f"{found}; {some(small)} {verb} no effect.", "Raise loss_weight.")
    return Finding(check, OK, found)


def _moved_first(loss: str, steps: Steps) -> bool:
    """Returns whether parameters of a loss had a gradient in the first step."""
    return any(name.startswith(f"distiller.distill_losses.{loss}.") and n == 1 for name, n in steps.moved.items())


def check_parameters(algorithm: Any, steps: Steps) -> Finding:
    """Checks that the optimizer has every parameter of the losses and connectors, and that training moves them."""
    check = "parameters of the distillation"
    trained = {name: value for name, value in algorithm.distiller.named_parameters() if value.requires_grad}
    if not trained:
        return Finding(check, OK, "none")
    if steps.problem or not steps.losses:
        return Finding(check, NOT_CHECKED, "no step could be taken")
    if steps.left_out:
        found = f"the optimizer leaves out {some(steps.left_out)}, or has a rate of 0 for them."
        return Finding(check, ERROR, found, "Look at optim_wrapper.paramwise_cfg and its constructor.")
    # Biases before a norm have no gradient but by rounding.
    weights = [f"distiller.{name}" for name, value in trained.items() if value.dim() > 1]
    still = [name for name in weights if name not in steps.moved]
    if still and len(steps.losses) > 1:
        found = f"{len(still)} of {len(weights)} weights get no gradient: {some(still)}."
        return Finding(check, WARNING, found, "Check that their loss has a weight and a mapping.")
    first = sum(number == 1 for number in steps.moved.values())
    found = f"{len(trained)}, all in the optimizer; step 1 moves {first}"
    if first < len(steps.moved):
        found += f", step 2 {len(steps.moved)}: of a block that begins at zero, as CanKD's norm, the zeros move first"
    return Finding(check, OK, found)


def check_unused(cfg: Config, steps: Steps) -> Finding:
    """Checks whether several processes need ``find_unused_parameters``."""
    check = "parameters without a gradient"
    if steps.problem or not steps.losses:
        return Finding(check, NOT_CHECKED, "no step could be taken")
    names = steps.without_gradient
    if not names:
        return Finding(check, OK, "none")
    found = f"{len(names)} ({some(names)})"
    if cfg.get("find_unused_parameters"):
        return Finding(check, OK, f"{found}; find_unused_parameters=True lets several processes train")
    found += ": a training in several processes would stop."
    cure = "Set find_unused_parameters=True."
    return Finding(check, WARNING, found, cure, {"find_unused_parameters": True})

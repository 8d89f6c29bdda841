"""A distiller whose configuration names the maps to compare and the loss, once for all levels."""

from __future__ import annotations

import copy
import difflib
import inspect
import re
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import ConfigDict
from mmrazor.models.distillers import ConfigurableDistiller
from mmrazor.registry import MODELS

_LEVEL = "{level}"
LAST = "last"


class Place(NamedTuple):
    """A map of a model: the module that returns it, and its index where the module returns several."""

    source: str
    level: int | None


# Returns the places of the maps that are compared; takes the student's and the teacher's module, and the largest number
# of maps, or None for the last map alone.
FindPairs = Callable[[str, str, Optional[int]], List[Tuple[Place, Place]]]


def long_form(
    source: str,
    loss: dict[str, Any],
    levels: Sequence[int] | int | str | None = None,
    teacher_levels: Sequence[int | None] | None = None,
    name: str | None = None,
    student_source: str | None = None,
    teacher_source: str | None = None,
    connector: dict[str, Any] | list[dict[str, Any]] | None = None,
    student_connector: dict[str, Any] | list[dict[str, Any]] | None = None,
    teacher_connector: dict[str, Any] | list[dict[str, Any]] | None = None,
    extra_inputs: dict[str, dict[str, Any]] | None = None,
    parts: bool = False,
    prefix: str = "",
    *,
    find_pairs: FindPairs | None = None,
) -> dict[str, Any]:
    """Makes the configuration of a ``ConfigurableDistiller`` from the arguments of a ``LevelDistiller`` of one point.

    Args:
        source: module whose output is compared, for example ``neck`` or ``backbone.layer4``. Where each level is a
            module of its own, ``{level}`` stands for its number: ``neck.out_convs.{level}.conv``.
        loss: configuration of the loss, the same for each level. The student's and the teacher's map are the first
            two arguments of its ``forward``.
        levels: indices of the compared maps, where the module returns several. A number n chooses the n finest maps
            of the student that the teacher has in the same stride, fewer if they are fewer; ``"last"`` chooses the
            last such map, and its loss has no number. Beside ``teacher_levels`` or ``{level}`` a number n stands for
            the first n. Defaults to None: the module returns one map.
        teacher_levels: indices of the teacher's maps where they differ from ``levels``, one for each; None for a module
            that returns one map. Defaults to ``levels``.
        name: name of the recorders; the losses are ``loss_<name><level>``. Defaults to the first part of ``source``.
        student_source: module of the student where it differs from ``source``.
        teacher_source: module of the teacher where it differs from ``source``.
        connector: configuration of a module (or of a list of modules, one after the other) that maps the student's
            map before the loss, one for each level, named ``<name><level>``. Defaults to none.
        student_connector: connector of the student's map where both sides have one, named
            ``<prefix>Student<level>``.
        teacher_connector: connector of the teacher's map, named ``<prefix>Teacher<level>``.
        extra_inputs: further arguments of the loss, argument -> mmrazor's ``dict(recorder=..., from_student=...)``.
        parts: whether the loss returns several named parts, as FGD and ACAM-KD do. Defaults to False.
        prefix: start of the names of ``student_connector`` and ``teacher_connector``. Defaults to none; with several
            points to the point's name.
        find_pairs: function that finds the maps that ``levels`` only counts. Defaults to None: the models are not
            known, and their first maps are taken.

    Returns:
        The configuration in mmrazor's form, of type ``PartsDistiller`` if ``parts``.

    Raises:
        ValueError: for an argument of the wrong type, and for a loss that is not registered.
    """
    for module in (source, student_source or source, teacher_source or source):
        if not isinstance(module, str):
            raise ValueError(f"distiller.source: got {module!r}, expected the name of a module. Correct it.")
    is_chosen = levels == LAST or (type(levels) is int and levels > 0)
    are_integers = isinstance(levels, (list, tuple)) and all(type(level) is int for level in levels)
    if not (levels is None or is_chosen or (are_integers and levels)):
        raise ValueError(
            f"distiller.levels: got {levels!r}, expected integers such as [0, 1, 2, 3], a number of levels or "
            f'"{LAST}". Correct it.'
        )
    sources = {"student": student_source or source, "teacher": teacher_source or source}
    if is_chosen and find_pairs and not teacher_levels and not any(_LEVEL in module for module in sources.values()):
        most = levels if isinstance(levels, int) else None
        places = find_pairs(sources["student"], sources["teacher"], most)
    else:
        indices: list[int | None] = _listed(levels)
        is_list = isinstance(teacher_levels, (list, tuple))
        if teacher_levels is not None and not (is_list and len(teacher_levels) == len(indices)):
            raise ValueError(
                f"distiller.teacher_levels: got {teacher_levels!r}, expected {len(indices)}, one for each level of the "
                "student. Correct it."
            )
        places = [
            (Place(sources["student"], level), Place(sources["teacher"], teacher_level))
            for level, teacher_level in zip(indices, teacher_levels or indices)
        ]
    if connector and student_connector:
        raise ValueError("distiller: got connector and student_connector, expected one of them. Remove the other.")
    name = name or source.split(".")[0]
    # What follows the name of each level's loss and connectors -> places of the student's and of the teacher's map.
    compared = {
        "" if levels == LAST or student.level is None else str(student.level): {"student": student, "teacher": teacher}
        for student, teacher in places
    }
    connectors: dict[str, tuple[str, Any]] = {}  # side -> name and configuration
    if connector or student_connector:
        connectors["student"] = (name, connector) if connector else (f"{prefix}Student", student_connector)
    if teacher_connector:
        connectors["teacher"] = (f"{prefix}Teacher", teacher_connector)

    def recorders(side: str) -> dict[str, Any]:
        named = {f"{name}{suffix}" if _LEVEL in sources[side] else name: suffix for suffix in compared}
        modules = {key: compared[suffix][side] for key, suffix in named.items()}
        return {
            key: dict(type="ModuleOutputs", source=place.source.replace(_LEVEL, str(place.level)))
            for key, place in modules.items()
        }

    def record(side: str, suffix: str) -> dict[str, Any]:
        found: dict[str, Any] = dict(recorder=name, from_student=side == "student")
        if _LEVEL in sources[side]:
            found["recorder"] = f"{name}{suffix}"
        elif compared[suffix][side].level is not None:
            found["data_idx"] = compared[suffix][side].level
        if side in connectors:
            found["connector"] = f"{connectors[side][0]}{suffix}"
        return found

    student_input, teacher_input = _loss_inputs(loss)
    config: dict[str, Any] = dict(
        type="PartsDistiller" if parts else "ConfigurableDistiller",
        student_recorders=recorders("student"),
        teacher_recorders=recorders("teacher"),
        distill_losses={f"loss_{name}{suffix}": loss for suffix in compared},
        loss_forward_mappings={
            f"loss_{name}{suffix}": {
                student_input: record("student", suffix),
                teacher_input: record("teacher", suffix),
                **(extra_inputs or {}),
            }
            for suffix in compared
        },
    )
    if connectors:
        config["connectors"] = {
            f"{side}{suffix}": module for side, module in connectors.values() for suffix in compared
        }
    return copy.deepcopy(config)


def _listed(levels: Any) -> list[int | None]:
    """Returns the indices of the compared maps: the first ones where ``levels`` only counts them."""
    if isinstance(levels, (list, tuple)):
        return list(levels)
    return [None] if levels in (None, LAST) else list(range(levels))


def _loss_inputs(loss: Any) -> list[str]:
    """Returns the names of a loss's first two inputs, the student's and the teacher's map."""
    kind = loss.get("type") if isinstance(loss, dict) else None
    loss_class = MODELS.get(kind) if isinstance(kind, str) else kind
    if loss_class is None:
        raise ValueError(
            f"distiller.loss: got {loss!r}, expected a dict whose type is a registered loss. Correct the type, or "
            "name the loss's module in custom_imports."
        )
    # The losses by their published names are registered as functions that build NLKDINLoss.
    forward = getattr(loss_class, "forward", MODELS.get("NLKDINLoss").forward)
    return list(inspect.signature(forward).parameters)[1:3]


SHORT_KEYS = tuple(key for key in inspect.signature(long_form).parameters if key != "find_pairs")


def _joined(points: Any, shared: Mapping[str, Any], find_pairs: FindPairs | None) -> dict[str, Any]:
    """Makes the long form of several points, each a dict of :func:`long_form`'s arguments beside the shared ones."""
    if not isinstance(points, (list, tuple)) or not points:
        raise ValueError(f"distiller.points: got {points!r}, expected a list of dicts with source and loss.")
    config: dict[str, Any] = {"type": "ConfigurableDistiller"}
    for number, point in enumerate(points):
        where = f"distiller.points[{number}]"
        if not isinstance(point, dict):
            raise ValueError(f"{where}: got {point!r}, expected a dict with source and loss. Correct it.")
        _refuse_unknown(where, point, SHORT_KEYS)
        point = {**shared, **point}
        _refuse_missing(where, point)
        name = point.get("name") or str(point["source"]).split(".")[0]
        part = long_form(**{"prefix": name, **point}, find_pairs=find_pairs)
        if part.pop("type") == "PartsDistiller":
            config["type"] = "PartsDistiller"
        for key, entries in part.items():
            there = config.setdefault(key, {})
            if set(there) & set(entries):
                raise ValueError(
                    f"{where}: got the name {name!r} of another point, expected names that differ. Give it a name."
                )
            there.update(entries)
    return config


def _refuse_unknown(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3) or SHORT_KEYS
            raise ValueError(f"{where}: got an unknown key {key}, expected one like {', '.join(near)}. Correct it.")


def _refuse_missing(where: str, given: Mapping[str, Any]) -> None:
    for key in ("source", "loss"):
        if key not in given:
            raise ValueError(f"{where}: got a LevelDistiller without {key}, expected one. Add {key}.")


_CONNECTOR = re.compile(r"(Student|Teacher)\d+$")  # changed for a level that may not be among the chosen ones
LONG_KEYS = (*list(inspect.signature(ConfigurableDistiller.__init__).parameters)[1:-1], "init_cfg", "_scope_")


def is_short_form(distiller: Mapping[str, Any]) -> bool:
    """Returns whether a distiller's configuration has the short form, possibly with keys of the long form beside it."""
    keys = set(distiller)
    return _is_level_distiller(distiller.get("type")) or {"source", "loss"} <= keys or "points" in keys


def _is_level_distiller(kind: Any) -> bool:
    return kind is level_distiller or str(kind).split(".")[-1] == "LevelDistiller"


def expand_distiller(distiller: Mapping[str, Any], find_pairs: FindPairs | None = None) -> dict[str, Any]:
    """Expands the short form of a distiller's configuration to mmrazor's long form.

    ``dict(type="LevelDistiller", source="neck", levels=[0, 1], loss=dict(type="NLKDINLoss", in_channels=256))``
    expands to a recorder ``neck`` of the student and one of the teacher, losses ``loss_neck0`` and ``loss_neck1``,
    and the mappings from the recorded maps to the losses' arguments. Keys of the long form that stand beside the
    short ones (a configuration laid over a short one has them, or the command line) are merged into the expansion.

    ``dict(type="LevelDistiller", points=[dict(source="backbone", ...), dict(source="neck", ...)])`` compares at
    several points. Each point has the keys of the short form; a short key beside ``points`` holds for each point that
    does not have it.

    Args:
        distiller: configuration of a distiller; stays as it is. :func:`long_form` explains the short form's keys.
        find_pairs: function that finds the maps that ``levels`` only counts; see :func:`long_form`. Defaults to None.

    Returns:
        A copy in the long form. If a configuration laid over the short one names another type, it has that type.

    Raises:
        ValueError: for a key that is unknown, missing or of the wrong type, and for a loss that is not registered.

    Note:
        If one configuration changes keys of the long form and a second one laid over it replaces the same keys by
        ``_delete_=True``, mmengine drops this ``_delete_`` while it merges the two, and all keys are kept. Let the
        second one replace the whole distiller.
    """
    if not is_short_form(distiller):
        return copy.deepcopy(dict(distiller))
    given = ConfigDict(copy.deepcopy(dict(distiller))).to_dict()
    kind = given.pop("type", "LevelDistiller")
    short = {key: given.pop(key) for key in SHORT_KEYS if key in given}
    points = given.pop("points", None)
    if _is_level_distiller(kind):
        _refuse_unknown("distiller", given, (*SHORT_KEYS, "points", *LONG_KEYS))
    if points is None:
        _refuse_missing("distiller", short)
        config = ConfigDict(long_form(**short, find_pairs=find_pairs))
    else:
        config = ConfigDict(_joined(points, short, find_pairs))
    if type(short.get("levels")) is int and "connectors" in given:
        given["connectors"] = {
            name: changes
            for name, changes in given["connectors"].items()
            if not (_CONNECTOR.match(name) and isinstance(changes, dict) and "type" not in changes)
            or name in config.get("connectors", {})
        }
    config.merge(ConfigDict(given))
    if not _is_level_distiller(kind):
        config["type"] = kind
    return config.to_dict()


@MODELS.register_module(name="LevelDistiller")
def level_distiller(**arguments: Any) -> ConfigurableDistiller:
    """Builds a distiller from its short form.

    Args:
        **arguments: those of :func:`long_form` or ``points``, and any of the long form's; see
            :func:`expand_distiller`.

    Returns:
        A ``ConfigurableDistiller`` or ``PartsDistiller``.

    Raises:
        ValueError: see :func:`expand_distiller`.
    """
    return MODELS.build(expand_distiller({"type": "LevelDistiller", **arguments}))

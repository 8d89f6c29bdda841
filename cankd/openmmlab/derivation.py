"""Derives what a distiller's configuration leaves out from the maps of its models: channels, connectors and levels."""

from __future__ import annotations

import contextlib
import copy
import functools
from inspect import Parameter, signature
from typing import Any, Callable, ContextManager, Mapping

import torch
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmrazor.registry import MODELS

from cankd.openmmlab.distillers import Place, expand_distiller
from cankd.openmmlab.maps import Map, ModelMaps, Pair, features, same_strides, sizes_differ, weightless
from cankd.openmmlab.models.stock import expand_stock_model, is_stock_model
from cankd.openmmlab.recording import no_such_source

SIDES = ("student", "teacher")
# Arguments of losses and connectors that tell channels: those of the map that comes in, and of the map that goes out.
CHANNELS_IN = ("in_channels", "in_channel", "student_channels")
CHANNELS_OUT = ("out_channel", "teacher_channels")
TOKENS = "TokensToMap"
CONVOLUTION = dict(type="ConvModuleConnector", norm_cfg=None, act_cfg=None)

_found: dict[str, ModelMaps] = {}  # a model's configuration -> its maps


def complete_distiller(
    distiller: Mapping[str, Any],
    architecture: Any,
    teacher: Any,
    scope: Callable[[], ContextManager] = contextlib.nullcontext,
) -> dict[str, Any]:
    """Expands a distiller's configuration and derives what it leaves out.

    Left out can be: the arguments of losses and connectors that tell channels, 1x1 convolutions from the student's
    channels to the teacher's, and, in the short form, which levels are compared (``levels=4``, ``levels="last"``).
    Both models are built beside those of the training and see one image, without memory for their weights where their
    code allows that; no random numbers are drawn. Nothing is built if nothing is left out. What is given stands.

    Args:
        distiller: configuration of a distiller, in the short or the long form; stays as it is.
        architecture: configuration of the student.
        teacher: configuration of the teacher. If one of both names no model, only the short form is expanded.
        scope: function that returns the context in which the models are built. Defaults to no context.

    Returns:
        The configuration in the long form.

    Raises:
        ValueError: if the models do not have the maps that tell what is left out.
    """
    if not (_names_a_model(architecture) and _names_a_model(teacher)):
        return expand_distiller(distiller)
    models = {"student": architecture, "teacher": teacher}

    @functools.lru_cache(maxsize=None)
    def found(side: str) -> ModelMaps:
        with scope():
            return model_maps(models[side])

    return complete_by_maps(distiller, found)


def complete_by_maps(distiller: Mapping[str, Any], found: Callable[[str], ModelMaps]) -> dict[str, Any]:
    """Expands a distiller's configuration and derives what it leaves out, from maps that are found on demand.

    Args:
        distiller: configuration of a distiller; stays as it is.
        found: function of ``student`` or ``teacher`` that returns this model's maps.

    Returns:
        The configuration in the long form.

    Raises:
        ValueError: if the models do not have the maps that tell what is left out.
    """
    chosen: set[tuple[Place, ...]] = set()  # the places of derived levels

    def find_pairs(student: str, teacher: str, most: int | None) -> list[tuple[Place, Place]]:
        sources = {"student": student, "teacher": teacher}
        own, theirs = (_maps_of(side, source, found(side)) for side, source in sources.items())
        pairs = same_strides(own, theirs, most)
        places = [(Place(student, one.index), Place(teacher, other.index)) for one, other in pairs]
        if most is None:
            places = [(_stage(found("student"), one), _stage(found("teacher"), other)) for one, other in places]
        chosen.update(places)
        return places

    config = expand_distiller(distiller, find_pairs)
    for name, inputs in (config.get("loss_forward_mappings") or {}).items():
        records = [record for record in inputs.values() if isinstance(record, dict)]
        sides = {
            side: next((record for record in records if record.get("from_student") is (side == "student")), {})
            for side in SIDES
        }
        if all("recorder" in record for record in sides.values()):
            _complete_loss(config, name, sides, chosen, found)
    return config


def _names_a_model(config: Any) -> bool:
    """Returns whether a model's configuration is complete; a method's base names neither student nor teacher."""
    if not isinstance(config, Mapping):
        return False
    return is_stock_model(config) or not str(config.get("type")).endswith("StockModel")


def model_maps(config: Mapping[str, Any]) -> ModelMaps:
    """Finds the maps of a configuration's model. Those of equal configurations are found once.

    Args:
        config: configuration of the model.

    Returns:
        The maps.
    """
    model = expand_stock_model(dict(config)) if is_stock_model(config) else copy.deepcopy(dict(config))
    key = repr(model)
    if key not in _found:
        _found[key] = _find_maps(model)
    return _found[key]


def _find_maps(config: dict[str, Any]) -> ModelMaps:
    with torch.random.fork_rng(devices=[]):
        with contextlib.suppress(Exception), weightless():  # some operators cannot run without values
            return features(_build(config), lambda size: torch.empty(1, 3, *size))
        return features(_build(config), lambda size: torch.zeros(1, 3, *size))


def _build(config: dict[str, Any]) -> BaseModel:
    return revert_sync_batchnorm(MODELS.build(copy.deepcopy({"_scope_": "mmrazor", **config}))).eval()


def _maps_of(side: str, source: str, found: ModelMaps) -> list[Map]:
    """Returns the maps of a module whose levels are derived."""
    maps = found.of(source)
    if not maps:
        there = ", ".join(name for name in ("neck", "backbone") if found.of(name)) or "none"
        raise ValueError(
            f"distiller.{side}_source: got {source}, which returns no maps (B, C, H, W) in the {side}, expected a "
            f"module like {there}. Correct it; `cankd list-modules` lists all of them."
        )
    return maps


def _stage(found: ModelMaps, place: Place) -> Place:
    """Returns the place of a map of the backbone: its own part that returns the map, if there is one."""
    if place.source == "backbone" and place.level in found.stages:
        return Place(found.stages[place.level], None)
    return place


def _complete_loss(
    config: dict[str, Any],
    name: str,
    records: dict[str, dict[str, Any]],
    chosen: set[tuple[Place, ...]],
    found: Callable[[str], ModelMaps],
) -> None:
    """Derives in place what a loss and the connectors of its maps leave out."""
    loss = (config.get("distill_losses") or {}).get(name, {})
    recorders = {side: (config.get(f"{side}_recorders") or {}).get(records[side]["recorder"], {}) for side in SIDES}
    connectors = config.get("connectors") or {}
    short = name.replace("loss_", "", 1)
    if "connector" not in records["student"] and "type" not in connectors.get(short, {"type": None}):
        records["student"]["connector"] = short  # changes of the convolution that is derived
    chains = {side: as_list(connectors.get(records[side].get("connector"))) for side in SIDES}
    parts = [(f"distill_losses.{name}", loss)]
    parts += [(f"connectors.{records[side].get('connector')}", part) for side in SIDES for part in chains[side]]
    lacking = [f"{place}: got no {argument}" for place, part in parts for argument in left_out(part)]
    places = tuple(Place(recorders[side].get("source", ""), records[side].get("data_idx")) for side in SIDES)
    if not lacking and places not in chosen:
        return
    problem = f"distiller.{lacking[0] if lacking else name}"
    try:
        pair = Pair(*(_recorded_map(problem, side, records[side], recorders[side], found(side)) for side in SIDES))
    except ValueError:
        if lacking:
            raise
        return  # the algorithm names what is wrong
    if places in chosen and _is(loss, "NLKDINLoss") and sizes_differ(pair, found("student"), found("teacher")):
        loss.setdefault("align", True)
    loss, *completed = complete_parts(loss, chains["student"], chains["teacher"], pair)
    config["distill_losses"][name] = loss
    for side, chain in zip(SIDES, completed):
        if chain:
            key = records[side].setdefault("connector", short if side == "student" else f"{short}_teacher")
            config.setdefault("connectors", {})[key] = chain[0] if len(chain) == 1 else chain


def _recorded_map(problem: str, side: str, record: dict[str, Any], recorder: dict[str, Any], found: ModelMaps) -> Map:
    """Returns the map that a record holds."""
    source, index = str(recorder.get("source")), record.get("data_idx")
    if str(recorder.get("type")).split(".")[-1] != "ModuleOutputs" or record.get("record_idx"):
        raise ValueError(
            f"{problem}, which only the first output of a module tells, and the {side}'s {record['recorder']} is "
            f"{recorder}. Add it."
        )
    if source not in found.shapes:
        raise ValueError(no_such_source(side, record["recorder"], source, list(found.shapes)))
    maps = {one.index: one for one in found.of(source)}
    if index not in maps:
        there = ", ".join(map(str, maps)) if None not in maps else "one map"
        raise ValueError(
            f"{problem}, which the {side}'s {source} does not tell: it has {there or 'no maps before the head'}, "
            f"expected {'one map' if index is None else index}. Correct source or levels, or add it."
        )
    return maps[index]


def as_list(connector: Any) -> list[dict[str, Any]]:
    """Returns the configurations of the modules that a connector consists of."""
    return list(connector) if isinstance(connector, (list, tuple)) else [connector] if connector else []


def left_out(part: Any) -> list[str]:
    """Returns the arguments about channels that a loss or connector needs and its configuration does not give."""
    return [name for name in _channels(part) if name not in part and _parameters(part)[name].default is Parameter.empty]


def _channels(part: Any) -> list[str]:
    """Returns the arguments about channels that a loss or connector has."""
    return [name for name in _parameters(part) if name in (*CHANNELS_IN, *CHANNELS_OUT)]


def _parameters(part: Any) -> Mapping[str, Parameter]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    built = MODELS.get(kind) if isinstance(kind, str) else kind
    return signature(built).parameters if callable(built) else {}


def complete_parts(
    loss: dict[str, Any], student: list[dict[str, Any]], teacher: list[dict[str, Any]], pair: Pair
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Derives what a loss and the connectors of its two maps leave out.

    Args:
        loss: configuration of the loss.
        student: configurations of the student's connectors, one after the other; may be empty. One without a type is a
            1x1 convolution.
        teacher: configurations of the teacher's.
        pair: maps that the models return.

    Returns:
        The three with the channels written out, a 1x1 convolution before the student's connectors if none of them
        changes channels that differ, and ``TokensToMap`` where a module returns tokens.
    """
    student, teacher = (
        [part if "type" in part else {**CONVOLUTION, **part} for part in chain] for chain in (student, teacher)
    )
    theirs, target = _complete_chain(_lay_out(teacher, pair.teacher), pair.teacher.channels, pair.teacher.channels)
    own = _lay_out(student, pair.student)
    maps = [part for part in own if not _is(part, TOKENS)]
    keeps = all(_channels(part) == ["in_channels"] for part in maps)
    if pair.student.channels != target and keeps:
        own = [*own[: len(own) - len(maps)], dict(CONVOLUTION), *maps]
    own, channels = _complete_chain(own, pair.student.channels, target)
    return _with_channels(loss, channels, target), own, theirs


def _is(part: Mapping[str, Any], kind: str) -> bool:
    """Returns whether a loss or connector is of a type, which may be named with its scope."""
    return str(part.get("type")).split(".")[-1] == kind


def _lay_out(chain: list[dict[str, Any]], found: Map) -> list[dict[str, Any]]:
    """Returns the connectors of a map, which begin with one that makes it of tokens where its module returns tokens."""
    if not found.tokens or any(_is(part, TOKENS) for part in chain):
        return chain
    patch, extra = found.tokens
    return [dict(type=TOKENS, patch_size=patch, **({} if extra == 1 else {"extra_tokens": extra})), *chain]


def _complete_chain(chain: list[dict[str, Any]], channels: int, target: int) -> tuple[list[dict[str, Any]], int]:
    """Returns connectors with their channels, and the channels of the map that comes out of them."""
    completed = []
    for part in chain:
        completed.append(_with_channels(part, channels, target))
        channels = next((completed[-1][name] for name in CHANNELS_OUT if name in completed[-1]), channels)
    return completed, channels


def _with_channels(part: dict[str, Any], channels: int, target: int) -> dict[str, Any]:
    """Returns a loss or connector with the channels that it leaves out."""
    derived = {name: target if name in CHANNELS_OUT else channels for name in left_out(part)}
    return {**{key: part[key] for key in ("type",) if key in part}, **derived, **part}

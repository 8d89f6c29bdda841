"""Resolves a configuration completely and tells which file each value comes from."""

from __future__ import annotations

import ast
import copy
import functools
import keyword
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

from mmengine.config import Config
from mmengine.hub import get_config

from cankd.openmmlab.compat import own_config
from cankd.openmmlab.configs import apply_options, expand_config, read_config
from cankd.openmmlab.models.stock import expand_stock_model, is_stock_model

Place = Tuple[str, ...]  # the keys on the way to a value
Values = Dict[Place, Any]
Sources = Dict[Place, str]

OPTIONS = "--cfg-options"


def resolve(path: str | Path, cfg_options: dict[str, Any] | None = None) -> tuple[dict[str, Any], Sources]:
    """Resolves a configuration: bases merged, overrides applied, distiller and stock models expanded.

    Args:
        path: configuration file, or ``package::path`` of one that cankd, mmdet, mmseg or mmpretrain ships.
        cfg_options: overrides, dotted key -> value. Defaults to none.

    Returns:
        The resolved configuration, and the source of each value in it that is no dict: the name of the file that it
        comes from, or ``--cfg-options``. What a short form expands to comes from the file of the short form. A file
        that repeats the value of its base is no source, nor are options that change nothing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no ``model``.
    """
    cfg = read_config(path, expand=False)
    values, sources = _values_and_sources(str(path))
    apply_options(cfg, cfg_options or {})
    resolved = _expanded(cfg)
    final = _flat(resolved)
    return resolved, {place: sources[place] if _is(values, place, final[place]) else OPTIONS for place in final}


def resolved_text(config: dict[str, Any], sources: Sources) -> str:
    """Writes a resolved configuration as a configuration file with a comment for the source of each value.

    Args:
        config: resolved configuration, or a part of it.
        sources: source of each of its values.

    Returns:
        The text. A dict whose values have one source has one comment, behind its first line.
    """
    return "".join(f"{line}\n" for key, value in config.items() for line in _lines(f"{key} = ", value, (key,), sources))


def _values_and_sources(path: str) -> tuple[Values, Sources]:
    """Returns the values of a configuration file after it was resolved, and the file that sets each."""
    file = own_config(path) or Path(path)
    if not file.is_file():
        values = _flat(get_config(path).to_dict())
        return values, dict.fromkeys(values, path)
    cfg = Config.fromfile(file)
    values = _flat(_expanded(cfg))
    inherited = [*_stock_models(cfg), *(_values_and_sources(base) for base in bases_of(file))]
    return values, {place: _source(place, value, inherited) or _name(file) for place, value in values.items()}


def _source(place: Place, value: Any, inherited: list[tuple[Values, Sources]]) -> str | None:
    """Returns the source of a value in the first of several configurations that has it."""
    for values, sources in inherited:
        if _is(values, place, value):
            return sources[place]
        if place[-1] == "_scope_":  # mmengine adds it to the dicts that it takes from a library's file
            found = {sources[other] for other in values if other[: len(place) - 1] == place[:-1]}
            if len(found) == 1 and next(iter(found)).startswith(f"{value}::"):
                return found.pop()
    return None


def _is(values: Values, place: Place, value: Any) -> bool:
    return place in values and _without_scopes(values[place]) == _without_scopes(value)


def _without_scopes(value: Any) -> Any:
    """Returns a value without the scopes that mmengine adds to the dicts that it takes from a library's file."""
    if isinstance(value, dict):
        return {key: _without_scopes(part) for key, part in value.items() if key != "_scope_"}
    return [_without_scopes(part) for part in value] if isinstance(value, (list, tuple)) else value


def _expanded(cfg: Config) -> dict[str, Any]:
    """Returns a configuration as a dict in which distiller and stock models are expanded."""
    cfg = Config(cfg.to_dict())
    if "model" in cfg:
        expand_config(cfg)
    config = cfg.to_dict()
    for parent, key in _models(config):
        if is_stock_model(parent[key]):
            parent[key] = copy.deepcopy(_expanded_stock(repr(parent[key])))
    return config


@functools.lru_cache(maxsize=16)
def _expanded_stock(model: str) -> dict[str, Any]:
    """Returns an expanded stock model; mmengine takes a second to find a library's file, and bases share models."""
    return expand_stock_model(ast.literal_eval(model))


def _models(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields where the models of a configuration stand: dict and key."""
    if isinstance(config.get("model"), dict):
        yield config, "model"
        yield from ((config["model"], key) for key in ("architecture", "teacher") if key in config["model"])


def _stock_models(cfg: Config) -> Iterator[tuple[Values, Sources]]:
    """Yields the values of the stock models of a configuration at their places in it, without its differences."""
    for parent, key in _models(cfg.to_dict()):
        if is_stock_model(parent[key]):
            stock = parent[key]["cfg"]
            model = _expanded_stock(repr(dict(type="StockModel", cfg=stock)))
            place: Place = ("model",) if key == "model" else ("model", key)
            values = {(*place, *rest): value for rest, value in _flat(model).items()}
            yield values, dict.fromkeys(values, stock if "::" in stock else _name(Path(stock)))


def bases_of(file: Path) -> list[str]:
    """Returns the bases that a configuration file names."""
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "_base_":
            bases = ast.literal_eval(statement.value)
            bases = [bases] if isinstance(bases, str) else bases
            return [base if "::" in base else os.path.normpath(file.parent / base) for base in bases]
    return []


def _name(file: Path) -> str:
    """Returns a file's path from the current folder if it lies there, else its whole path."""
    path = os.path.relpath(file)
    return str(file) if path.startswith("..") else path


def _flat(value: Any, place: Place = ()) -> Values:
    """Returns the values of nested dicts by their places. Lists and empty dicts are values."""
    if not isinstance(value, dict) or not value:
        return {place: value}
    return {found: leaf for key, part in value.items() for found, leaf in _flat(part, (*place, key)).items()}


def _lines(prefix: str, value: Any, place: Place, sources: Sources, indent: int = 0) -> Iterator[str]:
    """Yields the lines of one key."""
    inside = {other: source for other, source in sources.items() if other[: len(place)] == place}
    found = {source for other, source in inside.items() if other[-1] != "_scope_"} or set(inside.values())
    end = "," if indent else ""
    pad = " " * indent
    if len(found) == 1 or not isinstance(value, dict):
        first, *rest = f"{pad}{prefix}{_literal(value, indent)}{end}".splitlines()
        yield f"{first}  # {', '.join(sorted(found))}"
        yield from rest
        return
    opening, closing, prefixes = _brackets(value)
    yield f"{pad}{prefix}{opening}"
    for (key, part), part_prefix in zip(value.items(), prefixes):
        yield from _lines(part_prefix, part, (*place, key), sources, indent + 4)
    yield f"{pad}{closing}{end}"


def _literal(value: Any, indent: int) -> str:
    """Returns the Python literal of a value, on several lines if it is long."""
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    opening, closing, prefixes = _brackets(value)
    parts = list(value.values() if isinstance(value, dict) else value)
    items = [prefix + _literal(part, indent + 4) for prefix, part in zip(prefixes, parts)]
    line = opening + ", ".join(items) + ("," if isinstance(value, tuple) and len(items) == 1 else "") + closing
    if indent + len(line) <= 100 and "\n" not in line:
        return line
    pad = " " * (indent + 4)
    return "\n".join([opening, *(f"{pad}{item}," for item in items), " " * indent + closing])


def _brackets(value: Any) -> tuple[str, str, list[str]]:
    """Returns the brackets of a dict, list or tuple, and what stands before each of its values."""
    if not isinstance(value, dict):
        return ("(", ")", [""] * len(value)) if isinstance(value, tuple) else ("[", "]", [""] * len(value))
    if all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value):
        return "dict(", ")", [f"{key}=" for key in value]
    return "{", "}", [f"{key!r}: " for key in value]

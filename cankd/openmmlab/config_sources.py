"""Resolves a configuration completely and tells which file each value comes from."""

from __future__ import annotations

import ast
import keyword
import math
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from mmengine.config import Config
from mmengine.fileio import load

from cankd.openmmlab.compat import own_config, shipped_config
from cankd.openmmlab.configs import apply_options, expand_config, read_config
from cankd.openmmlab.models.stock import expand_stock_model, is_stock_model

Place = Tuple[str, ...]  # the keys on the way to a value
Values = Dict[Place, Any]
Sources = Dict[Place, str]

OPTIONS = "--cfg-options"
WIDTH = 110  # of a printed line without its comment


class Resolved(NamedTuple):
    """A resolved configuration, or a part of one.

    Attributes:
        config: configuration as a dict.
        sources: source of each value in it that is no dict: the name of a file, or ``--cfg-options``.
        files: all sources that were read; a later one changes what an earlier one set.
    """

    config: Dict[str, Any]
    sources: Sources
    files: List[str]


def resolve(path: str | Path, cfg_options: dict[str, Any] | None = None) -> Resolved:
    """Resolves a configuration: bases merged, overrides applied, distiller and stock models expanded.

    Args:
        path: configuration file, or ``package::path`` of one that cankd, mmdet, mmseg or mmpretrain ships.
        cfg_options: overrides, dotted key -> value. Defaults to none.

    Returns:
        The resolved configuration and its sources. What a short form expands to comes from the file of the short
        form. A file that repeats the value of its base is no source, nor are options that change nothing. A
        ``_scope_`` that names the scope around it is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no ``model``, or if a file computes its ``_base_``.
    """
    cfg = read_config(path, expand=False)
    files: list[str] = []
    values, sources = _values_and_sources(str(path), files)
    if cfg_options:
        files.append(OPTIONS)
    apply_options(cfg, cfg_options or {})
    resolved = _expanded(cfg)
    resolved = _with_needed_scopes(resolved, resolved.get("default_scope"))
    found = {
        place: sources[place] if _is(values, place, value) else OPTIONS for place, value in _flat(resolved).items()
    }
    return Resolved(resolved, found, list(dict.fromkeys(files)))


def resolved_text(resolved: Resolved) -> str:
    """Writes a resolved configuration as a configuration file with a comment for the source of each value.

    Args:
        resolved: resolved configuration, or a part of it.

    Returns:
        The text: a numbered list of the sources, the model, the other keys. Behind a value stands the number of its
        source; a dict whose values have one source has one number, behind its first line.
    """
    config, sources, files = resolved
    numbers = {file: f"[{number}]" for number, file in enumerate(files, start=1)}
    sources = {place: numbers[source] for place, source in sources.items()}
    lines = ["# Read in this order; a later file changes what an earlier one set:"]
    lines += [f"# {number} {file}" for file, number in numbers.items()]
    for key in sorted(config, key=lambda key: key != "model"):
        lines += _lines(f"{key} = ", config[key], (key,), sources)
    return "\n".join(lines) + "\n"


def _values_and_sources(path: str, files: list[str]) -> tuple[Values, Sources]:
    """Returns the values of a resolved configuration file and the file that sets each; adds what it reads to files."""
    file = own_config(path) or Path(path)
    if not file.is_file():
        values = _flat(Config.fromfile(shipped_config(path)).to_dict())
        files.append(path)
        return values, dict.fromkeys(values, path)
    cfg = Config.fromfile(file)
    values = _flat(_expanded(cfg))
    bases = [_values_and_sources(base, files) for base in bases_of(file)]
    inherited = [*_stock_models(cfg, files), *bases]
    files.append(_name(file))
    sources = {place: _source(place, value, inherited) or _name(file) for place, value in values.items()}
    if "own_data" in cfg:
        without = _flat(_expanded(Config({key: value for key, value in cfg.to_dict().items() if key != "own_data"})))
        describes = _data_file(file, cfg.own_data)
        sources.update({place: describes for place, value in values.items() if not _is(without, place, value)})
    return values, sources


def _data_file(file: Path, own_data: Any) -> str:
    """Returns the name of the file that describes data of one's own: the deepest base that has the same."""
    for base in bases_of(file):
        if Path(base).is_file() and Config.fromfile(base).get("own_data") == own_data:
            return _data_file(Path(base), own_data)
    return _name(file)


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


def _with_needed_scopes(value: Any, scope: str | None) -> Any:
    """Returns a value without each ``_scope_`` that names the scope around it, in which its dict is built anyway."""
    if isinstance(value, dict):
        own = value.get("_scope_", scope)
        is_needed = own != scope or len(value) == 1
        parts = {key: part for key, part in value.items() if key != "_scope_" or is_needed}
        return {key: _with_needed_scopes(part, own) for key, part in parts.items()}
    return type(value)(_with_needed_scopes(part, scope) for part in value) if type(value) in (list, tuple) else value


def _expanded(cfg: Config) -> dict[str, Any]:
    """Returns a configuration as a dict in which distiller and stock models are expanded."""
    cfg = Config(cfg.to_dict())
    if "model" in cfg:
        expand_config(cfg)
    config = cfg.to_dict()
    for parent, key in _models(config):
        if is_stock_model(parent[key]):
            parent[key] = expand_stock_model(parent[key])
    return config


def _models(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields where the models of a configuration stand: dict and key."""
    if isinstance(config.get("model"), dict):
        yield config, "model"
        yield from ((config["model"], key) for key in ("architecture", "teacher") if key in config["model"])


def _stock_models(cfg: Config, files: list[str]) -> Iterator[tuple[Values, Sources]]:
    """Yields the values of the stock models of a configuration at their places in it; adds their names to files."""
    for parent, key in _models(cfg.to_dict()):
        if is_stock_model(parent[key]):
            stock = parent[key]["cfg"]
            model = expand_stock_model(dict(type="StockModel", cfg=stock))
            place: Place = ("model",) if key == "model" else ("model", key)
            values = {(*place, *rest): value for rest, value in _flat(model).items()}
            files.append(stock if "::" in stock else _name(Path(stock)))
            yield values, dict.fromkeys(values, files[-1])


def bases_of(file: Path) -> list[str]:
    """Returns the bases that a configuration file (Python, YAML or JSON) names.

    Raises:
        ValueError: if a Python file computes them.
    """
    bases: Any = []
    if file.suffix != ".py":
        bases = load(file).get("_base_", [])
    else:
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "_base_":
                try:
                    bases = ast.literal_eval(statement.value)
                except ValueError:
                    got = ast.get_source_segment(file.read_text(encoding="utf-8"), statement.value)
                    raise ValueError(f"{file}: got _base_ = {got}, expected strings. Write the names out.") from None
    bases = [bases] if isinstance(bases, str) else bases
    return [base if "::" in base else os.path.normpath(file.parent / base) for base in bases]


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
        first, *rest = f"{pad}{prefix}{_literal(value, indent, len(prefix))}{end}".splitlines()
        yield f"{first}  # {', '.join(sorted(found))}"
        yield from rest
        return
    opening, closing, prefixes = _brackets(value)
    yield f"{pad}{prefix}{opening}"
    for (key, part), part_prefix in zip(value.items(), prefixes):
        yield from _lines(part_prefix, part, (*place, key), sources, indent + 4)
    yield f"{pad}{closing}{end}"


def _literal(value: Any, indent: int, before: int) -> str:
    """Returns the Python literal of a value behind so many characters, on several lines if it is long."""
    pad = " " * (indent + 4)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, str) and indent + before + len(repr(value)) > WIDTH:
        size = max(WIDTH - indent - 10, 20)
        parts = [repr(value[start : start + size]) for start in range(0, len(value), size)]
        return "\n".join(["(", *(pad + part for part in parts), " " * indent + ")"])
    if not isinstance(value, (dict, list, tuple)):
        return repr(value)
    opening, closing, prefixes = _brackets(value)
    parts = list(value.values() if isinstance(value, dict) else value)
    items = [prefix + _literal(part, indent + 4, len(prefix)) for prefix, part in zip(prefixes, parts)]
    line = opening + ", ".join(items) + ("," if isinstance(value, tuple) and len(items) == 1 else "") + closing
    if indent + before + len(line) <= WIDTH and "\n" not in line:
        return line
    return "\n".join([opening, *(f"{pad}{item}," for item in items), " " * indent + closing])


def _brackets(value: Any) -> tuple[str, str, list[str]]:
    """Returns the brackets of a dict, list or tuple, and what stands before each of its values."""
    if not isinstance(value, dict):
        return ("(", ")", [""] * len(value)) if isinstance(value, tuple) else ("[", "]", [""] * len(value))
    if all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value):
        return "dict(", ")", [f"{key}=" for key in value]
    return "{", "}", [f"{key!r}: " for key in value]

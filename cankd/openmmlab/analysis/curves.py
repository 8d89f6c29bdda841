"""Reads curves of training runs from the ``scalars.json`` files that mmengine writes."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence


class Curve(NamedTuple):
    """One logged quantity over time: iterations and values, both of one length."""

    iterations: Sequence[int]
    values: Sequence[float]


def find_scalars(run: str | Path) -> list[Path]:
    """Finds the ``scalars.json`` files of a run, in the order in which they were written.

    Args:
        run: file, or work dir, which has one file for each time that the run was started.

    Returns:
        At least one file.

    Raises:
        FileNotFoundError: if there is none.
    """
    run = Path(run)
    if run.is_file():
        return [run]
    files = sorted([*run.glob("*/vis_data/scalars.json"), *run.glob("vis_data/scalars.json")])
    if not files:
        raise FileNotFoundError(
            f"run: got {run}, expected a scalars.json or a work dir that `cankd train` wrote "
            "(with <time>/vis_data/scalars.json). Check the path."
        )
    return files


def read_curves(files: Sequence[Path]) -> dict[str, Curve]:
    """Reads the numbers that a run logged.

    Args:
        files: files of one run, in their order.

    Returns:
        Name -> curve, for every logged number; see :func:`join_curves`.

    Raises:
        ValueError: if a file is no log of JSON lines, or holds no curve.
    """
    curves = join_curves([read_lines(file) for file in files])
    if not curves:
        raise ValueError(f"{', '.join(map(str, files))}: nothing is logged there yet.")
    return curves


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Reads the lines of a ``scalars.json``.

    Raises:
        ValueError: if the file is no log of JSON lines.
    """
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line = json.loads(text)
            line["step"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}:{number}: expected one JSON object a line with a 'step', as mmengine's scalars.json has."
            ) from error
        lines.append(line)
    return lines


def join_curves(logs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Curve]:
    """Joins what the starts of one run logged.

    Validations that mmengine counts in epochs are put at the iteration of the last training
    line before them. Where a later log starts again at an earlier iteration (a run that was
    resumed), its lines replace the ones from there on. ``student.loss_x`` of a distillation
    run and ``loss_x`` of the student alone get one name, ``loss_x``.

    Args:
        logs: lines of each start, in their order.

    Returns:
        Name -> curve, for every logged number.
    """
    points: dict[str, dict[int, float]] = {}
    for lines in logs:
        iteration, started = 0, False
        for line in lines:
            # The step of a validation is an iteration, or an epoch and then the smaller number.
            iteration = max(iteration, line["step"])
            if not started:
                points = {key: {x: y for x, y in curve.items() if x < iteration} for key, curve in points.items()}
                started = True
            for key, value in line.items():
                if key not in ("step", "iter", "epoch") and isinstance(value, (int, float)):
                    key = key[len("student.") :] if key.startswith("student.") else key
                    points.setdefault(key, {})[iteration] = value
    return {key: Curve(list(curve), list(curve.values())) for key, curve in points.items() if curve}


def choose(
    logged: Mapping[str, Mapping[str, Curve]], patterns: Sequence[str], needed: Sequence[str] = ()
) -> tuple[dict[str, dict[str, Curve]], list[str]]:
    """Chooses the curves to draw.

    The teacher that a distillation run evaluates beside its student becomes a run of its own, whose curves have the
    student's names.

    Args:
        logged: run -> name -> curve.
        patterns: names of curves; ``*`` and ``?`` stand for any text.
        needed: names that must be among the chosen ones. Defaults to none.

    Returns:
        Run -> name -> curve, of what was chosen, and the names in the order of the patterns.

    Raises:
        ValueError: if nothing was chosen, or a needed name was not.
    """
    available = list(dict.fromkeys(key for curves in logged.values() for key in curves))
    found = [key for pattern in patterns for key in available if fnmatch.fnmatchcase(key, pattern)]
    chosen = list(dict.fromkeys(key[len("teacher.") :] if key.startswith("teacher.") else key for key in found))
    missing = [key for key in needed if key not in chosen]
    if not chosen or missing:
        raise ValueError(f"no such quantity: {' '.join(missing or patterns)}. Logged are: {', '.join(available)}.")
    runs: dict[str, dict[str, Curve]] = {}
    for name, curves in logged.items():
        runs[name] = {key: curves[key] for key in chosen if key in curves}
        teacher = {key: curves[f"teacher.{key}"] for key in chosen if f"teacher.{key}" in curves}
        if teacher:
            runs[f"{name}, teacher"] = teacher
    return runs, chosen


def to_csv(runs: Mapping[str, Mapping[str, Curve]]) -> str:
    """Returns the curves as CSV with the columns run, name, iteration, value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "name", "iteration", "value"])
    for run, curves in runs.items():
        for name, curve in curves.items():
            writer.writerows([run, name, x, y] for x, y in zip(*curve))
    return out.getvalue()

"""Compares what the modules of a student and of a teacher put out."""

from __future__ import annotations

from typing import Dict, Tuple

from cankd.openmmlab.recording import OutputIndex

Shape = Tuple[int, ...]
SAME_SIZE = ("fits", "connector")
Outputs = Dict[Tuple[str, OutputIndex], Shape]


def outputs_of(shapes: Dict[str, Dict[OutputIndex, Shape]], depth: int | None) -> Outputs:
    """Maps (module, index) to shape, down to a depth of names; without outputs, index and shape are empty."""
    found: Outputs = {}
    for name, outputs in shapes.items():
        if depth is None or name.count(".") < depth:
            found.update({(name, index): shape for index, shape in (outputs or {(): ()}).items()})
    return found


def label(name: str, index: OutputIndex, outputs: Outputs) -> str:
    """Returns the name with those indices that a mapping needs."""
    parts = [name]
    if any(other == name and place[:1] > (0,) for other, place in outputs):
        parts += [f"record_idx={i}" for i in index[:1]]
    parts += [f"data_idx={i}" for i in index[1:2]]
    return " ".join(parts) + "".join(f"[{i}]" for i in index[2:])


def match(student: Shape | None, teacher: Shape | None) -> str:
    """Returns in a word or two whether a loss can compare two outputs."""
    if not student or not teacher:
        return ""
    if student == teacher:
        return "fits"
    if len(student) == len(teacher) == 4:
        if student[2:] == teacher[2:]:
            return "connector"
        return "align" if student[1] == teacher[1] else "connector, align"
    return "differs"

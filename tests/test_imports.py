"""Imports run one way: tools, the OpenMMLab part from its commands down to its patches, the core, torch."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT
from tests.layers import LAYERS


def _modules() -> dict[str, Path]:
    files = [file for folder in ("cankd", "tools") for file in (ROOT / folder).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).replace(".__init__", ""): file for file in files}


MODULES = _modules()


def _imported(name: str) -> set[str]:
    """The modules of this repository that a module imports anywhere in its code."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {part if part in MODULES else str(node.module) for part in whole}
    return names & set(MODULES) - {name}


def _layer(name: str) -> int:
    """The number of a module's layer; the two packages that only gather their parts stand above theirs."""
    if name in ("cankd", "cankd.openmmlab"):
        return {"cankd": len(LAYERS), "cankd.openmmlab": 2}[name]
    (found,) = [
        number
        for number, prefixes in enumerate(LAYERS)
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)
    ]
    return found


def test_imports_run_from_the_tools_down_to_the_core():
    wrong = [
        f"{name} imports {other}"
        for name in MODULES
        for other in sorted(_imported(name))
        if _layer(name) > _layer(other)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other():
    waiting = {name: _imported(name) for name in MODULES}
    while waiting:
        free = [name for name, needed in waiting.items() if not needed & set(waiting)]
        assert free, f"each of these imports another one of them: {', '.join(sorted(waiting))}"
        for name in free:
            del waiting[name]

"""The layers of the package."""

from __future__ import annotations

# From the top to the bottom; a module imports from its own layer and from those below. docs/contributing.md has the
# same order.
LAYERS = [
    ["tools"],
    ["cankd.__main__"],
    ["cankd.openmmlab.commands"],
    ["cankd.openmmlab.quickstart", "cankd.openmmlab.study"],
    ["cankd.openmmlab.report"],

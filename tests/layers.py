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
    ["cankd.openmmlab.doctor"],
    ["cankd.openmmlab.pairing", "cankd.openmmlab.teachers", "cankd.openmmlab.zoo_sweep"],
    [
        *("cankd.openmmlab.analysis", "cankd.openmmlab.visualization", "cankd.openmmlab.scenes"),
        *("cankd.openmmlab.datasets", "cankd.openmmlab.public_data"),
    ],
    ["cankd.openmmlab.engine"],
    ["cankd.openmmlab.algorithms"],
    ["cankd.openmmlab.inference", "cankd.openmmlab.loading"],
    [
        *("cankd.openmmlab.models", "cankd.openmmlab.checkpoint", "cankd.openmmlab.configs"),
        *("cankd.openmmlab.config_sources", "cankd.openmmlab.recording", "cankd.openmmlab.preprocessing"),
        *("cankd.openmmlab.connectors", "cankd.openmmlab.zoo", "cankd.openmmlab.maps", "cankd.openmmlab.derivation"),
    ],
    ["cankd.openmmlab.checkpoint_files", "cankd.openmmlab.distillers", "cankd.openmmlab.own_recipe"],
    ["cankd.openmmlab.own_data"],
    ["cankd.openmmlab.losses", "cankd.openmmlab.published"],
    ["cankd.openmmlab.compat", "cankd.openmmlab.statistics"],
    ["cankd.losses"],
    ["cankd.functional", "cankd.utils"],
]
